// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// A Plan is a load at a rate: the schedule decides when a request is due, not the answers (open loop). Request k is due at
// StartAt + k/Rate and is Requests[k mod len].
//
// Durations are measured from when a request was due, so that a stalled peer cannot hide the requests that it held up, and
// the plan says of itself whether it kept to the schedule: see [Result].
type Plan struct {
	Requests []Request     `json:"requests,omitempty"`
	Rate     float64       `json:"rate"` // requests per second, of all workers together; 0 when Closed
	Duration time.Duration `json:"duration"`
	// Connections open at most, per destination; default 1. HTTP/2 and gRPC requests share a connection at the same time, the
	// others wait for it.
	Connections int `json:"connections,omitempty"`
	// Closed sends as many requests as the connections can carry, one at a time on each (closed loop). It shows a throughput;
	// latencies only of requests that were sent, as a slow answer keeps the next one back.
	Closed  bool          `json:"closed,omitempty"`
	Policy  Policy        `json:"policy,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // of one request, with its wait for a connection; default DefaultTimeout
	// Warmup runs before Duration at the same rate. What it measures is in the Result's seconds before 0 and nowhere else.
	Warmup   time.Duration `json:"warmup,omitempty"`
	IDPrefix string        `json:"idPrefix,omitempty"` // as in Burst; k counts over all workers
	// MaxInflight bounds requests sent and not answered; default Rate × Timeout, between 256 and 16384. At the bound the
	// schedule is missed, which shows as lag.
	MaxInflight int       `json:"maxInflight,omitempty"`
	StartAt     time.Time `json:"startAt,omitzero"` // default now
	// Worker Index of Of sends the requests k with k mod Of = Index. Merge makes one result of all workers'.
	Index int `json:"index,omitempty"`
	Of    int `json:"of,omitempty"`
	// MaxLag is how late the 99th percentile of requests may be sent for the figures to count. Zero is the rule for measuring
	// latency: the larger of 1 ms and a tenth of the median service time, and no CPU throttling. A check of behaviour under
	// load, on a machine shared with what it loads, states a looser one (say 500ms).
	// Requests not sent MaxLag (at least 100 ms) after the schedule's end are unsent.
	MaxLag time.Duration `json:"maxLag,omitempty"`
	// Null sends to a server that the run makes itself, on loopback in its process, and that does nothing but answer: what comes out
	// is the generator's own limit. There are no Requests then.
	Null bool `json:"null,omitempty"`
	SLO  *SLO `json:"slo,omitempty"` // what makes the verdict FAIL; nil: nothing
}

// SLO is a promise to hold a result against.
type SLO struct {
	P99       time.Duration `json:"p99,omitempty"` // of Response; 0: not judged
	ErrorRate float64       `json:"errorRate"`     // largest share of the sent requests that may fail; 0: none may
}

// check names the field that is wrong.
func (p Plan) check() error {
	switch {
	case p.Null && len(p.Requests) > 0:
		return fmt.Errorf("requests: %d for the null server, which takes none", len(p.Requests))
	case p.Closed && p.Rate != 0:
		return fmt.Errorf("rate: %v of a closed loop, which has none", p.Rate)
	case p.Closed && p.SLO != nil && p.SLO.P99 > 0:
		return errors.New("slo: p99 of a closed loop, which holds back what would be slow; give a rate")
	case !p.Closed && (!(p.Rate > 0) || math.IsInf(p.Rate, 0)):
		return fmt.Errorf("rate: %v is not above 0", p.Rate)
	case p.Duration <= 0:
		return fmt.Errorf("duration: %s is not above 0", p.Duration)
	case p.Warmup < 0:
		return fmt.Errorf("warmup: %s is negative", p.Warmup)
	case p.MaxLag < 0:
		return fmt.Errorf("maxLag: %s is negative", p.MaxLag)
	case p.MaxInflight < 0 || p.MaxInflight > maxTickets:
		return fmt.Errorf("maxInflight: %d is not between 0 and %d", p.MaxInflight, maxTickets)
	case p.Of < 0 || p.Index < 0 || p.Index >= max(p.Of, 1):
		return fmt.Errorf("index: worker %d of %d does not exist", p.Index, max(p.Of, 1))
	case p.SLO != nil && (p.SLO.P99 < 0 || !(p.SLO.ErrorRate >= 0 && p.SLO.ErrorRate <= 1)):
		return fmt.Errorf("slo: p99 %s is negative or error rate %v not between 0 and 1", p.SLO.P99, p.SLO.ErrorRate)
	}
	s := p.schedule(time.Time{})
	switch {
	case p.Closed:
	case p.Rate*(p.Duration+p.Warmup).Seconds() > maxPlan:
		return fmt.Errorf("rate: %v for %s is more than %d requests", p.Rate, p.Duration+p.Warmup, maxPlan)
	case s.total-s.warm < 1:
		return fmt.Errorf("rate: %v for %s leaves worker %d without a request", p.Rate, p.Duration, p.Index)
	}
	return nil
}

// A schedule says when each of one worker's requests is due.
type schedule struct {
	start     time.Time
	rate      float64
	index, of int
	warmup    time.Duration
	warm      int  // this worker's requests before the measured time
	total     int  // with the warm ones
	closed    bool // requests are due when they are sent, and there is no total
}

func (p Plan) schedule(start time.Time) schedule {
	s := schedule{start: start, rate: p.Rate, index: p.Index, of: max(p.Of, 1), warmup: p.Warmup, closed: p.Closed}
	// Rounding first to whole requests of all workers makes the workers' shares add up exactly.
	share := func(d time.Duration) int {
		all := int(math.Round(min(p.Rate*d.Seconds(), 2*maxPlan)))
		return (all - s.index + s.of - 1) / s.of
	}
	s.warm, s.total = share(p.Warmup), share(p.Warmup+p.Duration)
	return s
}

// global is request k of this worker among those of all.
func (s schedule) global(k int) int { return k*s.of + s.index }

// at is when request k of this worker is due.
func (s schedule) at(k int) time.Time {
	return s.start.Add(time.Duration(float64(s.global(k)) / s.rate * float64(time.Second)))
}

// interval is the time from one request of this worker to the next.
func (s schedule) interval() time.Duration {
	return time.Duration(float64(s.of) / s.rate * float64(time.Second))
}

// second is the second of the measured time in which request k, due at due, is; negative in the warm-up.
func (s schedule) second(k int, due time.Time) int {
	at := int(math.Floor((due.Sub(s.start) - s.warmup).Seconds()))
	switch {
	case s.closed:
		return at
	case k < s.warm:
		return min(at, -1)
	}
	return max(at, 0) // whole requests do not part where the time does
}

// Run carries the plan out. An error means that the plan is not valid (it names the field) or that ctx ended; in the second
// case the result is what was measured until then, with verdict INVALID. Failed requests are data.
func (p Plan) Run(ctx context.Context) (*Result, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	if !p.Null {
		return p.run(ctx)
	}
	var result *Result
	err := withNull(ctx, func(url string) (err error) {
		p.Requests = []Request{{URL: url}}
		result, err = p.run(ctx)
		return err
	})
	return result, err
}

func (p Plan) run(ctx context.Context) (*Result, error) {
	pool, err := newPool(p.Requests, p.Connections, p.Policy, p.Timeout, p.IDPrefix, keptFailure)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	defer pool.close()
	start := p.StartAt
	if start.IsZero() {
		start = time.Now()
	} else {
		// A time from JSON has no monotonic reading; a clock step during the run would otherwise move the schedule.
		start = time.Now().Add(time.Until(start))
	}
	pool.counts = true
	r := &run{plan: p, schedule: p.schedule(start), pool: pool}
	if p.Closed && pool.policy != Fresh {
		r.free = make(chan int, pool.connections)
		for n := range pool.connections {
			r.free <- n
		}
	}
	result := r.attack(ctx)
	if err := ctx.Err(); err != nil {
		result.Verdict, result.Reason = Invalid, "stopped before its end: "+context.Cause(ctx).Error()
		return result, fmt.Errorf("plan: stopped after %d of %d requests: %w", result.Sent, result.Planned, context.Cause(ctx))
	}
	return result, nil
}
