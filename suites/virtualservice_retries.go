// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// virtualServiceTries are the cases about when, where and how long it is tried again.
func virtualServiceTries() []Case {
	return []Case{
		virtualServiceRetryOn(), virtualServiceRetryConnect(), virtualServiceRetryBackoff(), virtualServiceRetryHosts(), virtualServiceRetryPriorities(),
		virtualServiceTimeoutOverTries(),
	}
}

func virtualServiceRetryOn() Case {
	twice := func(what string) []string { return []string{"first=2", what} }
	paths := []string{
		"/reset", "/reset", "/connect-only", "/gateway", "/gateway", "/5xx", "/5xx", "/5xx", "/4xx", "/4xx",
		"/codes", "/codes", "/grpc", "/grpc", "/default", "/default", "/unsaid", "/none",
	}
	table := []tried{
		{"reset when reset is listed", twice("close"), 200, 3},
		{"a status when reset is listed", twice("status=503"), 503, 1},
		{"reset when only a refused connection is listed", twice("close"), 503, 1},
		{"bad gateway as a gateway's error", twice("status=502"), 200, 3},
		{"a server's error that is no gateway's", twice("status=500"), 500, 1},
		{"any server's error", twice("status=500"), 200, 3},
		{"reset as a server's error", twice("close"), 200, 3},
		{"a client's error among server's", twice("status=409"), 409, 1},
		{"conflict as a client's error", twice("status=409"), 200, 3},
		{"a client's error that is for good", twice("status=404"), 404, 1},
		{"a status that is listed", twice("status=418"), 200, 3},
		{"a status that is not listed", twice("status=503"), 503, 1},
		{"gRPC's status that is listed", twice("header=grpc-status:8"), 200, 3},
		{"gRPC's status that is not listed", twice("header=grpc-status:14"), 200, 1},
		{"unavailable by default", []string{"first=3", "header=grpc-status:14"}, 200, 4},
		{"a status by default", twice("status=503"), 503, 1},
		{"unavailable without a policy", twice("header=grpc-status:14"), 200, 3},
		{"no attempts", twice("header=grpc-status:14"), 200, 1},
	}
	return Case{
		Name:    "VirtualService/RetryOn",
		Doc:     "A request is tried again for the reasons that its rule lists, or for the default ones, and for no other.",
		Fixture: "virtualservice/retry-on.yaml",
		Judged:  fmt.Sprintf("exact: %d kinds of request, what the client got and how often the one backend received each; no false alarm", len(table)),
		Covers:  []string{"VirtualService.spec.http[].retries.retryOn", "VirtualService.spec.http[].retries.attempts"},
		Check: func(ctx context.Context, e *Env) error {
			return checkTriesOf(ctx, e, table, func(i int) loadgen.Request { return e.URL(paths[i]) }, 0)
		},
		Controls: []Control{
			{
				Break: "VirtualService spec.http[0].retries.retryOn=5xx; VirtualService spec.http[1].retries.retryOn=reset",
				Fails: "a status when reset is listed: 200 after 3 tries instead of 503 after 1; bad gateway as a gateway's error: 502 after 1 tries instead of 200 after 3",
			},
			{
				Break: "VirtualService spec.http[2].retries.retryOn=gateway-error; VirtualService spec.http[3].retries.retryOn=5xx; VirtualService spec.http[4].retries.retryOn=\"503\"",
				Fails: "conflict as a client's error: 409 after 1 tries instead of 200 after 3; a status that is listed: 418 after 1 tries instead of 200 after 3",
			},
			{
				Break: "VirtualService spec.http[6].retries.attempts=1; VirtualService spec.http[7].retries={attempts: 1}",
				Fails: "unavailable by default: 200 after 2 tries instead of 200 after 4; unavailable without a policy: 200 after 2 tries instead of 200 after 3",
			},
		},
	}
}

func virtualServiceRetryConnect() Case {
	return changesCase(Case{
		Name:    "VirtualService/RetryConnect",
		Doc:     "A connection that is refused is tried again as often as the rule says when it lists that, and then answered by 503.",
		Fixture: "virtualservice/retry-connect.yaml",
		Covers:  []string{"VirtualService.spec.http[].retries.retryOn", "VirtualService.spec.http[].retries.attempts"},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].retries.retryOn=retriable-4xx", Fails: `listed: answer has X-Attempts "1" instead of "3"`},
			{Break: "VirtualService spec.http[0].retries.attempts=1", Fails: `listed: answer has X-Attempts "2" instead of "3"`},
			{Break: "VirtualService spec.http[1].retries.retryOn=connect-failure", Fails: `not listed: answer has X-Attempts "3" instead of "1"`},
		},
	}, func(e *Env) []changed {
		refused := func(name, path, attempts string) changed {
			return changed{name: name, request: e.URL(path), want: "503", answer: map[string]string{"X-Attempts": attempts}}
		}
		return []changed{refused("listed", "/listed", "3"), refused("not listed", "/other", "1")}
	})
}

func virtualServiceRetryBackoff() Case {
	const backoff, count = 2 * time.Second, 40
	low, _ := stats.BinomialRange(count, 0.5, routeAlpha)
	return Case{
		Name:    "VirtualService/RetryBackoff",
		Doc:     "Before the second try it waits a random time up to the rule's backoff, not up to the 25 ms of the default.",
		Fixture: "virtualservice/retry-backoff.yaml",
		Judged: fmt.Sprintf("of %d waits, uniform up to %s, at least %d are longer than half of that: exact binomial, alpha %g; a slow machine makes waits longer, never shorter",
			count, backoff, low, routeAlpha),
		Samples: []Sample{{Of: "waits longer than half the backoff", N: count, Alpha: routeAlpha, Power: 1, Shift: 0.5}},
		Covers:  []string{"VirtualService.spec.http[].retries.backoff"},
		Check: func(ctx context.Context, e *Env) error {
			prefix := e.Prefix()
			b := loadgen.Burst{Count: count, Connections: count, IDPrefix: prefix}
			for i := range count {
				b.Requests = append(b.Requests, e.Commanded(e.URL("/"), "status=503", "first=1", "key="+prefix+"-"+strconv.Itoa(i)))
			}
			xs, err := e.Gateway(ctx, b)
			if err != nil {
				return err
			}
			if err := all("tried again", xs, "200"); err != nil {
				return err
			}
			long := 0
			for _, x := range xs {
				if x.Latency >= backoff/2 {
					long++
				}
			}
			if long < low {
				return mismatch(fmt.Sprintf("at least %d of %d requests to wait %s or longer", low, count, backoff/2), "%d waits that long", long)
			}
			return nil
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].retries.backoff=", Fails: "waits that long"},
			{Break: "VirtualService spec.http[0].retries.backoff=0.2s", Fails: "waits that long"},
			{Break: "VirtualService spec.http[0].retries={attempts: 0}", Fails: "tried again: 200 on each of 40 requests, got 503 ×40"},
		},
	}
}

func virtualServiceRetryHosts() Case {
	// The hash picks a host; a further try takes up to five more picks until one has not been tried. That they all fall on the
	// same one of three has a chance of (1/3)^5, and less than stays however uneven the ring is.
	const count, most, stays = 20, 6, 0.02
	return Case{
		Name:    "VirtualService/RetryOtherHosts",
		Doc:     "Further tries go to hosts that have not failed yet, or stay with the host of the request's hash when the rule says so.",
		Fixture: "virtualservice/retry-other-hosts.yaml",
		Judged: fmt.Sprintf("exact for those that stay: %d requests, each tried three times at one pod; of %d others at most %d do so, which has a chance of %g at the most: alpha",
			count, count, most, stays),
		Samples: []Sample{{Of: "requests whose tries leave the first host", N: count, Alpha: routeAlpha, Power: 1, Shift: 1 - stays}},
		Covers:  []string{"VirtualService.spec.http[].retries.retryIgnorePreviousHosts"},
		Check: func(ctx context.Context, e *Env) error {
			stayed, err := staying(ctx, e, "/same", count)
			if err != nil {
				return err
			}
			if stayed != count {
				return mismatch(fmt.Sprintf("all of %d requests to stay at one pod", count), "%d that stay", stayed)
			}
			if stayed, err = staying(ctx, e, "/other", count); err != nil {
				return err
			}
			if stayed > most {
				return mismatch(fmt.Sprintf("at least %d of %d requests to be tried at another pod", count-most, count), "%d that stay", stayed)
			}
			return nil
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].retries.retryIgnorePreviousHosts=true", Fails: "all of 20 requests to stay at one pod"},
			{Break: "VirtualService spec.http[1].retries.retryIgnorePreviousHosts=false", Fails: "to be tried at another pod, got 20 that stay"},
			{Break: "VirtualService spec.http[1].retries.attempts=1", Fails: "tried 3 times, got 2"},
		},
	}
}

// staying sends requests that fail everywhere and counts those whose three tries all came to one pod.
func staying(ctx context.Context, e *Env, path string, count int) (int, error) {
	prefix := e.Prefix()
	b := loadgen.Burst{Count: count, Connections: 4, IDPrefix: prefix}
	for i := range count {
		b.Requests = append(b.Requests, with(e.Commanded(e.URL(path), "status=503"), "X-User", strconv.Itoa(i)))
	}
	xs, err := e.Gateway(ctx, b)
	if err != nil {
		return 0, err
	}
	if err := all("failing everywhere", xs, "503"); err != nil {
		return 0, err
	}
	pods, err := e.Pods(ctx, "app=echo,version=v1")
	if err != nil {
		return 0, err
	}
	seen, err := e.Seen(ctx, pods, prefix+"-")
	if err != nil {
		return 0, err
	}
	stayed := 0
	for i := range count {
		id, total := prefix+"-"+strconv.Itoa(i), 0
		for _, ids := range seen {
			total += ids[id]
			if ids[id] == 3 {
				stayed++
			}
		}
		if total != 3 {
			return 0, mismatch("request "+id+" tried 3 times", "%d", total)
		}
	}
	return stayed, nil
}

func virtualServiceRetryPriorities() Case {
	const count = 20
	return Case{
		Name:    "VirtualService/RetryRemoteLocalities",
		Doc:     "After two tries at the endpoints that come first, the next goes to those that come after them.",
		Fixture: "virtualservice/retry-priorities.yaml",
		Judged:  fmt.Sprintf("exact: each of %d requests fails twice at v1, which comes first, and is answered by v2 or v3 then; others stay at v1", count),
		Covers:  []string{"VirtualService.spec.http[].retries.retryRemoteLocalities"},
		Check: func(ctx context.Context, e *Env) error {
			prefix := e.Prefix()
			failing := e.Commanded(e.URL("/"), "status=503", "if-version=v1")
			xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{failing, e.URL("/")}, Count: 2 * count, Connections: 4, IDPrefix: prefix})
			if err != nil {
				return err
			}
			if err := all("tries", xs, "200"); err != nil {
				return err
			}
			seen, err := received(ctx, e, prefix)
			if err != nil {
				return err
			}
			for i := range 2 * count {
				at := seen[prefix+"-"+strconv.Itoa(i)]
				first, after := at["v1"], at["v2"]+at["v3"]
				if i%2 == 0 && (first != 2 || after != 1) {
					return mismatch("two tries at v1 and one elsewhere", "%s", counts(at))
				}
				if i%2 == 1 && (first != 1 || after != 0) {
					return mismatch("what does not fail only once at v1", "%s", counts(at))
				}
			}
			return nil
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].retries.retryRemoteLocalities=false", Fails: "tries: 200 on each of 40 requests, got 200 ×20, 503 ×20"},
			{Break: "VirtualService spec.http[0].retries.attempts=1", Fails: "tries: 200 on each of 40 requests, got 200 ×20, 503 ×20"},
			{Break: "DestinationRule spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority=[version=v2]", Fails: "got v"},
		},
	}
}

func virtualServiceTimeoutOverTries() Case {
	const timeout, most = time.Second, 3
	return Case{
		Name:    "VirtualService/TimeoutOverTries",
		Doc:     "The timeout of a rule is for all tries together: it ends a request that could be tried again.",
		Fixture: "virtualservice/timeout-over-tries.yaml",
		Judged: fmt.Sprintf("exact: a request whose tries of 0.4 s all fail ends not before %s, by the client's clock, and after at least 2 and at most %d of the five tries that it may have",
			timeout, most),
		Covers: []string{"VirtualService.spec.http[].timeout", "VirtualService.spec.http[].retries.perTryTimeout"},
		Check: func(ctx context.Context, e *Env) error {
			const count = 4
			prefix := e.Prefix()
			xs, err := e.Gateway(ctx, loadgen.Burst{
				Requests: []loadgen.Request{e.Commanded(e.URL("/"), "delay=9s")}, Count: count, Connections: count, IDPrefix: prefix,
			})
			if err != nil {
				return err
			}
			if err := all("slow requests", xs, "504"); err != nil {
				return err
			}
			if err := lasted("requests that time out", xs, timeout-early, loadgen.DefaultTimeout); err != nil {
				return err
			}
			seen, err := received(ctx, e, prefix)
			if err != nil {
				return err
			}
			for i := range count {
				if tries := sum(seen[prefix+"-"+strconv.Itoa(i)]); tries < 2 || tries > most {
					return mismatch(fmt.Sprintf("2 to %d tries", most), "%d tries", tries)
				}
			}
			return nil
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].timeout=", Fails: "2 to 3 tries, got 5 tries"},
			{Break: "VirtualService spec.http[0].timeout=0.5s", Fails: "want requests that time out to last"},
			{Break: "VirtualService spec.http[0].retries.perTryTimeout=", Fails: "2 to 3 tries, got 1 tries"},
		},
	}
}
