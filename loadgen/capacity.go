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

// A Search finds the highest rate that a system carries: half as much again until a step breaks, bisection to 5 %, then three
// more steps at the rate that was found, all of which must hold, or the rate goes down.
//
// A step holds when the generator kept to its schedule, at least 99 % of what was offered was answered well, SLO is met, and
// the response time did not grow while it ran, as it does when requests queue up. What the generator cannot do is never taken for
// the system's limit.
type Search struct {
	From float64 // the first rate, requests per second
	Max  float64 // none above it
	// Ceiling is what the generator itself can do at most, measured in the same run against a server that does nothing. Above
	// 70 % of it the generator adds to what it measures. 0: not known, no bound.
	Ceiling float64
	SLO     SLO
}

// What bounds a search and what it takes for a limit.
const (
	honest     = 0.7  // of the ceiling
	growth     = 1.5  // from one step to the next
	resolution = 1.05 // between what holds and what does not
	confirm    = 3    // steps that must hold
	maxSteps   = 60
	goodEnough = 0.99 // of what is offered
)

// What a capacity was limited by.
const (
	LimitSystem    = "system"    // a higher rate missed the objective
	LimitGenerator = "generator" // a higher rate was beyond the generator: the system carries this at least
	LimitMax       = "max"       // no higher rate was to be tried: the system carries this at least
)

// A Step is one load of a search.
type Step struct {
	Rate    float64       `json:"rate"`    // offered, requests per second
	Goodput float64       `json:"goodput"` // answered well, requests per second
	P50     time.Duration `json:"p50"`     // of Response; 0: too few requests
	P99     time.Duration `json:"p99"`
	Verdict Verdict       `json:"verdict"` // Invalid: of the generator
	Reason  string        `json:"reason,omitempty"`
}

// A Capacity is what a Search found.
type Capacity struct {
	Rate    float64 `json:"rate"`  // the highest that held every time; 0: none did
	Limit   string  `json:"limit"` // LimitSystem, LimitGenerator or LimitMax
	Reason  string  `json:"reason"`
	Ceiling float64 `json:"ceiling,omitempty"` // of the generator
	Steps   []Step  `json:"steps"`             // in the order in which they ran
}

// searching is a search under way: lo holds, hi does not.
type searching struct {
	Search
	measure func(ctx context.Context, rate float64) (*Result, error)
	found   *Capacity
	lo, hi  float64
	above   Step // the step that set hi
}

// Run searches. measure carries out one step, with no SLO of its own. On an error the Capacity has the steps until then.
func (s Search) Run(ctx context.Context, measure func(ctx context.Context, rate float64) (*Result, error)) (*Capacity, error) {
	found := &Capacity{Ceiling: s.Ceiling}
	if !(s.From > 0) || !(s.Max >= s.From) || math.IsInf(s.Max, 0) {
		return found, fmt.Errorf("search: first rate %v and highest rate %v: must be above 0 and in this order", s.From, s.Max)
	}
	h := &searching{Search: s, measure: measure, found: found, hi: math.Inf(1)}
	if err := h.bracket(ctx); err != nil {
		return found, err
	}
	for h.lo > 0 && h.hi/h.lo > resolution && !math.IsInf(h.hi, 1) {
		if _, err := h.try(ctx, math.Sqrt(h.lo*h.hi)); err != nil {
			return found, err
		}
	}
	for held := 0; h.lo > 0 && held < confirm; held++ {
		holds, err := h.try(ctx, h.lo)
		if err != nil {
			return found, err
		}
		if !holds {
			held = -1
		}
	}
	h.conclude()
	return found, nil
}

// top is the highest rate that may be tried.
func (h *searching) top() float64 {
	if h.Ceiling > 0 {
		return min(h.Max, honest*h.Ceiling)
	}
	return h.Max
}

// bracket goes up until a step breaks or the top holds, or down until one holds.
func (h *searching) bracket(ctx context.Context) error {
	for rate := min(h.From, h.top()); ; {
		holds, err := h.try(ctx, rate)
		switch {
		case err != nil:
			return err
		case holds && (rate >= h.top() || !math.IsInf(h.hi, 1)):
			return nil
		case holds:
			rate = min(rate*growth, h.top())
		case h.lo > 0 || rate < h.From/1000:
			return nil
		default:
			rate /= 2
		}
	}
}

// try runs a step and moves lo or hi. One that the generator failed is run once more, as that may be the machine's doing.
func (h *searching) try(ctx context.Context, rate float64) (holds bool, err error) {
	var step Step
	for range 2 {
		if len(h.found.Steps) >= maxSteps {
			return false, fmt.Errorf("search: no end after %d steps: the system does not answer the same way twice", maxSteps)
		}
		r, err := h.measure(ctx, rate)
		if err != nil {
			return false, fmt.Errorf("search: %w", err)
		}
		if r == nil {
			return false, errors.New("search: a step has no result")
		}
		step = h.judge(rate, r)
		h.found.Steps = append(h.found.Steps, step)
		if step.Verdict != Invalid {
			break
		}
	}
	if step.Verdict == Pass {
		h.lo = max(h.lo, rate)
		return true, nil
	}
	h.hi, h.above = rate, step
	if h.lo >= rate {
		// It held before and does not now.
		if h.lo = rate / resolution; h.lo < h.From/1000 {
			h.lo = 0
		}
	}
	return false, nil
}

// judge says whether a step holds.
func (h *searching) judge(rate float64, r *Result) Step {
	s := Step{Rate: rate, Verdict: Pass}
	s.P50, _ = r.Response.Quantile(0.5)
	s.P99, _ = r.Response.Quantile(0.99)
	if r.Planned > 0 {
		s.Goodput = rate * float64(r.OK) / float64(r.Planned)
	}
	switch {
	case r.Verdict == Invalid:
		s.Verdict, s.Reason = Invalid, r.Reason
		return s
	case r.Planned == 0 || float64(r.OK) < goodEnough*float64(r.Planned):
		s.Verdict, s.Reason = Fail, fmt.Sprintf("only %d of %d requests were answered well", r.OK, r.Planned)
		return s
	}
	judged := *r
	judged.judge(time.Duration(math.MaxInt64), &h.SLO)
	if judged.Verdict == Fail {
		s.Verdict, s.Reason = Fail, judged.Reason
	} else if early, late, grows := r.grows(); grows {
		s.Verdict, s.Reason = Fail, fmt.Sprintf("requests queue up: the median response time went from %s to %s", early, late)
	}
	return s
}

// grows compares the last third of the seconds with the first. Above capacity by a share x, the response time grows by x seconds
// a second; what a steady load's median moves by is less than itself, or some milliseconds.
func (r *Result) grows() (early, late time.Duration, grows bool) {
	const slack = 5 * time.Millisecond
	var measured []Second
	for _, s := range r.Seconds {
		if s.At >= 0 {
			measured = append(measured, s)
		}
	}
	third := len(measured) / 3
	if third == 0 {
		return 0, 0, false
	}
	median := func(seconds []Second) time.Duration {
		var h Hist
		for _, s := range seconds {
			h.Merge(s.Response)
		}
		m, _ := h.Quantile(0.5)
		return m
	}
	early, late = median(measured[:third]), median(measured[len(measured)-third:])
	return early, late, late-early > max(early, slack)
}

// conclude says what was found and what it was limited by.
func (h *searching) conclude() {
	c := h.found
	c.Rate = h.lo
	switch {
	case !math.IsInf(h.hi, 1) && h.above.Verdict == Invalid:
		c.Limit, c.Reason = LimitGenerator, fmt.Sprintf("at %.4g/s %s", h.hi, h.above.Reason)
	case !math.IsInf(h.hi, 1):
		c.Limit, c.Reason = LimitSystem, fmt.Sprintf("at %.4g/s %s", h.hi, h.above.Reason)
	case h.top() < h.Max:
		c.Limit, c.Reason = LimitGenerator, fmt.Sprintf("the generator's own ceiling is %.4g/s, and above %.0f %% of it it adds to what it measures", h.Ceiling, 100*honest)
	default:
		c.Limit, c.Reason = LimitMax, fmt.Sprintf("nothing above %.4g/s was tried", h.Max)
	}
}
