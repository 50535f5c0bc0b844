// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package loadgen

import "time"

// A clock waits; here with Go's timers, which may be a millisecond late.
type clock struct{}

func newClock() clock { return clock{} }

func (clock) close() {}

func (clock) sleep(d time.Duration) { time.Sleep(d) }
