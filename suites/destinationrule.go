// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"slices"
	"time"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

const (
	turnEndpoints   = 3  // pods of v1
	turnConnections = 4  // one after the other
	turnPicks       = 12 // per connection

	// randomShift is the smallest deviation of an endpoint's third that matters.
	randomShift = 0.2

	hashKeys, hashRepeats = 40, 3

	// poolRequests are all sent, poolSpacing apart, while the first of them has its connection: a generator later than
	// poolLag could not tell, and is an error.
	poolRequests = 20
	poolAnswers  = 2 // maxConnections 1 and http1MaxPendingRequests 1
	poolDelay    = 800 * time.Millisecond
	poolSpacing  = 15 * time.Millisecond
	poolLag      = 250 * time.Millisecond
	// poolPrimes are sent before, one after the other on connections of their own, so that each of a few workers has its
	// connection to the backend: the request that waits for it to be made would take the one place to wait.
	poolPrimes = 40
)

func randomPicks() int { return stats.MultinomialPlan(thirds(), randomShift, routeAlpha, routePower) }

func thirds() []float64 { return slices.Repeat([]float64{1.0 / turnEndpoints}, turnEndpoints) }

func destinationRuleCases() []Case {
	return slices.Concat(destinationRulePlain(), destinationRuleBalance(), destinationRuleLimits(), destinationRuleTLS())
}

func destinationRulePlain() []Case {
	return []Case{
		{
			Name:    "DestinationRule/RoundRobin",
			Doc:     "ROUND_ROBIN gives every endpoint its turn.",
			Fixture: "destinationrule/round-robin.yaml",
			Judged: fmt.Sprintf("exact: a kept connection is one Envoy worker with turns of its own, so any %d picks in a row are distinct; %d connections of %d requests, no false alarm; random picks look so with probability %.1g",
				turnEndpoints, turnConnections, turnPicks, stats.CycleChance(turnPicks, turnEndpoints)),
			Covers: []string{"DestinationRule.spec.trafficPolicy.loadBalancer.simple=ROUND_ROBIN", "DestinationRule.spec.subsets[].labels{}"},
			Check:  checkTurns,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.simple=RANDOM", Fails: "not a cycle"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.simple=LEAST_REQUEST", Fails: "not a cycle"},
				{Break: "DestinationRule spec.subsets[0].labels.version=v2", Fails: "not a cycle"},
			},
		},
		{
			Name:    "DestinationRule/Random",
			Doc:     "RANDOM draws an endpoint for each request, every one with the same chance.",
			Fixture: "destinationrule/random.yaml",
			Judged: fmt.Sprintf("%d picks on one connection: each endpoint's count within its exact range (multinomial, alpha %g), and no cycle (probability %.1g)",
				randomPicks(), routeAlpha, stats.CycleChance(randomPicks(), turnEndpoints)),
			Samples: []Sample{{Of: "picks of each endpoint", N: randomPicks(), Alpha: routeAlpha, Power: routePower, Shift: randomShift}},
			Covers:  []string{"DestinationRule.spec.trafficPolicy.loadBalancer.simple=RANDOM"},
			Check:   checkRandom,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.simple=ROUND_ROBIN", Fails: "they take turns"},
				{Break: "DestinationRule spec.subsets[0].labels.version=v2", Fails: "endpoints answered"},
			},
		},
		{
			Name:    "DestinationRule/ConsistentHashHeader",
			Doc:     "The value of a header picks the endpoint: the same value the same one, other values others.",
			Fixture: "destinationrule/consistent-hash.yaml",
			Judged: fmt.Sprintf("exact: each of %d values %d times on fresh connections, always to one endpoint; all %d endpoints are used",
				hashKeys, hashRepeats, turnEndpoints),
			Covers: []string{"DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.httpHeaderName"},
			Check:  checkConsistentHash,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer={simple: ROUND_ROBIN}", Fails: "does not stick"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpHeaderName=x-other", Fails: "does not stick"},
				{Break: "DestinationRule spec.subsets[0].labels.version=v2", Fails: "endpoints are used"},
			},
		},
		{
			Name:    "DestinationRule/ConnectionPool",
			Doc:     "Requests beyond the connection and the one that may wait are refused at once by the proxy.",
			Fixture: "destinationrule/connection-pool.yaml",
			Judged: fmt.Sprintf("exact: %d requests on one HTTP/2 connection, and so in one Envoy worker, while a backend takes %s for each: one has the connection, one waits, %d are refused (503, x-envoy-overloaded); no false alarm. (Workers may hold one connection each, whatever the limit: several would blur it.)",
				poolRequests, poolDelay, poolRequests-poolAnswers),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.connectionPool.tcp.maxConnections",
				"DestinationRule.spec.trafficPolicy.connectionPool.http.http1MaxPendingRequests",
			},
			Check: func(ctx context.Context, e *Env) error {
				if _, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: poolPrimes, Policy: loadgen.Fresh}); err != nil {
					return err
				}
				return overflows(ctx, e, "/", poolAnswers)
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy={loadBalancer: {simple: ROUND_ROBIN}}", Fails: "20 were answered, 0 were refused"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.tcp.maxConnections=100", Fails: "want 2 of 20 requests answered"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.http1MaxPendingRequests=3", Fails: "4 were answered, 16 were refused"},
			},
		},
		leastRequest(),
		{
			Name:    "DestinationRule/SubsetPolicy",
			Doc:     "A subset's own traffic policy wins over the rule's.",
			Fixture: "destinationrule/subset-policy.yaml",
			Judged: fmt.Sprintf("exact: the subset takes turns although the rule says RANDOM; any %d picks in a row are distinct on each of %d connections; random picks look so with probability %.1g",
				turnEndpoints, turnConnections, stats.CycleChance(turnPicks, turnEndpoints)),
			Covers: []string{"DestinationRule.spec.subsets[].trafficPolicy.loadBalancer.simple"},
			Check:  checkTurns,
			Controls: []Control{
				{Break: "DestinationRule spec.subsets[0].trafficPolicy=", Fails: "not a cycle"},
				{Break: "DestinationRule spec.subsets[0].trafficPolicy.loadBalancer.simple=RANDOM", Fails: "not a cycle"},
			},
		},
		outlierEjection(),
	}
}

// checkTurns judges several connections, one after the other: each is one Envoy worker with turns of its own.
func checkTurns(ctx context.Context, e *Env) error {
	for c := range turnConnections {
		picks, err := picksOn(ctx, e, turnPicks)
		if err != nil {
			return err
		}
		if err := stats.Cycle(picks, turnEndpoints, 1); err != nil {
			return &Mismatch{
				Want: fmt.Sprintf("a cycle over %d endpoints on connection %d", turnEndpoints, c+1), Got: err.Error(),
				Distribution: turns(picks),
			}
		}
	}
	return nil
}

// picksOn sends requests over one kept connection, one after the other, and returns who answered.
func picksOn(ctx context.Context, e *Env, count int) ([]string, error) {
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: count})
	if err != nil {
		return nil, err
	}
	if err := all("one connection", xs, "200"); err != nil {
		return nil, err
	}
	picks := make([]string, len(xs))
	for i, x := range xs {
		if x.Conn != xs[0].Conn {
			return nil, fmt.Errorf("request %d went over another connection: turns cannot be judged", i)
		}
		picks[i] = pod(x)
	}
	return picks, nil
}

func turns(picks []string) []Bar {
	counts := map[string]int{}
	for _, p := range picks {
		counts[p]++
	}
	share := float64(len(picks)) / turnEndpoints
	var bars []Bar
	for _, name := range sortedKeys(counts) {
		bars = append(bars, Bar{Name: name, Count: float64(counts[name]), Expected: share, Low: float64(int(share)), High: float64(int(share))})
	}
	return bars
}

func checkRandom(ctx context.Context, e *Env) error {
	picks, err := picksOn(ctx, e, randomPicks())
	if err != nil {
		return err
	}
	counts := map[string]int{}
	for _, p := range picks {
		counts[p]++
	}
	want := fmt.Sprintf("%d random picks of %d endpoints", randomPicks(), turnEndpoints)
	if len(counts) != turnEndpoints {
		return mismatch(want, "%d endpoints answered", len(counts))
	}
	if stats.Cycle(picks, turnEndpoints, 1) == nil {
		return mismatch(want, "they take turns")
	}
	ranges := stats.MultinomialRanges(len(picks), thirds(), routeAlpha)
	var bars []Bar
	outside := false
	for i, name := range sortedKeys(counts) {
		r := ranges[i]
		outside = outside || !r.Contains(counts[name])
		bars = append(bars, Bar{Name: name, Count: float64(counts[name]), Low: float64(r.Low), High: float64(r.High), Expected: float64(len(picks)) / turnEndpoints})
	}
	if outside {
		return &Mismatch{Want: want, Got: "a count out of its range", Distribution: bars}
	}
	return nil
}

func checkConsistentHash(ctx context.Context, e *Env) error {
	var requests []loadgen.Request
	for key := range hashKeys {
		request := e.URL("/")
		request.Header = map[string][]string{"X-User": {fmt.Sprintf("user-%d", key)}}
		requests = append(requests, request)
	}
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: requests, Count: hashKeys * hashRepeats, Policy: loadgen.Fresh, Connections: 4})
	if err != nil {
		return err
	}
	if err := all("hashed requests", xs, "200"); err != nil {
		return err
	}
	byKey, used := map[int]string{}, map[string]int{}
	for _, x := range xs {
		key := x.Seq % hashKeys
		if first, seen := byKey[key]; seen && first != pod(x) {
			return mismatch("each value of x-user at one endpoint", "user-%d does not stick: %s, then %s", key, first, pod(x))
		}
		byKey[key] = pod(x)
		used[pod(x)]++
	}
	if len(used) != turnEndpoints {
		return mismatch(fmt.Sprintf("%d values spread over %d endpoints", hashKeys, turnEndpoints), "%d endpoints are used: %s", len(used), counts(used))
	}
	return nil
}
