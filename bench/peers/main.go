// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Peers compares harness's load generator with others, on one core each, against one null server. See README.md.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Commands of this program, for itself.
const (
	nullCommand  = "null"
	noiseCommand = "noise"
)

// Exit codes, as harness's.
const (
	exitMissed   = 1 // a goal
	exitUsage    = 2
	exitUnjudged = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(program(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func program(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if own := map[string]func() error{nullCommand: serveNull, noiseCommand: func() error { return listen(stdout) }}; len(args) == 1 && own[args[0]] != nil {
		if err := own[args[0]](); err != nil {
			fmt.Fprintln(stderr, "ERROR:", err)
			return exitUnjudged
		}
		return 0
	}
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("out", "", "file for the result as JSON")
	short := flags.Bool("quick", false, "one short round, to see that everything works; its figures mean little")
	serverCore := flags.Int("server-core", 0, "core of the null server")
	core := flags.Int("core", 1, "core of the tools")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "ERROR: unexpected argument %q\nHint: run with -h for the flags\n", flags.Arg(0))
		return exitUsage
	}
	if err := checkCores(*serverCore, *core); err != nil {
		fmt.Fprintf(stderr, "ERROR: %v\nHint: choose two cores of this machine with -server-core and -core\n", err)
		return exitUsage
	}
	s, limit := full, 15*time.Minute
	if *short {
		s, limit = quick, 5*time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s", limit))
	defer cancel()
	r, err := compare(ctx, s, *serverCore, *core, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "ERROR:", err)
		return exitUnjudged
	}
	r.print(stdout)
	if *out != "" {
		if err := r.write(*out); err != nil {
			fmt.Fprintln(stderr, "ERROR:", err)
			return exitUnjudged
		}
	}
	return r.exit()
}

func checkCores(server, tools int) error {
	var usable unix.CPUSet
	if err := unix.SchedGetaffinity(0, &usable); err != nil {
		return fmt.Errorf("read the CPU affinity: %w", err)
	}
	for _, c := range []int{server, tools} {
		if c < 0 || !usable.IsSet(c) {
			return fmt.Errorf("core %d may not be used here", c)
		}
	}
	if server == tools {
		return fmt.Errorf("the null server and the tools cannot share core %d", server)
	}
	return nil
}

// compare builds the tools and does everything.
func compare(ctx context.Context, s size, serverCore, core int, stderr io.Writer) (*result, error) {
	began := time.Now()
	progress := func(format string, args ...any) {
		fmt.Fprintf(stderr, "%4.0fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	dir, err := os.MkdirTemp("", "harness-peers")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the tools: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // nothing could be done about it
	b := &bench{size: s, tools: tools(), core: core, serverCore: serverCore, dir: dir, progress: progress, closed: map[*tool]float64{}}
	r := &result{Machine: machine(), Size: s}
	if err := build(ctx, b.tools, dir, progress); err != nil {
		return nil, err
	}
	for _, t := range b.tools {
		r.Versions = append(r.Versions, version{t.name, t.Version, t.skip})
	}
	if r.Before, err = b.noises(ctx); err != nil {
		return nil, err
	}
	if b.server, err = startServer(ctx, serverCore); err != nil {
		return nil, err
	}
	defer b.server.end()
	if r.Closed, err = b.closedLoops(ctx); err != nil {
		return nil, err
	}
	if r.Honest, err = b.honestRates(ctx); err != nil {
		return nil, err
	}
	if r.Stall, err = b.stalls(ctx); err != nil {
		return nil, err
	}
	if r.Under, err = b.underDelivery(ctx); err != nil {
		return nil, err
	}
	if r.After, err = b.noises(ctx); err != nil {
		return nil, err
	}
	r.judge()
	r.Took = time.Since(began).Round(time.Second)
	return r, nil
}

func (r *result) write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("-out %s: %w", path, err)
	}
	return nil
}

// machine is what the figures hold for.
func machine() string {
	var name string
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, after, _ := strings.Cut(string(info), "model name")
		line, _, _ := strings.Cut(after, "\n")
		name = strings.TrimLeft(line, "\t :")
	}
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	return fmt.Sprintf("%d × %s, Linux %s, %s", runtime.NumCPU(), name, kernel, runtime.Version())
}
