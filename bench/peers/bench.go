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
	Tries     int           // at one rate: a tool that cannot do it never will, the others are not to suffer from noise
	Search    time.Duration // of all of it: a round that would take it beyond this is not begun
	Load      time.Duration // of the load that is stalled
	Stall     time.Duration
	Under     time.Duration // of one load that cannot be delivered
}

var (
	full  = size{Rounds: 3, Closed: 3 * time.Second, Step: 2 * time.Second, Precision: 1.05, Tries: 2, Load: 30 * time.Second, Stall: 2 * time.Second, Search: 5 * time.Minute, Under: 2 * time.Second}
	quick = size{Rounds: 1, Closed: time.Second, Step: time.Second, Precision: 1.25, Tries: 1, Load: 6 * time.Second, Stall: time.Second, Search: time.Minute, Under: time.Second}
)

const connections = 16 // of every tool

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

// rotated is the numbers of the tools that take part, beginning with another one in each round.
func (b *bench) rotated(round int, takesPart func(int) bool) []int {
	var all []int
	for i := range b.tools {
		if takesPart(i) {
			all = append(all, i)
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
	rows := make([]closedLoop, len(b.tools))
	rates, costs := make([][]float64, len(b.tools)), make([][]float64, len(b.tools))
	for i, t := range b.tools {
		rows[i] = closedLoop{Tool: t.name, Skipped: cmp.Or(t.skip, t.unless(t.closed, "is not compared here"))}
	}
	for round := range b.Rounds {
		for _, i := range b.rotated(round, func(i int) bool { return rows[i].Skipped == "" }) {
			t := b.tools[i]
			s, err := b.load(ctx, b.server, t, load{duration: b.Closed}, null.Settings{})
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil {
				rows[i].Skipped = err.Error()
				b.progress("closed loop, round %d: %v", round+1, err)
				continue
			}
			cost := float64(s.CPU.Nanoseconds()) / 1000 / float64(s.Requests)
			rates[i], costs[i] = append(rates[i], s.Rate()), append(costs[i], cost)
			rows[i].Connections = append(rows[i].Connections, len(s.Report.Connections))
			b.progress("closed loop, round %d: %s %.0f/s, %.1f µs of CPU time each", round+1, t.name, s.Rate(), cost)
		}
	}
	for i, t := range b.tools {
		rows[i].PerSecond, rows[i].CPU = spreadOf(rates[i]), spreadOf(costs[i])
		b.closed[t] = rows[i].PerSecond.Median
	}
	return rows, nil
}
