// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"maps"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
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
	free     chan int        // of a closed loop: the connections without a request

	mu       sync.Mutex
	tickets  []*ticket
	unissued []*ticket
}

// A ticket carries what a request came to past vegeta, from RoundTrip until it is counted. Its answer's status code, which
// vegeta hands on, is its number.
type ticket struct {
	answer   http.Response
	exchange Exchange
}

// firstTicket is beyond every code that net/http acts upon, and maxTickets within what vegeta keeps of a code.
const (
	firstTicket = 1000
	maxTickets  = 60_000
)

func (r *run) issue() *ticket {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.unissued); n > 0 {
		t := r.unissued[n-1]
		r.unissued = r.unissued[:n-1]
		return t
	}
	t := &ticket{answer: http.Response{StatusCode: firstTicket + len(r.tickets), Body: http.NoBody}}
	r.tickets = append(r.tickets, t)
	return t
}

func (r *run) ticket(code uint16) *ticket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tickets[code-firstTicket]
}

func (r *run) redeem(t *ticket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unissued = append(r.unissued, t)
}

// attack carries the plan out and counts.
func (r *run) attack(ctx context.Context) *Result {
	r.ctx = ctx
	attacker := vegeta.NewAttacker(
		vegeta.Client(&http.Client{Transport: r}),
		vegeta.Workers(min(r.inflight(), 16)),
		vegeta.MaxWorkers(r.inflight()))

	last := r.schedule.start.Add(r.plan.Warmup + r.plan.Duration)
	if !r.plan.Closed {
		last = last.Add(max(r.plan.MaxLag, defaultGrace))
	}
	// Without these the dispatcher would wait for a free worker beyond the end, or beyond ctx.
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	timer := time.AfterFunc(time.Until(last), func() { attacker.Stop() })
	defer timer.Stop()

	clock := newClock()
	defer clock.close()
	before := readUsage()
	t := newTally(r.schedule, last)
	sent := 0
	for hit := range attacker.Attack(placeholder, &pacer{ctx: ctx, schedule: r.schedule, clock: clock, last: last}, 0, "") {
		ticket := r.ticket(hit.Code)
		t.hit(hit, &ticket.exchange)
		r.redeem(ticket)
		sent++
	}
	end := time.Now()
	for k := sent; k < r.schedule.total; k++ {
		t.unsent(k, end)
	}
	return t.finish(end, before, r.plan)
}

// inflight is how many requests may be under way.
func (r *run) inflight() uint64 {
	switch {
	case r.plan.Closed:
		return uint64(r.pool.connections)
	case r.plan.MaxInflight > 0:
		return uint64(r.plan.MaxInflight)
	}
	return uint64(min(max(r.plan.Rate/float64(r.schedule.of)*r.pool.timeout.Seconds(), 256), 16384))
}

// placeholder is the target that vegeta asks for; what is sent instead is decided by the number it gives the request.
func placeholder(t *vegeta.Target) error {
	t.Method, t.URL = http.MethodGet, "http://pool/"
	return nil
}

// RoundTrip carries out the request whose number vegeta has put into its header. The answer it returns is a ticket.
func (r *run) RoundTrip(req *http.Request) (*http.Response, error) {
	k, err := strconv.Atoi(req.Header.Get("X-Vegeta-Seq"))
	if err != nil {
		return nil, err // vegeta writes a number
	}
	n := k
	if r.free != nil {
		n = <-r.free // there are as many as workers
		defer func() { r.free <- n }()
	}
	t := r.issue()
	t.exchange = r.pool.do(r.ctx, n, r.schedule.global(k))
	return &t.answer, nil
}

// A pacer lets vegeta send when the schedule says so.
type pacer struct {
	ctx      context.Context //nolint:containedctx // vegeta.Pacer has none
	schedule schedule
	clock    clock
	last     time.Time // nothing is sent after it
}

// Pace waits until the next request is due.
func (p *pacer) Pace(_ time.Duration, hits uint64) (wait time.Duration, stop bool) {
	if p.schedule.closed {
		return 0, time.Now().After(p.last) || p.ctx.Err() != nil || hits == 0 && !p.clock.waitUntil(p.ctx, p.schedule.start, together)
	}
	if hits >= uint64(p.schedule.total) || time.Now().After(p.last) {
		return 0, true
	}
	return 0, !p.clock.waitUntil(p.ctx, p.schedule.at(int(hits)), p.schedule.interval())
}

// Rate is part of vegeta's interface; only its plots ask for it.
func (p *pacer) Rate(time.Duration) float64 { return p.schedule.rate / float64(p.schedule.of) }

const (
	coarse = 2 * time.Millisecond // Go's timers may be this late
	fine   = 5 * time.Microsecond // less is not worth a wait
	// Above ten thousand requests a second, those due within this time are sent together: each wait costs as much as a request.
	together = 100 * time.Microsecond
)

// waitUntil waits for due with a precision of some microseconds, or of together when the next one is due every interval and that
// is less, and reports whether ctx is still on.
func (c clock) waitUntil(ctx context.Context, due time.Time, interval time.Duration) bool {
	if left := time.Until(due); left > coarse && !pause(ctx, left-coarse) {
		return false
	}
	for left := time.Until(due); left > fine; left = time.Until(due) {
		c.sleep(left + max(together-interval, 0))
	}
	return ctx.Err() == nil
}

// A tally counts one run's requests. One goroutine uses it. Each is counted once, in its second; the seconds make the totals.
type tally struct {
	schedule schedule
	result   *Result
	seconds  map[int]*Second
	newest   *Second   // the second counted last
	last     time.Time // a request that has its connection after it is late
	codes    [600]uint64
}

func newTally(s schedule, last time.Time) *tally {
	return &tally{schedule: s, last: last, result: newResult(), seconds: map[int]*Second{}, newest: &Second{At: math.MinInt}}
}

func (t *tally) second(at int) *Second {
	if t.newest.At != at {
		if t.seconds[at] == nil {
			t.seconds[at] = &Second{At: at, Slice: newSlice()}
		}
		t.newest = t.seconds[at]
	}
	return t.newest
}

func (t *tally) hit(hit *vegeta.Result, x *Exchange) {
	k := int(hit.Seq)
	due := hit.Timestamp
	if !t.schedule.closed {
		due = t.schedule.at(k)
	}
	at := t.schedule.second(k, due)
	// Two workers may take up neighbouring requests in the other order: one is then early by that little.
	lag := max(hit.Timestamp.Sub(due), 0)
	response := max(hit.Timestamp.Add(hit.Latency).Sub(due), 0)
	class := classOf(x)
	t.second(at).sent(class, x.Latency, response, lag)
	if class != ClassOK && len(t.result.Failures) < keptFailures {
		t.result.Failures = append(t.result.Failures, *x)
	}
	if at < 0 {
		return
	}
	r := t.result
	if !t.schedule.closed && x.Start.After(t.last) {
		r.Late++
	}
	switch {
	case x.ErrKind != "":
		r.Codes[x.ErrKind]++
	case x.Status > 0 && x.Status < len(t.codes):
		t.codes[x.Status]++
	case x.Status != 0:
		r.Codes[strconv.Itoa(x.Status)]++
	}
	pod, version := x.pod, x.version
	if x.Header != nil {
		pod, version = x.Header.Get("X-Echo-Pod"), x.Header.Get("X-Echo-Version")
	}
	if pod != "" {
		r.Backends[pod]++
	}
	if version != "" {
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
	due := t.schedule.at(k)
	t.second(t.schedule.second(k, due)).unsent(end.Sub(due))
}

// total is the counts and the times, and nothing of when and how they were made.
func (t *tally) total() *Result {
	r := t.result
	for _, at := range slices.Sorted(maps.Keys(t.seconds)) {
		s := t.seconds[at]
		r.Seconds = append(r.Seconds, *s)
		if at >= 0 {
			r.Slice.merge(&s.Slice)
		}
	}
	for code, n := range t.codes {
		if n > 0 {
			r.Codes[strconv.Itoa(code)] = n
		}
	}
	return r
}

func (t *tally) finish(end time.Time, before usage, p Plan) *Result {
	r := t.total()
	r.Closed = t.schedule.closed
	r.Start, r.End = t.schedule.start.Add(t.schedule.warmup), end
	after := readUsage()
	r.Generator = Generator{CPUSeconds: after.cpu - before.cpu, GOMAXPROCS: runtime.GOMAXPROCS(0), Throttled: after.throttled - before.throttled}
	r.judge(p.MaxLag, p.SLO)
	return r
}
