// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// engine is podman or docker, by its command line: the one interface that both
// share, and the one that kind uses as well.
type engine struct {
	name string
	env  []string // extra environment of every call
}

// findEngine picks the engine asked for, else the one that works here: docker
// where its daemon answers, podman otherwise.
func findEngine(ctx context.Context, want, stateDir string) (*engine, error) {
	candidates := []string{"docker", "podman"}
	if want != "" {
		candidates = []string{want}
	}
	var tried []error
	for _, name := range candidates {
		e := &engine{name: name}
		if name == "podman" && os.Geteuid() == 0 && stateDir != "" {
			conf, err := podmanConf(stateDir)
			if err != nil {
				return nil, err
			}
			e.env = []string{"CONTAINERS_CONF=" + conf}
		}
		if _, err := e.output(ctx, "version", "--format", "{{.Client.Version}}"); err != nil {
			tried = append(tried, err)
			continue
		}
		if name == "docker" {
			if _, err := e.output(ctx, "info", "--format", "{{.ID}}"); err != nil {
				tried = append(tried, err)
				continue
			}
		}
		return e, nil
	}
	return nil, fmt.Errorf("no container engine works here: %w", errors.Join(tried...))
}

// podmanConf writes the settings that kind's nodes need of podman beside the
// environment's state, so that the user's own configuration stays as it is.
func podmanConf(stateDir string) (string, error) {
	// podman asks for more than the machine may allow, and then starts nothing.
	var ulimits []string
	for _, l := range []struct {
		name     string
		resource int
	}{{"nofile", unix.RLIMIT_NOFILE}, {"nproc", unix.RLIMIT_NPROC}} {
		var limit unix.Rlimit
		if err := unix.Getrlimit(l.resource, &limit); err != nil {
			return "", fmt.Errorf("read the limit %s: %w", l.name, err)
		}
		most := min(limit.Max, 1<<20)
		if l.name == "nproc" {
			// podman lowers its own limit to the number of process ids.
			most = min(most, pidMax())
		}
		ulimits = append(ulimits, fmt.Sprintf("%q", fmt.Sprintf("%s=%d:%d", l.name, most, most)))
	}
	conf := fmt.Sprintf("[containers]\ndefault_ulimits = [%s]\n[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
		strings.Join(ulimits, ", "))
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(stateDir, "containers.conf")
	return path, os.WriteFile(path, []byte(conf), 0o600)
}

func pidMax() uint64 {
	data, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return 1 << 15
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 1 << 15
	}
	return n
}

func (e *engine) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, e.name, args...)
	cmd.Env = append(os.Environ(), e.env...)
	return cmd
}

// output runs the engine; what it said on stderr is part of the error.
func (e *engine) output(ctx context.Context, args ...string) (string, error) {
	cmd := e.command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", e.name, strings.Join(args, " "), err, lastLines(stderr.String(), 5))
	}
	return strings.TrimSpace(string(out)), nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Has implements images.Engine.
func (e *engine) Has(ctx context.Context, ref string) bool {
	_, err := e.output(ctx, "image", "inspect", "--format", "{{.Id}}", ref)
	return err == nil
}

// Import implements images.Engine.
func (e *engine) Import(ctx context.Context, dir, ref string) error {
	if e.name != "podman" {
		return e.load(ctx, dir, ref)
	}
	// podman makes a name of the path and accepts few characters in it, so it is
	// given a path without any others.
	tmp, err := os.MkdirTemp("", "harness-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	link := filepath.Join(tmp, "node")
	if err := os.Symlink(dir, link); err != nil {
		return err
	}
	id, err := e.output(ctx, "pull", "--quiet", "oci:"+link)
	if err != nil {
		return err
	}
	if _, err := e.output(ctx, "tag", id, ref); err != nil {
		return err
	}
	_, err = e.output(ctx, "untag", id, "localhost"+link+":latest")
	return err
}

// load streams the image to the engine as an archive, for engines that read no
// OCI layout.
func (e *engine) load(ctx context.Context, dir, ref string) error {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	cmd := e.command(ctx, "load")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	writeErr := errors.Join(tarball.Write(tag, img, in), in.Close())
	if err := errors.Join(cmd.Wait(), writeErr); err != nil {
		return fmt.Errorf("%s load: %w: %s", e.name, err, lastLines(stderr.String(), 5))
	}
	return nil
}
