// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"harness.example/harness/bench/peers/null"
)

// A run is a command that has ended.
type run struct {
	Command        []string
	Stdout, Stderr string
	Exit           int
	CPU, Took      time.Duration // CPU: user and system time of the process
}

// pinned runs a command on one core with GOMAXPROCS=1 until it ends, ctx ends, or limit is over; the last two are errors. A
// command that fails is none: its exit code is data.
func pinned(ctx context.Context, core int, limit time.Duration, dir string, stdin string, command ...string) (run, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s did not end within %s", command[0], limit))
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, bytes.NewBufferString(stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=100", "GOMEMLIMIT=off")
	cmd.WaitDelay = 2 * time.Second
	began := time.Now()
	if err := startOn(core, cmd); err != nil {
		return run{}, err
	}
	err := cmd.Wait()
	r := run{Command: command, Stdout: stdout.String(), Stderr: stderr.String(), Took: time.Since(began),
		Exit: cmd.ProcessState.ExitCode(), CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return r, fmt.Errorf("run %s: %w", command[0], err)
	}
	return r, nil
}

// startOn starts cmd on one core: a process inherits the affinity of the thread that forks it.
func startOn(core int, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	var before, only unix.CPUSet
	only.Set(core)
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read the CPU affinity: %w", err)
	}
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("pin to core %d: %w", core, err)
	}
	err := cmd.Start()
	// A thread that cannot be given its cores back stays locked and is never used again.
	if unix.SchedSetaffinity(0, &before) == nil {
		runtime.UnlockOSThread()
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

// A server is a null server in a process of its own.
type server struct {
	*null.Client
	url string
	end func()
}

type addresses struct{ HTTP, Control string }

// serveNull is the life of that process: it says where it listens and serves until its standard input is closed, which also
// happens when the process that started it dies.
func serveNull() error {
	s, err := null.Listen()
	if err != nil {
		return err
	}
	defer s.Close()
	if err := json.NewEncoder(os.Stdout).Encode(addresses{s.Addr(), s.ControlAddr()}); err != nil {
		return fmt.Errorf("say where the null server listens: %w", err)
	}
	runtime.LockOSThread()
	return s.Serve(int(os.Stdin.Fd()))
}

func startServer(ctx context.Context, core int) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, nullCommand)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the null server: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the null server: %w", err)
	}
	if err := startOn(core, cmd); err != nil {
		return nil, err
	}
	end := func() {
		_ = stdin.Close()
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
	}
	var at addresses
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil || err == io.EOF {
		err = json.Unmarshal(line, &at)
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("the null server did not say where it listens: %w", err)
	}
	client, err := null.Dial(ctx, at.Control)
	if err != nil {
		end()
		return nil, err
	}
	return &server{Client: client, url: "http://" + at.HTTP + "/", end: func() { _ = client.Close(); end() }}, nil
}
