// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"slices"

	"harness.example/harness/loadgen"
)

// destinationRuleLimits are connection pools, outlier detection and protocol upgrades.
func destinationRuleLimits() []Case {
	return slices.Concat(poolOverflows(), poolLifetimes(), silences(), upstreamProtocols(), rawBytes(), outlierCases())
}

const (
	poolRequestsByRule, poolRequestsBySubset = 2, 3

	// poolTries are requests that may be tried again at the same time.
	poolTries = 3

	tcpConnections, tcpConnectionsTried = 3, 6
)

// poolOverflows are the cases about what a proxy refuses because it has too much of it already.
func poolOverflows() []Case {
	return []Case{
		{
			Name:    "DestinationRule/PoolRequests",
			Doc:     "Requests beyond those that may be under way are refused at once by the proxy, in HTTP/1.1 and HTTP/2.",
			Fixture: "destinationrule/pool-requests.yaml",
			Judged: fmt.Sprintf("exact: %d requests on one HTTP/2 connection while a backend takes %s for each: %d are answered in HTTP/1.1, %d in HTTP/2, the others are refused (503, x-envoy-overloaded); no false alarm",
				poolRequests, poolDelay, poolRequestsByRule, poolRequestsBySubset),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.connectionPool.http.http2MaxRequests",
				"DestinationRule.spec.subsets[].trafficPolicy.connectionPool.http.http2MaxRequests",
			},
			Check: func(ctx context.Context, e *Env) error {
				if err := overflows(ctx, e, "/rule", poolRequestsByRule); err != nil {
					return err
				}
				return overflows(ctx, e, "/subset", poolRequestsBySubset)
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.http2MaxRequests=4", Fails: "/rule: 4 were answered, 16 were refused"},
				{Break: "DestinationRule spec.subsets[1].trafficPolicy.connectionPool.http.http2MaxRequests=", Fails: "/subset: 20 were answered, 0 were refused"},
				{Break: "DestinationRule spec.subsets[1].trafficPolicy=", Fails: "/subset: 2 were answered, 18 were refused"},
			},
		},
		{
			Name:    "DestinationRule/PoolRetries",
			Doc:     "No more requests are tried again at the same time than the pool allows; the others fail with what they got.",
			Fixture: "destinationrule/pool-retries.yaml",
			Judged:  judgedByTries(),
			Covers:  []string{"DestinationRule.spec.trafficPolicy.connectionPool.http.maxRetries"},
			Check:   checkRetriesAtOnce,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.maxRetries=1", Fails: "got 1 of them"},
				{Break: "DestinationRule spec.trafficPolicy=", Fails: "got 20 of them"},
			},
		},
		{
			Name:    "DestinationRule/RetryBudget",
			Doc:     "No more requests are tried again at the same time than the budget allows.",
			Fixture: "destinationrule/retry-budget.yaml",
			Judged:  judgedByTries(),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.retryBudget.percent", "DestinationRule.spec.trafficPolicy.retryBudget.minRetryConcurrency",
			},
			Check: checkRetriesAtOnce,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.retryBudget.minRetryConcurrency=1", Fails: "got 1 of them"},
				{Break: "DestinationRule spec.trafficPolicy.retryBudget.percent=100", Fails: "want 3 of 20 requests"},
				{Break: "DestinationRule spec.trafficPolicy=", Fails: "got 20 of them"},
			},
		},
		{
			Name:    "DestinationRule/PoolTCPConnections",
			Doc:     "TCP connections beyond the limit are closed at once by the client's proxy, and those within it go on.",
			Fixture: "destinationrule/pool-tcp-connections.yaml",
			Mesh:    true,
			Judged: fmt.Sprintf("exact: of %d connections opened one after the other and kept, the first %d are greeted by a backend, then and when they are used again, and all others are closed without an answer; no false alarm",
				tcpConnectionsTried, tcpConnections),
			Covers: []string{"DestinationRule.spec.trafficPolicy.connectionPool.tcp.maxConnections"},
			Check:  checkTCPConnections,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.tcp.maxConnections=5", Fails: "got taken taken taken taken taken closed"},
				{Break: "DestinationRule spec.trafficPolicy=", Fails: "got taken taken taken taken taken taken"},
			},
		},
	}
}

// atOnce sends poolRequests requests over one HTTP/2 connection, and so to one of the proxy's workers, faster than any of
// them can be answered.
func atOnce(ctx context.Context, e *Env, name string, request loadgen.Request, prefix string) (*loadgen.Result, error) {
	request.Protocol = loadgen.H2C
	return e.Plan(ctx, name, e.Outside(), loadgen.Plan{
		Requests: []loadgen.Request{request}, Rate: poolRequests / (poolRequests * poolSpacing).Seconds(), Duration: poolRequests * poolSpacing,
		Connections: 1, MaxLag: poolLag, IDPrefix: prefix,
	})
}

// overflows judges that so many of poolRequests requests are answered, and the others refused as overflow.
func overflows(ctx context.Context, e *Env, path string, answers uint64) error {
	slow := e.Commanded(e.URL(path), "delay="+poolDelay.String())
	r, err := atOnce(ctx, e, "more at once than the pool takes", slow, "")
	if err != nil {
		return err
	}
	for _, x := range r.Failures { // all of them: a result keeps that many
		if x.Status != 503 || x.Header.Get("X-Envoy-Overloaded") != "true" {
			return &Mismatch{Want: "200, or 503 with x-envoy-overloaded", Got: describe(x), Exchanges: []loadgen.Exchange{x}}
		}
	}
	if r.OK != answers || r.HTTPErrors != poolRequests-answers {
		return mismatch(fmt.Sprintf("%d of %d requests answered, %d refused as overflow", answers, poolRequests, poolRequests-answers),
			"%s: %d were answered, %d were refused", path, r.OK, r.HTTPErrors)
	}
	return nil
}

func judgedByTries() string {
	return fmt.Sprintf("exact: %d requests at once on one HTTP/2 connection to a backend that takes %s to refuse each: it receives %d of them twice, since a second try holds its place for that long, and the others once; no false alarm",
		poolRequests, poolDelay, poolTries)
}

// checkRetriesAtOnce counts at the backend how often each request arrives.
func checkRetriesAtOnce(ctx context.Context, e *Env) error {
	prefix := e.Prefix()
	r, err := atOnce(ctx, e, "requests that all fail", e.Commanded(e.URL("/"), "delay="+poolDelay.String(), "status=503"), prefix)
	if err != nil {
		return err
	}
	for _, x := range r.Failures { // all of them: a result keeps that many
		if x.Status != 503 || pod(x) == "" {
			return &Mismatch{Want: "the backend's own 503", Got: describe(x), Exchanges: []loadgen.Exchange{x}}
		}
	}
	seen, err := received(ctx, e, prefix)
	if err != nil {
		return err
	}
	tries := map[int]int{}
	for _, at := range seen {
		tries[sum(at)]++
	}
	if tries[1]+tries[2] != poolRequests {
		return mismatch(fmt.Sprintf("%d requests tried once or twice", poolRequests), "%d tried once, %d twice", tries[1], tries[2])
	}
	if tries[2] != poolTries {
		return mismatch(fmt.Sprintf("%d of %d requests tried again", poolTries, poolRequests), "%d of them", tries[2])
	}
	return nil
}

func checkTCPConnections(ctx context.Context, e *Env) error {
	from, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{
		Requests: []loadgen.Request{tcpTo(e, "")}, Count: 2 * tcpConnectionsTried, Connections: tcpConnectionsTried, Policy: loadgen.RoundRobin,
	})
	if err != nil {
		return err
	}
	for i, half := range [][]loadgen.Exchange{xs[:tcpConnectionsTried], xs[tcpConnectionsTried:]} {
		want, got := "", ""
		for k, x := range half {
			switch {
			case x.ErrKind == loadgen.KindEOF || x.ErrKind == loadgen.KindReset:
				got += " closed"
			case x.ErrKind == "" && x.Reused == (i > 0):
				got += " taken"
			default:
				got += " " + outcomeOf(x)
			}
			if k < tcpConnections {
				want += " taken"
			} else {
				want += " closed"
			}
		}
		if got != want {
			return mismatch(fmt.Sprintf("%d TCP connections%s, round %d", tcpConnectionsTried, want, i+1), "%s", got[1:])
		}
	}
	return nil
}

// tcpTo is a line of TCP to the case's Service with the suffix.
func tcpTo(e *Env, suffix string) loadgen.Request {
	return loadgen.Request{URL: fmt.Sprintf("tcp://%s%s.%s:9000", e.Name(), suffix, e.Namespace()), Protocol: loadgen.TCP, Body: []byte("a line")}
}
