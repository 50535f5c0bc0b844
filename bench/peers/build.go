// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const module = "harness.example/harness/bench/peers"

// build makes every tool's binary in dir and notes its version. A peer that cannot be had is skipped with the reason; ours must
// build.
func build(ctx context.Context, all []*tool, dir string, progress func(string, ...any)) error {
	root, err := output(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Dir}}")
	name, here, _ := strings.Cut(strings.TrimSpace(root), " ")
	if err != nil || name != module {
		return errors.Join(fmt.Errorf("this must be run in bench/peers, as `make bench-peers` does"), err)
	}
	packages := map[string]string{"vegeta": "github.com/tsenart/vegeta/v12", "fortio": "fortio.org/fortio", "hey": "github.com/rakyll/hey"}
	failed := map[string]string{}
	for _, t := range all {
		program, _, _ := strings.Cut(t.name, " ")
		t.path = filepath.Join(dir, program)
		if reason, ok := failed[program]; ok {
			t.skip = reason
			continue
		}
		if _, err := os.Stat(t.path); err == nil {
			t.Version = builtVersion(t.path)
			continue
		}
		progress("build %s", program)
		switch {
		case program == ours:
			if _, err := output(ctx, "go", "build", "-C", filepath.Join(here, "..", ".."), "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", t.path, "./cmd/harness"); err != nil {
				return err
			}
			t.Version = describe(ctx, here)
		case program == "wrk":
			if t.path, err = findWrk(ctx, progress); err == nil {
				t.Version, err = wrkVersion(ctx, t.path)
			}
		default:
			if _, err = output(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", t.path, packages[program]); err == nil {
				t.Version = builtVersion(t.path)
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			t.skip = err.Error()
			failed[program] = t.skip
			progress("%s takes no part: %v", t.name, err)
		}
	}
	return nil
}

// builtVersion is the version of the module that a Go binary's main package comes from.
func builtVersion(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return info.Main.Version
}

func describe(ctx context.Context, dir string) string {
	version, err := output(ctx, "git", "-C", dir, "describe", "--tags", "--always", "--dirty")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(version)
}

// findWrk installs wrk where that is possible: it is written in C, and no Go module.
func findWrk(ctx context.Context, progress func(string, ...any)) (string, error) {
	if path, err := exec.LookPath("wrk"); err == nil {
		return path, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Getuid() != 0 {
		return "", errors.New("wrk is not installed, and only root on Debian can have it installed here: install wrk")
	}
	progress("install wrk")
	const install = "apt-get update -q && apt-get install -y -q --no-install-recommends wrk"
	if _, err := output(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", install); err != nil {
		return "", err
	}
	return exec.LookPath("wrk")
}

// wrkVersion reads the first line of what wrk says, which it says with exit code 1.
func wrkVersion(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "wrk" {
		return "", errors.Join(fmt.Errorf("%s --version said %q", path, line), err)
	}
	return words[1], nil
}

// output runs a command and returns what it prints; what it says of its failure is in the error.
func output(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String())
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said[max(0, len(said)-500):])
	}
	return stdout.String(), nil
}
