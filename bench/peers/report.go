// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// A result is everything that was measured.
type result struct {
	Machine  string        `json:"machine"`
	Before   []noise       `json:"noiseBefore"`
	After    []noise       `json:"noiseAfter"`
	Size     size          `json:"size"`
	Versions []version     `json:"versions"`
	Closed   []closedLoop  `json:"closedLoop"`
	Honest   []honestRate  `json:"honestRate"`
	Stall    []stallRow    `json:"stall"`
	Under    []underRow    `json:"underDelivery"`
	Goals    []goal        `json:"goals"`
	Took     time.Duration `json:"took"`
}

type version struct {
	Tool    string `json:"tool"`
	Version string `json:"version"`
	Skipped string `json:"skipped,omitempty"`
}

// A goal is what ours shall reach.
type goal struct {
	Goal string `json:"goal"`
	Met  string `json:"met"` // yes, no or unjudged
	Is   string `json:"is"`
}

const stallError = 0.02 // of the 99th percentile, that ours may make

const (
	met      = "yes"
	missed   = "no"
	unjudged = "unjudged"
)

func verdict(ok bool) string {
	if ok {
		return met
	}
	return missed
}

// judge holds ours against the goals. What could not be measured on either side is not judged.
func (r *result) judge() {
	for j, level := range levels {
		own := r.Honest[0].Levels[j].Median
		for _, h := range r.Honest {
			if h.Tool != "vegeta" && h.Tool != "fortio -stdclient" {
				continue
			}
			peer := h.Levels[j].Median
			g := goal{fmt.Sprintf("highest honest rate, late by ≤ %s, at least that of %s", level, h.Tool), verdict(own >= peer),
				fmt.Sprintf("%.0f/s and %.0f/s: %s", own, peer, ratio(own, peer))}
			if own == 0 && peer == 0 || r.Honest[0].Skipped != "" || h.Skipped != "" {
				g.Met = unjudged
			}
			r.Goals = append(r.Goals, g)
		}
	}
	own := r.Stall[0]
	r.Goals = append(r.Goals, goal{"99th percentile under a stall within 2 % of the truth", verdict(own.Skipped == "" && math.Abs(own.Error) <= stallError),
		fmt.Sprintf("%+.2f %% %s", 100*own.Error, own.Skipped)})
	for _, u := range r.Under {
		if u.Tool == ours {
			r.Goals = append(r.Goals, goal{"says that the rate was not met, limited by " + u.Limit, verdict(u.Skipped == "" && u.Flagged),
				fmt.Sprintf("exit code %d, %s%s", u.Exit, u.Says, u.Skipped)})
		}
	}
}

// exit is the exit code.
func (r *result) exit() int {
	code := 0
	for _, g := range r.Goals {
		switch {
		case g.Met == missed:
			return exitMissed
		case g.Met == unjudged:
			code = exitUnjudged
		}
	}
	return code
}

// ratio is ours ÷ a peer's.
func ratio(own, peer float64) string {
	if own <= 0 || peer <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", own/peer)
}

func (s spread) text(format string) string {
	if len(s.Rounds) == 0 {
		return "–"
	}
	if len(s.Rounds) == 1 {
		return fmt.Sprintf(format, s.Median)
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+", %d×)", s.Median, s.Min, s.Max, len(s.Rounds))
}

// print writes Markdown.
func (r *result) print(w io.Writer) {
	fmt.Fprintf(w, "# Load generators side by side\n\n%s. One core for the null server, one for the tool, %d connections, %d round(s): median (lowest–highest, rounds). Took %s.\n",
		r.Machine, connections, r.Size.Rounds, r.Took)
	loud := false
	for i, when := range []string{"before", "after"} {
		for _, n := range [][]noise{r.Before, r.After}[i] {
			fmt.Fprintf(w, "\nCore %d %s: %.2f %% of its time was taken away, %s at most at once.\n", n.Core, when, 100*n.Lost, n.Longest.Round(time.Microsecond))
			loud = loud || n.Lost > loudNoise
		}
	}
	if loud {
		fmt.Fprintf(w, "\n**The machine is not quiet: more than %.1f %% of a core was taken away. The highest honest rates below are the machine's rather than the tools'.**\n", 100*loudNoise)
	}

	fmt.Fprintf(w, "\n## Versions\n\n")
	t := table{{"tool", "version"}}
	for _, v := range r.Versions {
		t = append(t, []string{v.Tool, v.Version + noted(v.Skipped)})
	}
	t.print(w)

	fmt.Fprintf(w, "\n## Closed loop: requests per second, as many as it can\n\n")
	own := r.Closed[0]
	t = table{{"tool", "requests/s", "harness ÷ tool", "CPU µs per request", "harness ÷ tool", ""}}
	for _, c := range r.Closed {
		t = append(t, []string{c.Tool, c.PerSecond.text("%.0f"), ratio(own.PerSecond.Median, c.PerSecond.Median),
			c.CPU.text("%.1f"), ratio(own.CPU.Median, c.CPU.Median), c.note()})
	}
	t.print(w)

	fmt.Fprintf(w, "\n## Highest honest rate: ≥ %.1f %% of the requests arrived in time, to %.0f %%\n\nLate: the 99th percentile at the server, against an even schedule.\n\n",
		100*inTime, 100*(r.Size.Precision-1))
	t = table{{"tool"}}
	for _, level := range levels {
		t[0] = append(t[0], fmt.Sprintf("requests/s, late by ≤ %s", level), "harness ÷ tool")
	}
	t[0] = append(t[0], "")
	for i, h := range r.Honest {
		row := []string{h.Tool}
		note := h.Skipped
		closed := r.Closed[i].PerSecond
		for j := range levels {
			rate := h.Levels[j]
			if note != "" && len(closed.Rounds) > 0 && len(rate.Rounds) == 0 {
				rate, note = closed, "no open loop: its closed loop's rate stands in"
			}
			row = append(row, rate.text("%.0f"), ratio(r.Honest[0].Levels[j].Median, rate.Median))
		}
		t = append(t, append(row, note))
	}
	t.print(w)

	truth := stallTruth(r.Size.Stall, r.Size.Load)
	fmt.Fprintf(w, "\n## Planted stall: the server stops for %s in the middle of %s at %d/s\n\nThe 99th percentile of the response time from schedule is %s − %s/100 = %s.\n\n",
		r.Size.Stall, r.Size.Load, whole(stallRate), r.Size.Stall, r.Size.Load, truth)
	t = table{{"tool", "says p99", "error", "p99 of the lateness at the server", "requests that arrived", ""}}
	for _, s := range r.Stall {
		if s.Skipped != "" {
			t = append(t, []string{s.Tool, "–", "–", "–", "–", s.Skipped})
			continue
		}
		t = append(t, []string{s.Tool, s.P99.Round(100 * time.Microsecond).String(), fmt.Sprintf("%+.2f %%", 100*s.Error),
			s.AtServer.Round(100 * time.Microsecond).String(), fmt.Sprint(s.Requests), ""})
	}
	t.print(w)

	fmt.Fprintf(w, "\n## Under-delivery: asked for more than can be done\n\nFlagged: an exit code other than 0, or a warning in words.\n\n")
	t = table{{"limited by", "tool", "asked/s", "came/s", "exit code", "flagged", "says"}}
	for _, u := range r.Under {
		if u.Skipped != "" {
			t = append(t, []string{u.Limit, u.Tool, "–", "–", "–", "–", u.Skipped})
			continue
		}
		flagged := "no"
		if u.Flagged {
			flagged = "yes"
		}
		t = append(t, []string{u.Limit, u.Tool, fmt.Sprint(u.Asked), fmt.Sprintf("%.0f", u.Came), fmt.Sprint(u.Exit), flagged, u.Says})
	}
	t.print(w)

	fmt.Fprintf(w, "\n## Goals\n\n")
	t = table{{"goal", "met", "is"}}
	for _, g := range r.Goals {
		t = append(t, []string{g.Goal, g.Met, g.Is})
	}
	t.print(w)
}

func (c closedLoop) note() string {
	if c.Skipped != "" {
		return c.Skipped
	}
	for _, n := range c.Connections {
		if n != connections {
			return fmt.Sprintf("used %v connections", c.Connections)
		}
	}
	return ""
}

func noted(skipped string) string {
	if skipped == "" {
		return ""
	}
	return "takes no part: " + skipped
}

// A table is rows of cells, the first of them the head.
type table [][]string

func (t table) print(w io.Writer) {
	for i, row := range t {
		cells := make([]string, len(row))
		for j, cell := range row {
			cells[j] = strings.NewReplacer("|", `\|`, "\n", " ").Replace(cell)
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
}
