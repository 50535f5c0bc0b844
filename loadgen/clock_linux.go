// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A clock waits for less than Go's own timers can: they round up to whole milliseconds when nothing else runs. A timer of the
// kernel, waited for as one waits for a connection, is some microseconds late and keeps no thread: sleeping in the kernel would hold
// a processor from the goroutines, and spinning the answers from being noticed.
type clock struct{ timer *os.File } // nil: Go's timers

func newClock() clock {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return clock{}
	}
	return clock{os.NewFile(uintptr(fd), "timer")}
}

func (c clock) close() {
	if c.timer != nil {
		_ = c.timer.Close()
	}
}

// sleep waits for about d.
func (c clock) sleep(d time.Duration) {
	if c.timer == nil {
		time.Sleep(d)
		return
	}
	raw, err := c.timer.SyscallConn()
	if err == nil {
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(d.Nanoseconds(), 1))} // 0 would disarm it
		_ = raw.Control(func(fd uintptr) { err = unix.TimerfdSettime(int(fd), 0, &spec, nil) })
	}
	if err != nil {
		time.Sleep(d)
		return
	}
	var expired [8]byte
	_, _ = c.timer.Read(expired[:]) // the caller looks at its own clock again
}
