// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"harness.example/harness/bench/peers/null"
)

// attempt is what a load at rate came to: all but missing arrived in time, late by p99.
func attempt(rate, missing int, p99 time.Duration, exit int) sample {
	return sample{run: run{Exit: exit}, Report: null.Report{Deviation: null.Deviation{InTime: rate - missing, P99: p99}}}
}

func TestSearch(t *testing.T) {
	tries := 0
	s := &searcher{size: size{Step: time.Second, Precision: 1.03, Tries: 2}, tries: map[int][]sample{}}
	// On time up to 20,000/s, late by 5 ms up to 30,000/s, and hopeless beyond; noise spoils the first try of each rate.
	s.try = func(_ context.Context, rate int) (sample, error) {
		tries++
		switch {
		case rate > 30_000:
			return attempt(rate, rate/2, time.Second, 0), nil
		case len(s.tries[rate]) == 0:
			return attempt(rate, 0, 20*time.Millisecond, 0), nil
		case rate > 20_000:
			return attempt(rate, 0, 5*time.Millisecond, 0), nil
		}
		return attempt(rate, 0, 100*time.Microsecond, 0), nil
	}
	for _, test := range []struct {
		level time.Duration
		first float64
		limit int
	}{{time.Millisecond, 12_345, 20_000}, {10 * time.Millisecond, 50_000, 30_000}} {
		got, err := s.search(t.Context(), test.first, 1.5, test.level)
		if err != nil || got > test.limit || float64(got) < float64(test.limit)/1.03-connections {
			t.Errorf("late by %s: %d %v, want at most 3 %% below %d", test.level, got, err, test.limit)
		}
	}
	if tries > 30 {
		t.Errorf("%d tries", tries)
	}
	for rate, all := range s.tries {
		if rate > 30_000 && len(all) > 1 {
			t.Errorf("%d/s was hopeless and tried %d times", rate, len(all))
		}
	}
}

func TestSearchFindsNothing(t *testing.T) {
	s := &searcher{size: size{Step: time.Second, Precision: 1.03, Tries: 1}, tries: map[int][]sample{}}
	s.try = func(_ context.Context, rate int) (sample, error) { return attempt(rate, 0, time.Second, 0), nil }
	if got, err := s.search(t.Context(), 30_000, 1.5, time.Millisecond); got != 0 || err != nil {
		t.Errorf("%d %v, want 0: no rate holds", got, err)
	}
	broken := errors.New("broken")
	s = &searcher{size: s.size, tries: map[int][]sample{}, try: func(context.Context, int) (sample, error) { return sample{}, broken }}
	if _, err := s.search(t.Context(), 30_000, 1.5, time.Millisecond); !errors.Is(err, broken) {
		t.Errorf("%v, want the error of the try", err)
	}
}

func TestJudged(t *testing.T) {
	strict, loose := levels[0], levels[1]
	for _, test := range []struct {
		name       string
		try        sample
		level      time.Duration
		held, over bool
	}{
		{"held", attempt(10_000, 10, strict, 0), strict, true, false},
		{"one too few", attempt(10_000, 11, strict, 0), strict, false, false},
		{"a little late", attempt(10_000, 0, strict+1, 0), strict, false, false},
		{"late but within the other level", attempt(10_000, 0, strict+1, 0), loose, true, false},
		{"the tool says INVALID", attempt(10_000, 0, 0, 3), strict, false, false},
		{"the same at the other level", attempt(10_000, 0, 0, 3), loose, true, false},
		{"hopeless", attempt(10_000, 101, 0, 0), strict, false, true},
	} {
		s := &searcher{size: size{Step: time.Second, Tries: 2}, tries: map[int][]sample{10_000: {test.try}}}
		if held, over := s.judged(10_000, test.level); held != test.held || over != test.over {
			t.Errorf("%s: held %t, over %t, want %t, %t", test.name, held, over, test.held, test.over)
		}
	}
}

// TestStallTruth counts what the formula says: requests evenly due, those of the stall wait for its end.
func TestStallTruth(t *testing.T) {
	for _, test := range []struct{ stall, load, want time.Duration }{
		{2 * time.Second, 30 * time.Second, 1700 * time.Millisecond},
		{time.Second, 6 * time.Second, 940 * time.Millisecond},
		{100 * time.Millisecond, 20 * time.Second, 0}, // less than 1 % is stalled
	} {
		if got := stallTruth(test.stall, test.load); got != test.want {
			t.Errorf("%s in %s: %s, want %s", test.stall, test.load, got, test.want)
		}
		const rate = 10_000
		begin := (test.load - test.stall) / 2
		arrivals := make([]int64, int(rate*test.load.Seconds()))
		for k := range arrivals {
			at := time.Duration(k) * time.Second / rate
			if at >= begin && at < begin+test.stall {
				at = begin + test.stall
			}
			arrivals[k] = int64(at)
		}
		d, _ := null.Deviate(arrivals, rate, test.load, nil)
		if off := math.Abs((d.P99 - test.want).Seconds()); off > 2.0/rate {
			t.Errorf("%s in %s: %s counted, want %s", test.stall, test.load, d.P99, test.want)
		}
	}
}

// TestRead reads what the tools print, as they printed it.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	const fortio = `{"RequestedQPS":"6400","ActualQPS":3065.4,"DurationHistogram":{"Count":3056,"Percentiles":[{"Percentile":99,"Value":0.0061}]}}`
	if err := os.WriteFile(filepath.Join(dir, "fortio.json"), []byte(fortio), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		read func(context.Context, load, run) (said, error)
		run  run
		want said
	}{
		{"fortio", readFortio, run{Stdout: "Aggregated Sleep Time : count 100\nWARNING 98.50% of sleep were falling behind\n"},
			said{6100 * time.Microsecond, "RequestedQPS 6400, ActualQPS 3065", "WARNING 98.50% of sleep were falling behind"}},
		{"fortio on time", readFortio, run{Stdout: "Sleep times : count 100\n"}, said{6100 * time.Microsecond, "RequestedQPS 6400, ActualQPS 3065", ""}},
		{"hey", readHey, run{Stdout: "  Requests/sec:\t3016.3635\n\nLatency distribution:\n  95%% in 0.0052 secs\n  99%% in 0.0061 secs\n"},
			said{6100 * time.Microsecond, "Requests/sec 3016.3635", ""}},
		{"wrk", readWrk, run{Stdout: "Requests/sec: 173073.10\n"}, said{0, "Requests/sec 173073.10", ""}},
		{"harness", readHarness, run{Stdout: `{"planned":100,"sent":90,"unsent":10,"verdict":"INVALID","reason":"only 90 of 100"}`},
			said{0, "INVALID, planned 100, sent 90", "INVALID: only 90 of 100"}},
	} {
		got, err := test.read(t.Context(), load{dir: dir}, test.run)
		if err != nil || got != test.want {
			t.Errorf("%s: %+v %v, want %+v", test.name, got, err, test.want)
		}
		if _, err := test.read(t.Context(), load{dir: t.TempDir()}, run{Stdout: "nonsense"}); err == nil {
			t.Errorf("%s: nonsense was read", test.name)
		}
	}
}

func TestPace(t *testing.T) {
	// 1000 requests of a connection in 999 intervals; 16 connections every 1333 µs instead of 1333.33.
	if got, want := fortioPace(load{rate: 16_000, duration: time.Second, connections: 16}), 16_000*0.999; math.Abs(got-want) > 1e-6 {
		t.Errorf("fortio: %v, want %v", got, want)
	}
	if got, want := heyPace(load{rate: 12_000, duration: time.Second, connections: 16}), 16e6/1333; math.Abs(got-want) > 1e-6 {
		t.Errorf("hey: %v, want %v", got, want)
	}
}

// TestServer starts the null server as a process, which ends when its standard input does.
func TestServer(t *testing.T) {
	s, err := startServer(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	r, err := s.Report(null.Question{})
	if err != nil || r.Requests != 0 {
		t.Errorf("%+v %v, want no requests", r, err)
	}
}

// TestMain lets the tests' binary be the null server, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == nullCommand {
		os.Exit(program(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}
