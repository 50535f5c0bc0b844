// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is the far end of a new pseudo-terminal.
func terminal(t *testing.T) *os.File {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = ptmx.Close() })
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return tty
}

func TestColorAndAnimation(t *testing.T) {
	tty := terminal(t)
	for _, c := range []struct {
		noColor, term, ci string
		color, move       bool
	}{
		{"", "xterm", "", true, true},
		{"1", "xterm", "", false, false}, // NO_COLOR counts when it is set and not empty
		{"", "dumb", "", false, false},
		{"", "xterm", "true", true, false},
	} {
		t.Setenv("NO_COLOR", c.noColor)
		t.Setenv("TERM", c.term)
		t.Setenv("CI", c.ci)
		if colored(tty) != c.color || animated(tty) != c.move {
			t.Errorf("%+v: colored %v, animated %v", c, colored(tty), animated(tty))
		}
	}
}
