// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"harness.example/harness/bench/peers/null"
)

// A size is how long everything takes.
type size struct {
	Rounds    int
	Closed    time.Duration // of one closed loop
	Step      time.Duration // of one step of the search, in whole seconds
	Precision float64       // ratio between the rate that failed and the one that held
	Load      time.Duration // of the load that is stalled
	Stall     time.Duration
	Under     time.Duration // of one load that cannot be delivered
}

var (
	full  = size{Rounds: 3, Closed: 4 * time.Second, Step: 3 * time.Second, Precision: 1.03, Load: 30 * time.Second, Stall: 2 * time.Second, Under: 3 * time.Second}
	quick = size{Rounds: 1, Closed: time.Second, Step: time.Second, Precision: 1.1, Load: 8 * time.Second, Stall: time.Second, Under: time.Second}
)

const (
	connections = 16
	inTime      = 0.999            // of the planned requests, for a rate to hold
	punctual    = time.Millisecond // 99th percentile of the deviation at the server, for a rate to hold
	floor       = 500              // requests/s below which the search gives up
)

// A bench is one run of everything.
type bench struct {
	size
	tools            []*tool
	core, serverCore int // of the tools, of the null servers
	server           *server
	dir              string
	progress         func(string, ...any)
	closed           map[*tool]float64 // median rate of the closed loop
}

// A sample is one load: the command, what it said, and what the server saw.
type sample struct {
	run
	said
	null.Report
}

// load has one tool make one load against a server that behaves as settings say.
func (b *bench) load(ctx context.Context, s *server, t *tool, l load, settings null.Settings) (sample, error) {
	var out sample
	dir, err := os.MkdirTemp(b.dir, "load")
	if err != nil {
		return out, fmt.Errorf("make a directory for %s: %w", t.name, err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the directory around it is removed too
	l.url, l.connections, l.dir = s.url, connections, dir
	if err := s.Reset(settings); err != nil {
		return out, err
	}
	var stdin string
	if t.stdin != nil {
		stdin = t.stdin(l)
	}
	// A tool with a backlog may need as long again, and some time to wait for the last answers.
	out.run, err = pinned(ctx, b.core, 3*l.duration+20*time.Second, dir, stdin, append([]string{t.path}, t.command(l)...)...)
	if err != nil {
		return out, err
	}
	q := null.Question{Duration: l.duration}
	if t.warmup != nil {
		q.Skip = t.warmup(l)
	}
	if l.rate > 0 {
		q.Rate = float64(l.rate)
		if t.pace != nil {
			q.Rate = t.pace(l)
		}
	}
	if out.Report, err = s.Report(q); err != nil {
		return out, err
	}
	if out.Requests == 0 {
		return out, fmt.Errorf("%s sent nothing: exit code %d, %s", t.name, out.Exit, lastLines(out.Stderr+out.Stdout))
	}
	if out.said, err = t.read(ctx, l, out.run); err != nil {
		return out, fmt.Errorf("%w (exit code %d: %s)", err, out.Exit, lastLines(out.Stderr))
	}
	return out, nil
}

func lastLines(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return text[max(0, len(text)-300):]
}

// rotated is the tools that pass the filter, beginning with another one in each round.
func (b *bench) rotated(round int, takesPart func(*tool) bool) []*tool {
	var all []*tool
	for _, t := range b.tools {
		if t.skip == "" && takesPart(t) {
			all = append(all, t)
		}
	}
	if len(all) == 0 {
		return nil
	}
	first := round % len(all)
	return append(slices.Clone(all[first:]), all[:first]...)
}

// whole is the rate nearest to r that all connections can share evenly.
func whole(r float64) int { return max(1, int(math.Round(r/connections))) * connections }

// A spread is what came out of the rounds.
type spread struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Rounds []float64 `json:"rounds"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1], Rounds: values}
}

// A closedLoop is how many requests per second a tool makes when each connection sends as soon as it has its answer.
type closedLoop struct {
	Tool        string `json:"tool"`
	PerSecond   spread `json:"perSecond"`
	CPU         spread `json:"cpuMicrosPerRequest"`
	Connections []int  `json:"connections"` // how many it used, by round
	Skipped     string `json:"skipped,omitempty"`
}

func (b *bench) closedLoops(ctx context.Context) ([]closedLoop, error) {
	rates, costs, used, skipped := map[*tool][]float64{}, map[*tool][]float64{}, map[*tool][]int{}, map[*tool]string{}
	for round := range b.Rounds {
		for _, t := range b.rotated(round, func(t *tool) bool { return skipped[t] == "" }) {
			s, err := b.load(ctx, b.server, t, load{duration: b.Closed}, null.Settings{})
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil {
				skipped[t] = err.Error()
				b.progress("closed loop, round %d: %v", round+1, err)
				continue
			}
			cost := float64(s.CPU.Nanoseconds()) / 1000 / float64(s.Requests)
			rates[t], costs[t], used[t] = append(rates[t], s.Rate()), append(costs[t], cost), append(used[t], len(s.Report.Connections))
			b.progress("closed loop, round %d: %s %.0f/s, %.1f µs of CPU time each", round+1, t.name, s.Rate(), cost)
		}
	}
	var rows []closedLoop
	for _, t := range b.tools {
		row := closedLoop{Tool: t.name, PerSecond: spreadOf(rates[t]), CPU: spreadOf(costs[t]), Connections: used[t], Skipped: cmp.Or(t.skip, skipped[t])}
		b.closed[t] = row.PerSecond.Median
		rows = append(rows, row)
	}
	return rows, nil
}

// A honestRate is the highest rate at which a tool's requests arrived as planned.
type honestRate struct {
	Tool      string   `json:"tool"`
	PerSecond spread   `json:"perSecond"`
	Steps     []string `json:"steps"` // of the search
	Skipped   string   `json:"skipped,omitempty"`
}

func (b *bench) honestRates(ctx context.Context) ([]honestRate, error) {
	rows := map[*tool]*honestRate{}
	best := map[*tool][]float64{}
	for _, t := range b.tools {
		rows[t] = &honestRate{Tool: t.name, Skipped: t.skip}
		if t.skip == "" && !t.open {
			rows[t].Skipped = "has no open loop"
		}
	}
	for round := range b.Rounds {
		for _, t := range b.rotated(round, func(t *tool) bool { return rows[t].Skipped == "" }) {
			first, factor := 0.6*cmp.Or(b.closed[t], 20_000), 1.5
			if round > 0 && slices.Max(best[t]) == 0 {
				continue // held nothing in the round before: not looked for again
			} else if round > 0 {
				first, factor = slices.Max(best[t]), 1.1
			}
			rate, err := search(first, factor, b.Precision, func(rate int) (bool, error) {
				held, why, err := b.holds(ctx, t, rate)
				if err == nil {
					rows[t].Steps = append(rows[t].Steps, fmt.Sprintf("%d: %s", rate, why))
					b.progress("honest rate, round %d: %s %d/s: %s", round+1, t.name, rate, why)
				}
				return held, err
			})
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil {
				rows[t].Skipped = err.Error()
				b.progress("honest rate, round %d: %v", round+1, err)
				continue
			}
			best[t] = append(best[t], float64(rate))
		}
	}
	var all []honestRate
	for _, t := range b.tools {
		rows[t].PerSecond = spreadOf(best[t])
		all = append(all, *rows[t])
	}
	return all, nil
}

// holds says whether a tool keeps a rate, judged at the server, and by the tool itself where it warns.
func (b *bench) holds(ctx context.Context, t *tool, rate int) (held bool, why string, err error) {
	s, err := b.load(ctx, b.server, t, load{rate: rate, duration: b.Step}, null.Settings{})
	if err != nil {
		return false, "", err
	}
	planned := float64(rate) * b.Step.Seconds()
	why = fmt.Sprintf("%.2f %% in time, late p99 %s, max %s", 100*float64(s.Deviation.InTime)/planned,
		s.Deviation.P99.Round(time.Microsecond), s.Deviation.Max.Round(time.Microsecond))
	switch {
	case float64(s.Deviation.InTime) < inTime*planned, s.Deviation.P99 > punctual:
		return false, why + ": not held", nil
	case s.Warning != "":
		return false, why + ": " + s.Warning, nil
	}
	return true, why, nil
}

// search finds the highest rate that holds, to precision, the ratio of the lowest that was seen to fail and the result. It begins
// at first and moves by factor until it has one of each. 0: nothing above floor held.
func search(first, factor, precision float64, holds func(int) (bool, error)) (int, error) {
	low, high := 0, 0 // the highest that held, the lowest that failed
	rate := whole(first)
	for {
		held, err := holds(rate)
		if err != nil {
			return 0, err
		}
		if held {
			low = rate
		} else {
			high = rate
		}
		switch {
		case high == 0:
			rate = whole(float64(low) * factor)
		case low == 0:
			// Far off, perhaps: each step down is wider than the one before.
			rate = whole(float64(high) / factor)
			factor *= factor
			if rate < floor {
				return 0, nil
			}
		default:
			rate = whole(math.Sqrt(float64(low) * float64(high)))
			if float64(high) <= precision*float64(low) || rate <= low || rate >= high {
				return low, nil
			}
		}
	}
}
