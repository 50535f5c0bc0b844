// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"harness.example/harness/cluster/images"
)

// need is a program and the Debian package that brings it.
type need struct{ program, pkg string }

var (
	podmanNeeds = []need{
		{"podman", "podman"}, {"/usr/lib/podman/netavark", "netavark"}, {"/usr/lib/podman/aardvark-dns", "aardvark-dns"},
		{"runc", "runc"}, {"ip", "iproute2"}, {"iptables", "iptables"},
	}
	sourceNeeds = []need{
		{"mmdebstrap", "mmdebstrap"}, {"python3", "python3"}, {"pip3", "python3-pip"}, {"tar", "tar"}, {"/etc/ssl/certs/ca-certificates.crt", "ca-certificates"},
	}
)

// Prepare makes ready what needs the machine's own network: programs, engine and
// images. It runs outside of the environment's namespace and is quick when all
// is there.
func Prepare(ctx context.Context, c Config, progress Progress) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	t := &tracker{progress: progress}
	s, err := c.load()
	if err != nil {
		s = &state{}
	}
	var engine *engine
	var way images.Way
	err = t.sequence(ctx, "", []step{
		{"machine", func(ctx context.Context, note func(string)) (err error) {
			engine, err = c.machine(ctx, note)
			return err
		}},
		{"choose images", func(ctx context.Context, note func(string)) (err error) {
			way, err = c.way(ctx, engine, note)
			return err
		}},
		{"images", func(ctx context.Context, _ func(string)) error {
			step := func(ctx context.Context, name string, do func(context.Context, func(string)) error) error {
				return t.run(ctx, "images", step{name, do})
			}
			s.Set, err = way.Prepare(ctx, step)
			return err
		}},
	})
	if err != nil {
		return err
	}
	s.Engine, s.Way, s.Steps = engine.name, way.Name(), t.ended
	switch c.Isolation {
	case "on":
		if s.Isolated = canIsolate(engine); !s.Isolated {
			return fmt.Errorf("isolation needs Linux, root and podman; this is %s as uid %d: leave --isolation out, or use --engine podman", engine.name, os.Geteuid())
		}
	case "off":
		s.Isolated = false
	default:
		s.Isolated = canIsolate(engine)
	}
	return c.save(s)
}

// machine finds the engine, or installs podman where nothing works and it may.
func (c Config) machine(ctx context.Context, note func(string)) (*engine, error) {
	engine, err := findEngine(ctx, c.Engine, c.StateDir)
	if err != nil && c.Engine != "docker" {
		if err := install(ctx, podmanNeeds, note); err != nil {
			return nil, err
		}
		engine, err = findEngine(ctx, "podman", c.StateDir)
	}
	if err != nil {
		return nil, err
	}
	if engine.name == "podman" && os.Geteuid() == 0 {
		if err := install(ctx, podmanNeeds, note); err != nil {
			return nil, err
		}
	}
	if os.Geteuid() == 0 {
		// kind mounts it into the nodes; a machine without modules lacks it.
		if err := os.MkdirAll("/lib/modules", 0o755); err != nil {
			return nil, err
		}
	}
	return engine, nil
}

func (c Config) way(ctx context.Context, engine *engine, note func(string)) (images.Way, error) {
	choice := c.Images
	if choice == "" {
		choice = images.Probe(ctx, c.Mirror)
	}
	note(choice)
	switch choice {
	case "registry":
		return images.Registry{Cache: filepath.Join(c.CacheDir, "registry"), Engine: engine, Mirror: c.Mirror}, nil
	case "source":
		if os.Geteuid() != 0 {
			return nil, errors.New("images from source need root (Debian's root file system is made by mmdebstrap): run as root, or use --images registry")
		}
		if err := install(ctx, sourceNeeds, note); err != nil {
			return nil, err
		}
		return images.Source{Cache: filepath.Join(c.CacheDir, "source"), Engine: engine}, nil
	default:
		return nil, fmt.Errorf("unknown way to get images %q: use registry or source", choice)
	}
}

// install installs the Debian packages of the programs that are missing, and
// only those.
func install(ctx context.Context, needs []need, note func(string)) error {
	var missing []string
	for _, n := range needs {
		if _, err := exec.LookPath(n.program); err != nil {
			if _, err := os.Stat(n.program); err != nil || !filepath.IsAbs(n.program) {
				missing = append(missing, n.pkg)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	hint := "apt-get install --no-install-recommends " + strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("this machine lacks %s: run as root on Debian to have them installed, or install them: %s", strings.Join(missing, ", "), hint)
	}
	note(hint)
	for _, args := range [][]string{{"update"}, append([]string{"install", "--yes", "--no-install-recommends"}, missing...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, lastLines(string(out), 10))
		}
	}
	return nil
}
