// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A usage is what this process has used so far.
type usage struct {
	cpu       float64 // seconds
	throttled uint64  // periods in which the cgroup's limit stopped it
}

func readUsage() usage {
	var u usage
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err == nil {
		u.cpu = time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
	}
	// A process in a root or v1 cgroup has no such file or line: not throttled, as far as can be known.
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return u
	}
	_, path, _ := strings.Cut(strings.TrimSpace(string(own)), "::")
	stat, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", filepath.Clean("/"+path), "cpu.stat"))
	if err != nil {
		return u
	}
	for line := range strings.Lines(string(stat)) {
		if n, ok := strings.CutPrefix(line, "nr_throttled "); ok {
			u.throttled, _ = strconv.ParseUint(strings.TrimSpace(n), 10, 64)
		}
	}
	return u
}
