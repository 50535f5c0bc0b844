// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxSkew is how far the clocks of two workers may be apart: the schedules shift against each other by that much.
const maxSkew = 100 * time.Millisecond

// A Worker is one of those that share a load, and what its share came to.
type Worker struct {
	Index   int    `json:"index"`
	Pod     string `json:"pod,omitempty"`
	Node    string `json:"node,omitempty"`
	Planned uint64 `json:"planned"`
	Sent    uint64 `json:"sent"`
	OK      uint64 `json:"ok"`
	// LagP99 is the 99th percentile of how late it sent, also when there are few requests.
	LagP99 time.Duration `json:"lagP99"`
	// Clock is how far its clock was ahead of that of who handed out the jobs, give or take ClockError.
	Clock      time.Duration `json:"clock"`
	ClockError time.Duration `json:"clockError"`
	Verdict    Verdict       `json:"verdict"`
	Reason     string        `json:"reason,omitempty"`
}

func (w Worker) String() string {
	s := fmt.Sprintf("worker %d", w.Index)
	var place []string
	if w.Pod != "" {
		place = append(place, "pod "+w.Pod)
	}
	if w.Node != "" {
		place = append(place, "node "+w.Node)
	}
	if len(place) > 0 {
		s += " (" + strings.Join(place, ", ") + ")"
	}
	return s
}

// A Share is a Worker's part of a Plan. Without a Result the worker was lost and its Reason says how.
type Share struct {
	Worker
	Result *Result
}

// A Span is a part of time.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Split makes the plans of n workers that send p together. The rate is of all of them, Connections and MaxInflight are of each.
// The objective stays with p: it is the whole load's.
func (p Plan) Split(n int) ([]Plan, error) {
	if n < 1 {
		return nil, fmt.Errorf("plan: workers: %d is not above 0", n)
	}
	if p.Index != 0 || p.Of > 1 {
		return nil, errors.New("plan: index: a worker's part is not split again")
	}
	p.Of = n
	if err := p.checkAll(); err != nil {
		return nil, err
	}
	plans := make([]Plan, n)
	for i := range plans {
		plans[i] = p
		plans[i].Index, plans[i].SLO = i, nil
		if err := plans[i].check(); err != nil {
			return nil, fmt.Errorf("plan: %w", err)
		}
	}
	return plans, nil
}

// checkAll finds what Run would refuse.
func (p Plan) checkAll() error {
	if err := p.check(); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if p.Null {
		return nil
	}
	pool, err := newPool(p.Requests, p.Connections, p.Policy, p.Timeout, p.IDPrefix, keptFailure)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	pool.close()
	return nil
}

// planned is how many requests of the measured time are the plan's. A closed loop plans none.
func (p Plan) planned() uint64 {
	s := p.schedule(time.Time{})
	return uint64(s.total - s.warm) // #nosec G115 -- total is at least warm
}

// lost is the result of a worker of which nothing is known: none of its requests counts as sent. How long they waited is not
// known either, so that they are in no histogram.
func (p Plan) lost() *Result {
	t := newTally(p.schedule(time.Time{}), time.Time{})
	for k := range t.schedule.total {
		t.unsent(k, t.schedule.at(k))
	}
	return t.total()
}

// MergeShares makes one result of the shares of p.Split(len(shares)), in its order. It is INVALID, and says which worker is
// the reason, when one was lost or INVALID, when their clocks were too far apart to keep one schedule, or when at no time all
// were at work; nothing of the others' data is lost then, and a lost worker's requests count as unsent. Otherwise the whole is
// judged as one worker's result would be. It is an error when the shares are not all of p: planned requests are sent or unsent.
func (p Plan) MergeShares(shares []Share) (*Result, error) {
	plans, err := p.Split(len(shares))
	if err != nil {
		return nil, err
	}
	var sum Sum
	var reasons []string
	workers := make([]Worker, len(shares))
	for i, s := range shares {
		w, r := &workers[i], s.Result
		*w = s.Worker
		w.Index = i
		if r == nil {
			r = plans[i].lost()
			r.Verdict, r.Reason = Invalid, fmt.Sprintf("%s; its %d requests count as unsent", s.Reason, r.Planned)
		}
		if want := plans[i].planned(); !p.Closed && r.Planned != want {
			return nil, fmt.Errorf("merge: %s planned %d requests, its share of the plan is %d", w, r.Planned, want)
		}
		if err := sum.Add(r); err != nil {
			return nil, err
		}
		w.Planned, w.Sent, w.OK, w.Verdict, w.Reason = r.Planned, r.Sent, r.OK, r.Verdict, r.Reason
		w.LagP99, _ = r.Lag.Quantile(0.99)
		if r.Verdict == Invalid {
			reasons = append(reasons, w.String()+": "+r.Reason)
		}
	}
	out, err := sum.Result()
	if err != nil {
		return nil, err
	}
	if want := p.planned(); !p.Closed && out.Planned != want {
		return nil, fmt.Errorf("merge: the workers planned %d requests, the plan has %d", out.Planned, want)
	}
	out.Workers, out.Common = workers, common(shares)
	reasons = append(reasons, skewed(workers, func(i int) bool { return shares[i].Result == nil })...)
	if c := out.Common; c != nil && !c.From.Before(c.To) {
		reasons = append(reasons, "at no time all workers were at work")
	}
	if out.judge(p.MaxLag, p.SLO); len(reasons) > 0 {
		out.Verdict, out.Reason = Invalid, strings.Join(reasons, "; ")
	}
	return out, nil
}

// common is from the latest start to the earliest end; nil when no worker came to its end.
func common(shares []Share) *Span {
	var c *Span
	for _, s := range shares {
		switch r := s.Result; {
		case r == nil:
		case c == nil:
			c = &Span{From: r.Start, To: r.End}
		default:
			c.From = slices.MaxFunc([]time.Time{c.From, r.Start}, time.Time.Compare)
			c.To = slices.MinFunc([]time.Time{c.To, r.End}, time.Time.Compare)
		}
	}
	return c
}

// skewed says which two clocks were not certainly within maxSkew of each other; those of lost workers do not matter.
func skewed(workers []Worker, lost func(i int) bool) []string {
	var first, last *Worker
	for i := range workers {
		w := &workers[i]
		if lost(i) {
			continue
		}
		if first == nil || w.Clock-w.ClockError < first.Clock-first.ClockError {
			first = w
		}
		if last == nil || w.Clock+w.ClockError > last.Clock+last.ClockError {
			last = w
		}
	}
	if first == last { // one worker, or none
		return nil
	}
	apart := last.Clock + last.ClockError - (first.Clock - first.ClockError)
	if apart <= maxSkew {
		return nil
	}
	return []string{fmt.Sprintf("the clocks of worker %d (node %s) and worker %d (node %s) may be %s apart, allowed %s",
		first.Index, first.Node, last.Index, last.Node, apart.Round(time.Millisecond), maxSkew)}
}
