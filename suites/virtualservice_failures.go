// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"harness.example/harness/loadgen"
)

// virtualServiceFailures are the cases about failing and slow requests: retries, timeouts and faults.
func virtualServiceFailures() []Case {
	return []Case{
		virtualServiceRetries(), virtualServicePerTryTimeout(), virtualServiceTimeout(), virtualServiceFaultAbort(), virtualServiceFaultDelay(),
	}
}

// tried is a request and how it must end.
type tried struct {
	name     string
	commands []string // for the backend
	status   int      // what the client gets
	tries    int      // how often it reaches a backend
}

func virtualServiceRetries() Case {
	table := []tried{
		{"an unlisted status", []string{"status=500"}, 500, 1},
		{"success at once", []string{"status=200"}, 200, 1},
		{"two failures", []string{"first=2", "status=503"}, 200, 3},
		{"nothing but failures", []string{"first=5", "status=503"}, 503, 3},
	}
	return Case{
		Name:    "VirtualService/Retries",
		Doc:     "A request that fails with a listed status is tried again, as often as attempts says and no more, and one with another status is not.",
		Fixture: "virtualservice/retries.yaml",
		Judged:  fmt.Sprintf("exact: %d kinds of request, what the client got and how often the one backend received each; no false alarm", len(table)),
		Covers:  []string{"VirtualService.spec.http[].retries.attempts", "VirtualService.spec.http[].retries.retryOn"},
		Check:   func(ctx context.Context, e *Env) error { return checkTries(ctx, e, table, 0) },
		Controls: []Control{
			{Break: "VirtualService spec.http[0].retries={attempts: 0}", Fails: "two failures: 503 after 1 tries instead of 200 after 3"},
			{Break: "VirtualService spec.http[0].retries.attempts=1", Fails: "two failures: 503 after 2 tries instead of 200 after 3"},
			{Break: `VirtualService spec.http[0].retries.retryOn="500"`, Fails: "an unlisted status: 500 after 3 tries instead of 500 after 1"},
			{Break: "VirtualService spec.http[0].retries.attempts=5", Fails: "nothing but failures: 200 after 6 tries instead of 503 after 3"},
		},
	}
}

func virtualServicePerTryTimeout() Case {
	table := []tried{
		{"a slow first try", []string{"first=1", "delay=2s"}, 200, 2},
		{"slow tries only", []string{"first=2", "delay=2s"}, 504, 2},
	}
	return Case{
		Name:    "VirtualService/PerTryTimeout",
		Doc:     "A try that takes longer than its own timeout is given up and the request tried again.",
		Fixture: "virtualservice/per-try-timeout.yaml",
		Judged:  fmt.Sprintf("exact: %d kinds of request, what the client got and how often the one backend received each; a slow try takes four times what is allowed", len(table)),
		Covers:  []string{"VirtualService.spec.http[].retries.perTryTimeout", "VirtualService.spec.http[].retries.attempts"},
		Check:   func(ctx context.Context, e *Env) error { return checkTries(ctx, e, table, 1900*time.Millisecond) },
		Controls: []Control{
			{Break: "VirtualService spec.http[0].retries.perTryTimeout=5s", Fails: "a slow first try: 200 after 1 tries instead of 200 after 2"},
			{Break: "VirtualService spec.http[0].retries.attempts=0", Fails: "a slow first try: 200 after 1 tries instead of 200 after 2"},
		},
	}
}

// checkTries sends each request of the table once, by itself, and judges how it ended, how often it was tried and, unless
// zero, that it took no longer than within.
func checkTries(ctx context.Context, e *Env, table []tried, within time.Duration) error {
	return checkTriesOf(ctx, e, table, func(int) loadgen.Request { return e.URL("/") }, within)
}

// checkTriesOf is checkTries of any requests.
func checkTriesOf(ctx context.Context, e *Env, table []tried, request func(row int) loadgen.Request, within time.Duration) error {
	prefix := e.Prefix()
	b := loadgen.Burst{Count: len(table), Policy: loadgen.RoundRobin, IDPrefix: prefix}
	for i, t := range table {
		commands := t.commands
		if strings.HasPrefix(commands[0], "first=") {
			commands = append(slices.Clone(commands), "key="+prefix+"-"+strconv.Itoa(i))
		}
		b.Requests = append(b.Requests, e.Commanded(request(i), commands...))
	}
	xs, err := e.Gateway(ctx, b)
	if err != nil {
		return err
	}
	seen, err := received(ctx, e, prefix)
	if err != nil {
		return err
	}
	m := mismatch("each request answered and tried as often as it should be", "")
	for i, t := range table {
		x, tries := xs[i], sum(seen[prefix+"-"+strconv.Itoa(i)])
		if got, want := outcomeOf(x), strconv.Itoa(t.status); got != want || tries != t.tries {
			m.Got += fmt.Sprintf("; %s: %s after %d tries instead of %s after %d", t.name, got, tries, want, t.tries)
			m.Exchanges = append(m.Exchanges, x)
		} else if within > 0 && x.Latency > within {
			m.Got += fmt.Sprintf("; %s: %s although %s was expected", t.name, x.Latency, within)
			m.Exchanges = append(m.Exchanges, x)
		}
	}
	if m.Got == "" {
		return nil
	}
	m.Got = m.Got[2:]
	return m
}

func virtualServiceTimeout() Case {
	const timeout, slow, count = time.Second, 2500 * time.Millisecond, 4
	return Case{
		Name:    "VirtualService/Timeout",
		Doc:     "A request that is not answered within its timeout is answered by 504, not before that time and before the backend would have answered.",
		Fixture: "virtualservice/timeout.yaml",
		Judged:  fmt.Sprintf("exact: %d requests to a backend that takes %s end at %s, by the clock of the client; %d others are answered", count, slow, timeout, count),
		Covers:  []string{"VirtualService.spec.http[].timeout"},
		Check: func(ctx context.Context, e *Env) error {
			xs, err := e.Gateway(ctx, loadgen.Burst{
				Requests: []loadgen.Request{e.Commanded(e.URL("/"), "delay="+slow.String()), e.URL("/")}, Count: 2 * count, Connections: 2 * count,
			})
			if err != nil {
				return err
			}
			var slowly, others []loadgen.Exchange
			for _, x := range xs {
				if x.Seq%2 == 0 {
					slowly = append(slowly, x)
				} else {
					others = append(others, x)
				}
			}
			if err := all("slow requests", slowly, "504"); err != nil {
				return err
			}
			if err := lasted("requests that time out", slowly, timeout-early, slow); err != nil {
				return err
			}
			return all("other requests", others, "200")
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].timeout=", Fails: "slow requests: 504 on each of 4 requests, got 200 ×4"},
			{Break: "VirtualService spec.http[0].timeout=0.3s", Fails: "requests that time out to last"},
		},
	}
}

// early is what timers of different clocks may differ by.
const early = 50 * time.Millisecond

// lasted judges that each exchange took at least low and less than high.
func lasted(what string, xs []loadgen.Exchange, low, high time.Duration) error {
	for _, x := range xs {
		if x.Latency < low || x.Latency >= high {
			return &Mismatch{
				Want: fmt.Sprintf("%s to last from %s to %s", what, low, high), Got: x.Latency.String(), Exchanges: []loadgen.Exchange{x}, Detail: describe(x),
			}
		}
	}
	return nil
}

func virtualServiceFaultAbort() Case {
	const part, shift, exact = 0.3, 0.15, 40
	shares := []share{{"429", part}, {"200", 1 - part}}
	count := splitCount(shares, shift)
	return Case{
		Name:    "VirtualService/FaultAbort",
		Doc:     "An abort of 100 percent answers every request without the backend, one of 30 percent so many of them, and one for another path none.",
		Fixture: "virtualservice/fault-abort.yaml",
		Judged:  fmt.Sprintf("exact for 100 percent and for none, %d requests each, counted at the backends too; for 30 percent %s", exact, judgedBySplit(shares, shift)),
		Samples: []Sample{splitSample(shares, shift)},
		Covers:  []string{"VirtualService.spec.http[].fault.abort.httpStatus", "VirtualService.spec.http[].fault.abort.percentage.value"},
		Check: func(ctx context.Context, e *Env) error {
			prefix := e.Prefix()
			xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/always")}, Count: exact, Connections: 4, IDPrefix: prefix})
			if err != nil {
				return err
			}
			if err := all("always", xs, "418"); err != nil {
				return err
			}
			seen, err := received(ctx, e, prefix)
			if err != nil {
				return err
			}
			if len(seen) > 0 {
				return mismatch("no aborted request at a backend", "%d of %d", len(seen), exact)
			}
			if xs, err = burst(ctx, e, "/never", exact); err != nil {
				return err
			}
			if err := all("never", xs, "200"); err != nil {
				return err
			}
			if xs, err = burst(ctx, e, "/sometimes", count); err != nil {
				return err
			}
			return splitsBy(xs, outcomeOf, shares)
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].fault=", Fails: "always: 418 on each of 40 requests, got 200 ×40"},
			{Break: "VirtualService spec.http[0].fault.abort.httpStatus=503", Fails: "always: 418 on each of 40 requests, got 503 ×40"},
			{Break: "VirtualService spec.http[0].match[0].uri.prefix=/", Fails: "never: 200 on each of 40 requests, got 418 ×40"},
			{Break: "VirtualService spec.http[1].fault.abort.percentage.value=70", Fails: "too many of 429"},
		},
	}
}

func virtualServiceFaultDelay() Case {
	const delay, count = 700 * time.Millisecond, 8
	return Case{
		Name:    "VirtualService/FaultDelay",
		Doc:     "A delay of 100 percent makes every request of its path take at least its time, and no request of another path.",
		Fixture: "virtualservice/fault-delay.yaml",
		Judged:  fmt.Sprintf("exact: %d requests last at least %s by the client's clock, and the quickest of %d others less than half of that", count, delay, count),
		Covers:  []string{"VirtualService.spec.http[].fault.delay.fixedDelay", "VirtualService.spec.http[].fault.delay.percentage.value"},
		Check: func(ctx context.Context, e *Env) error {
			slow, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/slow")}, Count: count, Connections: count})
			if err != nil {
				return err
			}
			if err := all("slow", slow, "200"); err != nil {
				return err
			}
			quick, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/quick")}, Count: count})
			if err != nil {
				return err
			}
			if err := all("quick", quick, "200"); err != nil {
				return err
			}
			if err := lasted("delayed requests", slow, delay-early, loadgen.DefaultTimeout); err != nil {
				return err
			}
			quickest := slices.MinFunc(quick, func(a, b loadgen.Exchange) int { return int(a.Latency - b.Latency) })
			return lasted("the quickest of the others", []loadgen.Exchange{quickest}, 0, delay/2)
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].fault=", Fails: "want delayed requests to last"},
			{Break: "VirtualService spec.http[0].fault.delay.fixedDelay=0.1s", Fails: "want delayed requests to last"},
			{Break: "VirtualService spec.http[0].match[0].uri.prefix=/", Fails: "want the quickest of the others to last"},
		},
	}
}
