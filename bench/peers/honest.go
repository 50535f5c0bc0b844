// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"harness.example/harness/bench/peers/null"
)

const (
	inTime   = 0.999 // of the planned requests, for a rate to hold
	hopeless = 0.99  // below it a rate is not tried again: that is no noise
	farLate  = 20    // times what is allowed: the same
	floor    = 500   // requests/s below which the search gives up
)

// levels are how late the 99th percentile of the requests may be at the server for a rate to hold. The first is the one that
// matters. The second is for comparing tools that never reach it: Go's runtime rounds a sleep of less than a millisecond up to
// one, so what sleeps until a request is due is late by up to 1.1 ms at any rate.
var levels = []time.Duration{time.Millisecond, 10 * time.Millisecond}

// A honestRate is the highest rate at which a tool's requests arrived as planned.
type honestRate struct {
	Tool    string   `json:"tool"`
	Levels  []spread `json:"levels"` // requests/s, for each of levels; 0: none held
	Tries   []string `json:"tries"`
	Skipped string   `json:"skipped,omitempty"`
}

func (b *bench) honestRates(ctx context.Context) ([]honestRate, error) {
	rows := make([]honestRate, len(b.tools))
	best := make([][][]float64, len(b.tools)) // by tool, level and round
	for i, t := range b.tools {
		rows[i] = honestRate{Tool: t.name, Skipped: cmp.Or(t.skip, t.unless(t.search, "is not searched for")), Levels: make([]spread, len(levels))}
		best[i] = make([][]float64, len(levels))
	}
	began := time.Now()
	for round := range b.Rounds {
		if spent := time.Since(began); round > 0 && spent+spent/time.Duration(round) > b.Search {
			b.progress("honest rate: no time for round %d", round+1)
			break
		}
		// hey holds nothing anywhere: once is enough to say so.
		takesPart := func(i int) bool {
			return rows[i].Skipped == "" && (round == 0 || b.tools[i].name != "hey" || slices.Max(slices.Concat(best[i]...)) > 0)
		}
		for _, i := range b.rotated(round, takesPart) {
			s := b.searcher(b.tools[i])
			for j, level := range levels {
				first, factor := 0.6*cmp.Or(b.closed[b.tools[i]], 20_000), 1.5
				if known := best[i][j]; len(known) > 0 && known[0] > 0 {
					first, factor = known[0], 1.1
				}
				rate, err := s.search(ctx, first, factor, level)
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err != nil {
					rows[i].Skipped = err.Error()
					b.progress("honest rate, round %d: %v", round+1, err)
					break
				}
				best[i][j] = append(best[i][j], float64(rate))
				b.progress("honest rate, round %d: %s holds %d/s, late by %s at most", round+1, rows[i].Tool, rate, level)
			}
			rows[i].Tries = append(rows[i].Tries, s.log...)
		}
	}
	for i := range rows {
		for j := range levels {
			rows[i].Levels[j] = spreadOf(best[i][j])
		}
	}
	return rows, nil
}

// A searcher tries rates with one tool, each at most size.Tries times, and remembers what came of it.
type searcher struct {
	size
	try   func(ctx context.Context, rate int) (sample, error)
	tries map[int][]sample // by rate
	log   []string
}

// search finds the highest rate that holds at a level, to Precision. It begins with what is known, else at first, and moves by
// factor until it knows a rate that holds and one that does not. 0: none above floor holds.
func (s *searcher) search(ctx context.Context, first, factor float64, level time.Duration) (int, error) {
	low, high := s.known(level)
	for {
		rate := whole(first)
		switch {
		case low == 0 && high == 0:
		case high == 0:
			rate = whole(float64(low) * factor)
		case low == 0:
			// Perhaps far off: each step down is wider than the one before.
			rate = whole(float64(high) / factor)
			factor *= factor
			if rate < floor {
				return 0, nil
			}
		default:
			rate = whole(math.Sqrt(float64(low) * float64(high)))
			if float64(high) <= s.Precision*float64(low) || rate <= low || rate >= high {
				return low, nil
			}
		}
		held, err := s.holds(ctx, rate, level)
		if err != nil {
			return 0, err
		}
		if held {
			low = rate
		} else {
			high = rate
		}
	}
}

// known is the highest rate that is known to hold at a level, and the lowest above it that is known not to.
func (s *searcher) known(level time.Duration) (low, high int) {
	for rate := range s.tries {
		if held, _ := s.judged(rate, level); held {
			low = max(low, rate)
		}
	}
	for rate := range s.tries {
		if _, over := s.judged(rate, level); over && rate > low && (high == 0 || rate < high) {
			high = rate
		}
	}
	return low, high
}

// judged says whether a rate held at a level in any try, and else whether there is nothing left to try.
func (s *searcher) judged(rate int, level time.Duration) (held, over bool) {
	tries := s.tries[rate]
	for _, t := range tries {
		share := float64(t.Deviation.InTime) / (float64(rate) * s.Step.Seconds())
		// What a tool says of itself by its exit code counts too, at the level that it judges itself by.
		if share >= inTime && t.Deviation.P99 <= level && (t.Exit == 0 || level > levels[0]) {
			return true, false
		}
		over = over || share < hopeless || t.Deviation.P99 > farLate*level
	}
	return false, over || len(tries) >= s.Tries
}

func (s *searcher) holds(ctx context.Context, rate int, level time.Duration) (bool, error) {
	for {
		if held, over := s.judged(rate, level); held || over {
			return held, nil
		}
		t, err := s.try(ctx, rate)
		if err != nil {
			return false, err
		}
		s.tries[rate] = append(s.tries[rate], t)
	}
}

func (b *bench) searcher(t *tool) *searcher {
	s := &searcher{size: b.size, tries: map[int][]sample{}}
	s.try = func(ctx context.Context, rate int) (sample, error) {
		got, err := b.load(ctx, b.server, t, load{rate: rate, duration: b.Step}, null.Settings{})
		if err == nil {
			d := got.Deviation
			line := fmt.Sprintf("%d/s: %.2f %% in time, late p50 %s, p99 %s, max %s, exit code %d", rate,
				100*float64(d.InTime)/(float64(rate)*b.Step.Seconds()), d.P50.Round(time.Microsecond),
				d.P99.Round(time.Microsecond), d.Max.Round(time.Microsecond), got.Exit)
			s.log = append(s.log, line)
			b.progress("honest rate: %s at %s", t.name, line)
		}
		return got, err
	}
	return s
}
