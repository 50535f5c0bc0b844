// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns/"

// insideVariable tells a process that it was started inside the namespace it names.
const insideVariable = "HARNESS_NETNS"

// Enter puts this process into the environment's network namespace, which it
// makes where it is missing, by starting the same command again inside: all
// threads of a Go program share what the process started with. On success it
// does not return. It returns nil inside, or where the environment is not isolated.
func Enter(c Config) error {
	s, err := c.load()
	if errors.Is(err, ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	name := c.network()
	if !s.Isolated || os.Getenv(insideVariable) == name {
		return nil
	}
	if err := makeNetns(name); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this executable: %w", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	handle, err := netns.GetFromName(name)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", name, err)
	}
	defer handle.Close()
	if err := netns.Set(handle); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	// The new program starts on this thread, and so inside.
	err = unix.Exec(exe, os.Args, append(os.Environ(), insideVariable+"="+name))
	return fmt.Errorf("start %s inside network namespace %s: %w", exe, name, err)
}

// makeNetns makes a network namespace that has loopback and nothing else.
func makeNetns(name string) error {
	if _, err := os.Stat(netnsDir + name); err != nil {
		if err := ip("netns", "add", name); err != nil {
			return err
		}
	}
	return ip("-n", name, "link", "set", "lo", "up")
}

func removeNetns(name string) error {
	if _, err := os.Stat(netnsDir + name); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return ip("netns", "delete", name)
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// keepNeighbours has this namespace ask everybody again before it gives a
// neighbour up. MetalLB moves an external address from node to node; whoever
// knows the old node asks only that one, and then drops what it has to send.
func keepNeighbours() error {
	devices, err := filepath.Glob("/proc/sys/net/ipv4/neigh/*/mcast_resolicit")
	if err != nil {
		return err
	}
	for _, device := range devices {
		// "default" is the machine's, and not for a namespace to change.
		if filepath.Base(filepath.Dir(device)) == "default" {
			continue
		}
		if err := os.WriteFile(device, []byte("3"), 0o600); err != nil {
			return fmt.Errorf("keep neighbours: %w", err)
		}
	}
	return nil
}
