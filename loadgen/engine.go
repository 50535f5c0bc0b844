// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// This file is the only one that knows vegeta. vegeta runs the workers and stamps the time at which each one takes its
// request up; when a request is due, which connection carries it, what is counted and when it all ends is decided here:
//
//   - one Attacker for one run, since a used one is spent and says so by ending early at 100 % success;
//   - its Pacer waits by itself and returns 0, since vegeta would sleep a whole millisecond for less than one;
//   - it gets no duration, since at the end of one it drops what was not sent without a word;
//   - its client's transport hands each request to the pool, which dials, times out (vegeta knows no ctx) and never retries;
//   - its results are read to the end in any case, since an unread one blocks its worker for ever.

// A run is one Plan being carried out.
type run struct {
	plan     Plan
	schedule schedule
	pool     *pool
	ctx      context.Context //nolint:containedctx // of the run: vegeta's requests have none
	// exchanges has at k what request k came to, from RoundTrip until it is counted.
	exchanges []atomic.Pointer[Exchange]
}

// attack carries the plan out and counts.
func (r *run) attack(ctx context.Context) *Result {
	r.ctx = ctx
	r.exchanges = make([]atomic.Pointer[Exchange], r.schedule.total)
	inflight := uint64(r.plan.MaxInflight)
	if inflight == 0 {
		inflight = uint64(min(max(r.plan.Rate/float64(r.schedule.of)*r.pool.timeout.Seconds(), 256), 16384))
	}
	attacker := vegeta.NewAttacker(
		vegeta.Client(&http.Client{Transport: r}),
		vegeta.Workers(min(inflight, 16)),
		vegeta.MaxWorkers(inflight))

	grace := r.plan.MaxLag
	if grace == 0 {
		grace = defaultGrace
	}
	last := r.schedule.start.Add(r.plan.Warmup + r.plan.Duration + grace)
	// Without these the dispatcher would wait for a free worker beyond the end, or beyond ctx.
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	timer := time.AfterFunc(time.Until(last), func() { attacker.Stop() })
	defer timer.Stop()

	before := readUsage()
	t := tally{schedule: r.schedule, result: newResult(), seconds: map[int]*Second{}}
	sent := 0
	for hit := range attacker.Attack(placeholder, &pacer{ctx: ctx, schedule: r.schedule, last: last}, 0, "") {
		if x := r.exchanges[hit.Seq].Swap(nil); x != nil {
			t.hit(hit, x)
		}
		sent++
	}
	end := time.Now()
	for k := sent; k < r.schedule.total; k++ {
		t.unsent(k, end)
	}
	return t.finish(end, before, r.plan)
}

// placeholder is the target that vegeta asks for; what is sent instead is decided by the number it gives the request.
func placeholder(t *vegeta.Target) error {
	t.Method, t.URL = http.MethodGet, "http://pool/"
	return nil
}

// RoundTrip carries out the request whose number vegeta has put into its header. The answer it returns is only to satisfy vegeta.
func (r *run) RoundTrip(req *http.Request) (*http.Response, error) {
	k, err := strconv.Atoi(req.Header.Get("X-Vegeta-Seq"))
	if err == nil && k >= 0 && k < len(r.exchanges) {
		x := r.pool.do(r.ctx, k, r.schedule.global(k))
		r.exchanges[k].Store(&x)
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
}

// A pacer lets vegeta send when the schedule says so.
type pacer struct {
	ctx      context.Context //nolint:containedctx // vegeta.Pacer has none
	schedule schedule
	last     time.Time // nothing is sent after it
}

// Pace waits until the next request is due.
func (p *pacer) Pace(_ time.Duration, hits uint64) (wait time.Duration, stop bool) {
	if hits >= uint64(p.schedule.total) || time.Now().After(p.last) {
		return 0, true
	}
	return 0, !waitUntil(p.ctx, p.schedule.at(int(hits)))
}

// Rate is part of vegeta's interface; only its plots ask for it.
func (p *pacer) Rate(time.Duration) float64 { return p.schedule.rate / float64(p.schedule.of) }

const (
	coarse = 2 * time.Millisecond  // Go's timers may be this late
	fine   = 80 * time.Microsecond // the kernel's sleep may be this late
)

// waitUntil waits for due with a precision of some microseconds, at a cost of about fine of CPU time, and reports whether ctx
// is still on.
func waitUntil(ctx context.Context, due time.Time) bool {
	if left := time.Until(due); left > coarse {
		if !pause(ctx, left-coarse) {
			return false
		}
	}
	for left := time.Until(due); left > 0; left = time.Until(due) {
		if left > fine {
			preciseSleep(left - fine)
		} else {
			runtime.Gosched()
		}
	}
	return ctx.Err() == nil
}

// A tally counts one run's requests. One goroutine uses it.
type tally struct {
	schedule schedule
	result   *Result
	seconds  map[int]*Second
}

func (t *tally) second(k int) *Second {
	at := t.schedule.second(k)
	s := t.seconds[at]
	if s == nil {
		s = &Second{At: at, Slice: newSlice()}
		t.seconds[at] = s
	}
	return s
}

func (t *tally) hit(hit *vegeta.Result, x *Exchange) {
	k := int(hit.Seq)
	due := t.schedule.at(k)
	// Two workers may take up neighbouring requests in the other order: one is then early by that little.
	lag := max(hit.Timestamp.Sub(due), 0)
	response := max(hit.Timestamp.Add(hit.Latency).Sub(due), 0)
	class := classOf(x)
	t.second(k).sent(class, x.Latency, response, lag)
	if class != ClassOK && len(t.result.Failures) < keptFailures {
		t.result.Failures = append(t.result.Failures, *x)
	}
	if k < t.schedule.warm {
		return
	}
	r := t.result
	r.sent(class, x.Latency, response, lag)
	switch {
	case x.ErrKind != "":
		r.Codes[x.ErrKind]++
	case x.Status != 0:
		r.Codes[strconv.Itoa(x.Status)]++
	}
	if pod := x.Header.Get("X-Echo-Pod"); pod != "" {
		r.Backends[pod]++
	}
	if version := x.Header.Get("X-Echo-Version"); version != "" {
		r.Versions[version]++
	}
}

func classOf(x *Exchange) Class {
	switch {
	case x.ErrKind == KindTimeout || x.ErrKind == KindDialTimeout:
		return ClassTimeout
	case x.ErrKind != "":
		return ClassTransport
	case x.Status >= http.StatusBadRequest:
		return ClassHTTP
	}
	return ClassOK
}

func (t *tally) unsent(k int, end time.Time) {
	waited := end.Sub(t.schedule.at(k))
	t.second(k).unsent(waited)
	if k >= t.schedule.warm {
		t.result.unsent(waited)
	}
}

func (t *tally) finish(end time.Time, before usage, p Plan) *Result {
	r := t.result
	for _, at := range slices.Sorted(maps.Keys(t.seconds)) {
		r.Seconds = append(r.Seconds, *t.seconds[at])
	}
	r.Start, r.End = t.schedule.start.Add(t.schedule.warmup), end
	after := readUsage()
	r.Generator = Generator{CPUSeconds: after.cpu - before.cpu, GOMAXPROCS: runtime.GOMAXPROCS(0), Throttled: after.throttled - before.throttled}
	r.judge(p.MaxLag, p.SLO)
	return r
}
