// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Verdict is what a result is worth.
type Verdict string

// A result passes, fails its SLO, or says nothing about the peer because the generator (or its machine) was the limit.
const (
	Pass    Verdict = "PASS"
	Fail    Verdict = "FAIL"
	Invalid Verdict = "INVALID"
)

// Class is what became of a request.
type Class string

// The classes. OK is an answer below HTTP 400.
const (
	ClassOK        Class = "ok"
	ClassHTTP      Class = "http-error"
	ClassTransport Class = "transport-error"
	ClassTimeout   Class = "timeout"
)

const (
	keptFailures = 20      // exchanges that a Result keeps
	keptFailure  = 4 << 10 // bytes of their bodies
	minSent      = 0.999   // of the planned requests, for the figures to count
	defaultGrace = 100 * time.Millisecond
)

// Counts are requests. Planned = Sent + Unsent, and Sent = OK + HTTPErrors + TransportErrors + Timeouts.
type Counts struct {
	Planned         uint64 `json:"planned"`
	Sent            uint64 `json:"sent"`
	Unsent          uint64 `json:"unsent"`
	OK              uint64 `json:"ok"`
	HTTPErrors      uint64 `json:"httpErrors"`
	TransportErrors uint64 `json:"transportErrors"`
	Timeouts        uint64 `json:"timeouts"`
}

func (c *Counts) add(o Counts) {
	c.Planned += o.Planned
	c.Sent += o.Sent
	c.Unsent += o.Unsent
	c.OK += o.OK
	c.HTTPErrors += o.HTTPErrors
	c.TransportErrors += o.TransportErrors
	c.Timeouts += o.Timeouts
}

func (c Counts) failed() uint64 { return c.HTTPErrors + c.TransportErrors + c.Timeouts }

func (c Counts) check() error {
	if c.Planned != c.Sent+c.Unsent || c.Sent != c.OK+c.failed() {
		return fmt.Errorf("counts do not add up: %+v", c)
	}
	return nil
}

// Times are the three durations of a request. Service: from when it had its connection (before a dial, if one was needed)
// until its answer was read. Response: from when it was due. Lag: from when it was due until the generator took it up;
// beyond a little it is the generator's fault. A wait for a busy connection is in Response only.
type Times struct {
	Service  *Hist `json:"service"`
	Response *Hist `json:"response"`
	Lag      *Hist `json:"lag"`
}

func newTimes() Times { return Times{Service: &Hist{}, Response: &Hist{}, Lag: &Hist{}} }

func (t *Times) merge(o Times) {
	t.Service.Merge(o.Service)
	t.Response.Merge(o.Response)
	t.Lag.Merge(o.Lag)
}

// A Slice is a Result's or a Second's figures. Its own Times are those a user would feel: Service is of OK answers; Response
// is of OK answers, timeouts and unsent requests, the last two at the time they had waited, a lower bound (without them
// a stall that ends in timeouts would look fast); Lag is of every request sent. Failed has the times of each class but OK.
type Slice struct {
	Counts
	Times
	Failed map[Class]*Times `json:"failed,omitempty"`
}

func newSlice() Slice { return Slice{Times: newTimes()} }

func (s *Slice) failedTimes(c Class) *Times {
	t := s.Failed[c]
	if t == nil {
		fresh := newTimes()
		t = &fresh
		if s.Failed == nil {
			s.Failed = map[Class]*Times{}
		}
		s.Failed[c] = t
	}
	return t
}

func (s *Slice) merge(o *Slice) {
	s.add(o.Counts)
	s.Times.merge(o.Times)
	for c, t := range o.Failed {
		if t != nil {
			s.failedTimes(c).merge(*t)
		}
	}
}

// sent counts one request that was sent. One that waited for its connection until it timed out has no service time: 0.
func (s *Slice) sent(c Class, service, response, lag time.Duration) {
	s.Planned++
	s.Sent++
	s.Lag.Record(lag)
	switch c {
	case ClassOK:
		s.OK++
		s.Service.Record(service)
		s.Response.Record(response)
		return
	case ClassHTTP:
		s.HTTPErrors++
	case ClassTransport:
		s.TransportErrors++
	case ClassTimeout:
		s.Timeouts++
		s.Response.Record(response)
	}
	t := s.failedTimes(c)
	if service > 0 {
		t.Service.Record(service)
	}
	t.Response.Record(response)
	t.Lag.Record(lag)
}

// unsent counts one request that was not sent although it had been due for waited.
func (s *Slice) unsent(waited time.Duration) {
	s.Planned++
	s.Unsent++
	if waited > 0 { // else not due yet: the run was stopped
		s.Response.Record(waited)
	}
}

// A Second holds the requests that were due in one second of the measured time, whenever their answers came.
type Second struct {
	At int `json:"at"` // 0 is the first; the warm-up's are negative
	Slice
}

// Generator says what making the load cost.
type Generator struct {
	CPUSeconds float64 `json:"cpuSeconds"` // of this process, for the duration of the run
	GOMAXPROCS int     `json:"gomaxprocs"`
	Throttled  uint64  `json:"throttled"` // periods in which the cgroup's CPU limit stopped it; 0 also where that is not known
}

// A Result is what a Plan measured; the totals leave the warm-up out.
//
// The verdict is INVALID when fewer than 99.9 % of the planned requests were sent, when the generator lagged (Plan.MaxLag), or
// when the run was stopped; FAIL when an SLO was given and missed, or when the peer was so slow that all connections were busy and
// more than 0.1 % of the requests came to it only after the schedule was over; else PASS. Errors alone do not fail.
type Result struct {
	Slice
	Seconds   []Second          `json:"seconds"`            // in order; with those of the warm-up
	Backends  map[string]uint64 `json:"backends,omitempty"` // answers by X-Echo-Pod
	Versions  map[string]uint64 `json:"versions,omitempty"` // answers by X-Echo-Version
	Codes     map[string]uint64 `json:"codes,omitempty"`    // answers by HTTP code ("200"), failures by ErrKind ("reset")
	Failures  []Exchange        `json:"failures,omitempty"` // the first 20 that were not OK, warm-up or not
	Late      uint64            `json:"late,omitempty"`     // of the sent: those that found no free connection before the schedule was over
	Closed    bool              `json:"closed,omitempty"`   // there was no schedule: Planned is Sent, and Lag nothing
	Start     time.Time         `json:"start"`              // when the first measured request was due
	End       time.Time         `json:"end"`                // when the last answer was in
	Verdict   Verdict           `json:"verdict"`
	Reason    string            `json:"reason,omitempty"` // of any verdict but PASS
	Generator Generator         `json:"generator"`
	Workers   []Worker          `json:"workers,omitempty"` // of a load from several, see MergeShares
	Common    *Span             `json:"common,omitempty"`  // when all of them were at work: from the latest start to the earliest end
}

func newResult() *Result {
	return &Result{Slice: newSlice(), Backends: map[string]uint64{}, Versions: map[string]uint64{}, Codes: map[string]uint64{}}
}

// judge sets the verdict.
func (r *Result) judge(maxLag time.Duration, slo *SLO) {
	lag, _ := r.Lag.Quantile(0.99)
	allowed := maxLag
	if maxLag == 0 {
		median, _ := r.Service.Quantile(0.5)
		allowed = max(time.Millisecond, median/10)
	}
	r.Verdict, r.Reason = Invalid, ""
	switch {
	case float64(r.Sent) < minSent*float64(r.Planned):
		r.Reason = fmt.Sprintf("only %d of %d planned requests were sent", r.Sent, r.Planned)
	case lag > allowed:
		r.Reason = fmt.Sprintf("the generator lagged: 99th percentile %s, allowed %s", lag, allowed)
	case maxLag == 0 && r.Generator.Throttled > 0:
		r.Reason = fmt.Sprintf("the generator's CPU limit stopped it in %d periods", r.Generator.Throttled)
	default:
		r.Verdict = Pass
	}
	if r.Verdict == Invalid {
		return
	}
	if float64(r.Late) > (1-minSent)*float64(r.Planned) {
		r.Verdict = Fail
		r.Reason = fmt.Sprintf("the rate was not delivered: all connections were busy, and %d of %d requests waited until the schedule was over; the peer is too slow for it, or the connections are too few", r.Late, r.Planned)
		return
	}
	if slo == nil {
		return
	}
	if rate := float64(r.failed()) / float64(r.Sent); rate > slo.ErrorRate {
		r.Verdict = Fail
		r.Reason = fmt.Sprintf("%d of %d requests failed, %.4g %%, allowed %.4g %%", r.failed(), r.Sent, 100*rate, 100*slo.ErrorRate)
		return
	}
	if p99, _ := r.Response.Quantile(0.99); slo.P99 > 0 && p99 > slo.P99 {
		r.Verdict = Fail
		r.Reason = fmt.Sprintf("99th percentile of the response time is %s, allowed %s", p99, slo.P99)
	}
}

// Merge makes one result of several workers': counts and histograms add up exactly, seconds by their number. The verdict is
// the worst of theirs. It is an error when there is none, when one is missing, or when one's counts do not add up.
func Merge(results ...*Result) (*Result, error) {
	var sum Sum
	for _, r := range results {
		if err := sum.Add(r); err != nil {
			return nil, err
		}
	}
	return sum.Result()
}

// A Sum is a Merge that is handed one result at a time, so that they need not all be in memory. The zero value is empty.
type Sum struct {
	out     *Result
	seconds map[int]*Second
	added   int
	reasons []string
}

// Add adds one worker's result, which it does not keep.
func (s *Sum) Add(r *Result) error {
	if r == nil {
		return fmt.Errorf("merge: result %d is missing", s.added)
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("merge: result %d: %w", s.added, err)
	}
	if s.out == nil {
		s.out, s.seconds = newResult(), map[int]*Second{}
		s.out.Verdict = Pass
	}
	out := s.out
	out.Slice.merge(&r.Slice)
	for i := range r.Seconds {
		at := r.Seconds[i].At
		if s.seconds[at] == nil {
			s.seconds[at] = &Second{At: at, Slice: newSlice()}
		}
		s.seconds[at].merge(&r.Seconds[i].Slice)
	}
	addCounts(out.Backends, r.Backends)
	addCounts(out.Versions, r.Versions)
	addCounts(out.Codes, r.Codes)
	out.Failures = append(out.Failures, r.Failures...)
	slices.SortStableFunc(out.Failures, func(a, b Exchange) int { return a.Start.Compare(b.Start) })
	out.Failures = slices.Delete(out.Failures, min(len(out.Failures), keptFailures), len(out.Failures))
	if out.Start.IsZero() || !r.Start.IsZero() && r.Start.Before(out.Start) { // zero: it never ran
		out.Start = r.Start
	}
	if r.End.After(out.End) {
		out.End = r.End
	}
	out.Late += r.Late
	out.Closed = out.Closed || r.Closed
	out.Generator.CPUSeconds += r.Generator.CPUSeconds
	out.Generator.GOMAXPROCS += r.Generator.GOMAXPROCS
	out.Generator.Throttled += r.Generator.Throttled
	if r.Verdict != Pass {
		s.reasons = append(s.reasons, fmt.Sprintf("worker %d %s: %s", s.added, r.Verdict, r.Reason))
	}
	if r.Verdict == Invalid || r.Verdict == Fail && out.Verdict == Pass {
		out.Verdict = r.Verdict
	}
	s.added++
	return nil
}

// Result is the sum. Nothing may be added after it.
func (s *Sum) Result() (*Result, error) {
	if s.out == nil {
		return nil, errors.New("merge: no results")
	}
	for _, at := range slices.Sorted(maps.Keys(s.seconds)) {
		s.out.Seconds = append(s.out.Seconds, *s.seconds[at])
	}
	s.out.Reason = strings.Join(s.reasons, "; ")
	return s.out, nil
}

func addCounts(to, from map[string]uint64) {
	for k, n := range from {
		to[k] += n
	}
}
