// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A load is what a tool is asked for.
type load struct {
	url         string
	rate        int // requests per second; 0: as many as it can, each connection sending when its last answer is in
	duration    time.Duration
	connections int
	dir         string // for the tool's files
}

// perConnection is the rate of tools that are asked for one.
func (l load) perConnection() float64 { return float64(l.rate) / float64(l.connections) }

// What a tool says of its own load.
type said struct {
	P99     time.Duration // 0: it does not say
	Text    string        // the figures by which a reader could see that the rate was missed, as the tool calls them
	Warning string        // an explicit statement that it did not do what it was asked to
}

// A tool is a load generator, and how to ask it.
type tool struct {
	name    string
	command func(load) []string // without the binary
	stdin   func(load) string   // nil: nothing
	read    func(context.Context, load, run) (said, error)
	// What it takes part in: closed loops, the search for its highest honest rate, stalls and rates that cannot be met.
	closed, search, faults bool
	// warmup is how many requests it sends before its schedule begins.
	warmup func(load) int
	// pace is the rate that it means when it is asked for load.rate, where that is another one.
	pace func(load) float64

	Version string
	path    string
	skip    string // why it takes no part
}

const ours = "harness"

// tools are all that take part; versions and paths are filled in by build.
func tools() []*tool {
	all := []*tool{
		{name: ours, command: harnessCommand, read: readHarness},
		// Two ways to 16 connections: the first is the faster one, with the second one vegeta keeps its schedule through a stall.
		{name: "vegeta", command: vegetaCommand("-workers", "-max-workers"), stdin: vegetaTargets, read: readVegeta},
		{name: "vegeta -max-connections", command: vegetaCommand("-max-connections"), stdin: vegetaTargets, read: readVegeta},
		{name: "fortio -stdclient", command: fortioCommand("-stdclient"), read: readFortio, warmup: onePerConnection, pace: fortioPace},
		{name: "fortio", command: fortioCommand(), read: readFortio, warmup: onePerConnection, pace: fortioPace},
		{name: "hey", command: heyCommand, read: readHey, pace: heyPace},
		{name: "wrk", command: wrkCommand, read: readWrk},
	}
	for _, t := range all {
		t.closed = t.name != "vegeta -max-connections"
		t.faults = t.name != "wrk" // which has no open loop
		t.search = t.closed && t.faults
	}
	return all
}

// unless is why a tool does not take part in something.
func (t *tool) unless(takesPart bool, otherwise string) string {
	switch {
	case takesPart:
		return ""
	case !t.faults:
		return "has no open loop"
	}
	return otherwise
}

func seconds(d time.Duration) string { return fmt.Sprintf("%gs", d.Seconds()) }

// harnessCommand is the only place that knows how ours is asked, for either loop.
func harnessCommand(l load) []string {
	rate := "max"
	if l.rate > 0 {
		rate = strconv.Itoa(l.rate)
	}
	return []string{"load", l.url, "--rate", rate, "--duration", seconds(l.duration), "--warmup", "0s",
		"--connections", strconv.Itoa(l.connections), "-o", "json"}
}

func readHarness(_ context.Context, _ load, r run) (said, error) {
	var result struct {
		Planned, Sent, Unsent uint64
		Response              string
		Verdict, Reason       string
	}
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		return said{}, fmt.Errorf("read harness's result: %w", err)
	}
	s := said{Text: fmt.Sprintf("%s, planned %d, sent %d", result.Verdict, result.Planned, result.Sent)}
	if result.Verdict == "INVALID" {
		s.Warning = "INVALID: " + result.Reason
	}
	if result.Response != "" {
		h, err := hdrhistogram.Decode([]byte(result.Response))
		if err != nil {
			return said{}, fmt.Errorf("decode harness's response times: %w", err)
		}
		s.P99 = time.Duration(h.ValueAtPercentile(99)) * time.Microsecond
	}
	return s, nil
}

func vegetaCommand(bounds ...string) func(load) []string {
	return func(l load) []string {
		n := strconv.Itoa(l.connections)
		args := []string{"attack", "-rate", strconv.Itoa(l.rate), "-duration", l.duration.String(), "-output", filepath.Join(l.dir, "vegeta.bin"), "-connections", n}
		for _, bound := range bounds {
			args = append(args, bound, n)
		}
		return args
	}
}

func vegetaTargets(l load) string { return "GET " + l.url + "\n" }

func readVegeta(ctx context.Context, l load, r run) (said, error) {
	report, err := output(ctx, r.Command[0], "report", "-type", "json", filepath.Join(l.dir, "vegeta.bin"))
	if err != nil {
		return said{}, err
	}
	var m struct {
		Latencies struct {
			P99 time.Duration `json:"99th"`
		}
		Requests         int
		Rate, Throughput float64
	}
	if err := json.Unmarshal([]byte(report), &m); err != nil {
		return said{}, fmt.Errorf("read vegeta's report: %w", err)
	}
	return said{P99: m.Latencies.P99, Text: fmt.Sprintf("requests %d, rate %.0f, throughput %.0f", m.Requests, m.Rate, m.Throughput)}, nil
}

// -uniform, for otherwise all connections of fortio send at the same time; -r, for otherwise its quantiles are rough.
func fortioCommand(client ...string) func(load) []string {
	return func(l load) []string {
		args := append([]string{"load"}, client...)
		return append(args, "-uniform", "-c", strconv.Itoa(l.connections), "-qps", strconv.Itoa(l.rate), "-t", l.duration.String(),
			"-r", "0.0001", "-p", "99", "-json", filepath.Join(l.dir, "fortio.json"), l.url)
	}
}

func onePerConnection(l load) int { return l.connections }

// fortioPace is a little less than asked: fortio spreads the n requests of a connection over n−1 intervals.
func fortioPace(l load) float64 {
	n := l.perConnection() * l.duration.Seconds()
	return float64(l.rate) * (n - 1) / n
}

var fortioWarning = regexp.MustCompile(`WARNING [^\n]*|warning only did [^"\n]*`)

func readFortio(_ context.Context, l load, r run) (said, error) {
	data, err := os.ReadFile(filepath.Join(l.dir, "fortio.json"))
	if err != nil {
		return said{}, fmt.Errorf("read fortio's result: %w", err)
	}
	var m struct {
		RequestedQPS      string
		ActualQPS         float64
		DurationHistogram struct {
			Count       int
			Percentiles []struct{ Percentile, Value float64 }
		}
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return said{}, fmt.Errorf("read fortio's result: %w", err)
	}
	s := said{Text: fmt.Sprintf("RequestedQPS %s, ActualQPS %.0f", m.RequestedQPS, m.ActualQPS)}
	for _, p := range m.DurationHistogram.Percentiles {
		if p.Percentile == 99 {
			s.P99 = time.Duration(p.Value * float64(time.Second))
		}
	}
	s.Warning = fortioWarning.FindString(r.Stdout + "\n" + r.Stderr)
	return s, nil
}

func heyCommand(l load) []string {
	args := []string{"-z", l.duration.String(), "-c", strconv.Itoa(l.connections)}
	if l.rate > 0 {
		args = append(args, "-q", fmt.Sprint(l.perConnection()))
	}
	return append(args, l.url)
}

// heyPace is what comes of hey's interval, which it cuts to whole microseconds.
func heyPace(l load) float64 {
	interval := int(1e6 / l.perConnection())
	return float64(l.connections) * 1e6 / float64(max(interval, 1))
}

var (
	heyRate = regexp.MustCompile(`Requests/sec:\s*([\d.]+)`)
	heyP99  = regexp.MustCompile(`99%+ in ([\d.]+) secs`)
)

func readHey(_ context.Context, _ load, r run) (said, error) {
	rate, p99 := heyRate.FindStringSubmatch(r.Stdout), heyP99.FindStringSubmatch(r.Stdout)
	if rate == nil {
		return said{}, errors.New("read hey's result: no Requests/sec in it")
	}
	s := said{Text: "Requests/sec " + rate[1]}
	if p99 != nil {
		f, err := strconv.ParseFloat(p99[1], 64)
		if err != nil {
			return said{}, fmt.Errorf("read hey's result: %w", err)
		}
		s.P99 = time.Duration(f * float64(time.Second))
	}
	return s, nil
}

func wrkCommand(l load) []string {
	return []string{"-t", "1", "-c", strconv.Itoa(l.connections), "-d", seconds(l.duration), l.url}
}

var wrkRate = regexp.MustCompile(`Requests/sec:\s*([\d.]+)`)

func readWrk(_ context.Context, _ load, r run) (said, error) {
	rate := wrkRate.FindStringSubmatch(r.Stdout)
	if rate == nil {
		return said{}, errors.New("read wrk's result: no Requests/sec in it")
	}
	return said{Text: "Requests/sec " + rate[1]}, nil
}
