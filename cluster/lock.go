// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lock keeps two commands from changing one environment at once: the second is
// told so. The kernel gives the lock back when its holder is killed.
func (c Config) lock() (unlock func(), err error) {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(c.StateDir, c.Name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock environment %q: %w", c.Name, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(file, 20))
		closeErr := file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another harness (process %s) is changing environment %q: wait until it ends, or use another --name", strings.TrimSpace(string(holder)), c.Name)
		}
		return nil, errors.Join(fmt.Errorf("lock environment %q: %w", c.Name, err), closeErr)
	}
	if err := errors.Join(file.Truncate(0), func() error { _, err := fmt.Fprintln(file, os.Getpid()); return err }()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}
