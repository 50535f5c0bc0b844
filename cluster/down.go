// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Down removes everything of the environment but the caches. It may be called
// twice, and on what an interrupted Up left. It runs inside or outside of the
// environment's namespace.
func Down(ctx context.Context, c Config, progress Progress) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	t := &tracker{progress: progress}
	s, err := c.load()
	if errors.Is(err, ErrAbsent) {
		s, err = &state{Engine: c.Engine}, nil
	}
	if err != nil {
		// A torn state file must not keep anybody from cleaning up.
		s = &state{Engine: c.Engine}
	}
	engine, engineErr := findEngine(ctx, s.Engine, c.StateDir)
	var failed []error
	for _, step := range []step{
		{"nodes", func(ctx context.Context, _ func(string)) error {
			if engineErr != nil {
				return nil // without an engine there are no nodes
			}
			return newKind(c, engine).delete(ctx)
		}},
		{"network", func(ctx context.Context, _ func(string)) error {
			if engineErr != nil || !hasNetwork(ctx, engine, c.network()) {
				return nil
			}
			_, err := engine.output(ctx, "network", "rm", "--force", c.network())
			return err
		}},
		{"processes", func(context.Context, func(string)) error { return c.endProcesses() }},
		{"network namespace", func(context.Context, func(string)) error { return removeNetns(c.network()) }},
		{"state", func(context.Context, func(string)) error { return c.removeState() }},
	} {
		failed = append(failed, t.run(ctx, "", step))
	}
	return errors.Join(failed...)
}

func hasNetwork(ctx context.Context, e *engine, name string) bool {
	out, err := e.output(ctx, "network", "ls", "--format", "{{.Name}}")
	if err != nil {
		return false
	}
	for line := range strings.Lines(out) {
		if strings.TrimSpace(line) == name {
			return true
		}
	}
	return false
}

// removeState removes the environment's own directory, and what is shared when
// no other environment uses it.
func (c Config) removeState() error {
	if err := os.RemoveAll(c.dir()); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.StateDir)
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			return nil
		}
	}
	return os.RemoveAll(c.StateDir)
}

// endProcesses ends what still runs in the environment's namespace: the
// engine's helpers outlive containers that were killed.
func (c Config) endProcesses() error {
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		pids, err := c.processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, signal)
		}
		for range 50 {
			if pids, err = c.processes(); err != nil || len(pids) == 0 {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	pids, err := c.processes()
	if err == nil && len(pids) > 0 {
		err = fmt.Errorf("processes %v do not end", pids)
	}
	return err
}

// processes lists those in the environment's namespace, this one and its
// parents left out.
func (c Config) processes() ([]int, error) {
	var want unix.Stat_t
	if err := unix.Stat(netnsDir+c.network(), &want); err != nil {
		return nil, nil
	}
	own := ancestors()
	entries, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		var got unix.Stat_t
		if unix.Stat(entry, &got) != nil || got.Ino != want.Ino || got.Dev != want.Dev {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(entry, "/")[2]); err == nil && !own[pid] {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func ancestors() map[int]bool {
	found := map[int]bool{}
	for pid := os.Getpid(); pid > 1 && !found[pid]; {
		found[pid] = true
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			break
		}
	}
	return found
}

// Leaks lists what of the environment is still there: nothing, after Down.
func Leaks(ctx context.Context, c Config) ([]string, error) {
	var left []string
	for _, name := range []string{"podman", "docker"} {
		engine, err := findEngine(ctx, name, c.StateDir)
		if err != nil {
			continue
		}
		nodes, err := newKind(c, engine).nodes(ctx)
		if err != nil {
			return left, err
		}
		for _, node := range nodes {
			left = append(left, "container "+node.Name)
		}
		volumes, err := newKind(c, engine).volumes(ctx)
		if err != nil {
			return left, err
		}
		for _, volume := range volumes {
			left = append(left, "volume "+volume)
		}
		if hasNetwork(ctx, engine, c.network()) {
			left = append(left, "network "+c.network())
		}
	}
	pids, err := c.processes()
	if err != nil {
		return left, err
	}
	for _, pid := range pids {
		left = append(left, fmt.Sprintf("process %d in the network namespace", pid))
	}
	if _, err := os.Stat(netnsDir + c.network()); err == nil {
		left = append(left, "network namespace "+c.network())
	}
	mounts, err := mountsBelow(c.dir())
	if err != nil {
		return left, err
	}
	for _, mount := range mounts {
		left = append(left, "mount "+mount)
	}
	if _, err := os.Stat(c.dir()); err == nil {
		left = append(left, "directory "+c.dir())
	}
	// Asking podman wrote its settings again.
	return left, c.removeState()
}

func mountsBelow(dir string) ([]string, error) {
	file, err := os.Open("/proc/self/mounts")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && strings.HasPrefix(fields[1], dir) {
			found = append(found, fields[1])
		}
	}
	return found, nil
}
