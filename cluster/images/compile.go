// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

const goarch = runtime.GOARCH

// Each .mod with its .sum pins one dependency graph. They are not called go.mod
// because a directory that is a module of its own cannot be embedded.
//
//go:embed components
var components embed.FS

// module is one dependency graph and what is built from it.
type module struct {
	name  string
	mains []string // our own main packages, beside the .mod's tool lines
	tools bool     // the .mod has tool lines
}

var modules = []module{
	{name: "control-plane", mains: []string{"kubernetes", "etcd", "coredns", "pause"}, tools: true},
	{name: "runtime", tools: true},
	{name: "metallb", tools: true},
}

const buildTags = "vtprotobuf,disable_pgv,no_btrfs,no_devmapper,no_zfs"

// The same -gcflags everywhere, or the graphs could not share the build cache.
// Debug information is a fifth of the compile time and half of the size.
var buildFlags = []string{
	"-trimpath", "-buildvcs=false", "-tags=" + buildTags, "-gcflags=all=-dwarf=false",
	"-ldflags=-s -w" +
		" -X k8s.io/component-base/version.gitVersion=" + KubernetesSource +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37" +
		" -X k8s.io/component-base/version.gitTreeState=clean" +
		" -X k8s.io/component-base/version.buildDate=1970-01-01T00:00:00Z" +
		" -X istio.io/istio/pkg/version.buildVersion=" + IstioSource +
		" -X istio.io/istio/pkg/version.buildStatus=Clean",
}

// files are a module's own files under the names the go command wants.
func (m module) files() (map[string][]byte, error) {
	out := map[string][]byte{}
	read := func(from, to string) error {
		data, err := components.ReadFile("components/" + from)
		out[to] = bytes.Replace(data, []byte("//go:build ignore\n"), nil, 1)
		return err
	}
	if err := read(m.name+".mod", "go.mod"); err != nil {
		return nil, err
	}
	if err := read(m.name+".sum", "go.sum"); err != nil {
		return nil, err
	}
	for _, main := range m.mains {
		if err := read(main+".go", main+"/main.go"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// lay writes the module into the cache and returns its directory.
func (m module) lay(cache string) (string, error) {
	files, err := m.files()
	if err != nil {
		return "", err
	}
	parts := []string{}
	for name, data := range files {
		parts = append(parts, name, string(data))
	}
	dir := filepath.Join(cache, "modules", m.name+"-"+key(parts...))
	return dir, inPlace(dir, func(tmp string) error {
		for name, data := range files {
			path := filepath.Join(tmp, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// build compiles the module's programs into the cache and returns their
// directory. Compiled before, it returns at once.
func (m module) build(ctx context.Context, cache, goVersion string, note func(string)) (string, error) {
	source, err := m.lay(cache)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "bin", m.name+"-"+key(filepath.Base(source), goVersion, goarch, strings.Join(buildFlags, " ")))
	return bin, inPlace(bin, func(tmp string) error {
		if err := os.MkdirAll(tmp, 0o755); err != nil {
			return err
		}
		args := append([]string{"build", "-v", "-o", tmp + "/"}, buildFlags...)
		for _, main := range m.mains {
			args = append(args, "./"+main)
		}
		if m.tools {
			args = append(args, "tool")
		}
		cmd := goCommand(ctx, source, args...)
		// The compilers are short-lived: collecting their garbage is a sixth of
		// the time. The limit keeps the largest of them in bounds.
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0", "GOGC=off", "GOMEMLIMIT=1500MiB")
		return follow(cmd, note)
	})
}

// goCommand is the go command in a directory, untouched by a workspace or by
// flags of the user's that would change what is built.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "GOOS=linux", "GOTOOLCHAIN=local")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// follow runs go build -v and counts the packages that it names.
func follow(cmd *exec.Cmd, note func(string)) error {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the go command: %w (the source way needs Go %s or newer in PATH)", err, minGo)
	}
	var tail []string
	packages := 0
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "go: downloading ") {
			note(strings.TrimPrefix(line, "go: "))
			continue
		}
		if !strings.Contains(line, " ") {
			packages++
			note(fmt.Sprintf("%d packages, now %s", packages, line))
			continue
		}
		if tail = append(tail, line); len(tail) > 20 {
			tail = tail[1:]
		}
	}
	_, _ = io.Copy(io.Discard, stderr)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[:2], " "), err, strings.Join(tail, "\n"))
	}
	return nil
}

const minGo = "1.26.4"

// moduleDir is where a dependency of the module lies, checksum verified: by the
// module's own .sum, or for a path@version by the sum given.
func (m module) moduleDir(ctx context.Context, cache, path, sum string) (string, error) {
	source, err := m.lay(cache)
	if err != nil {
		return "", err
	}
	out, err := goCommand(ctx, source, "mod", "download", "-json", path).Output()
	var answer struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(out, &answer); err == nil {
		err = jsonErr
	}
	switch {
	case err != nil || answer.Dir == "":
		return "", fmt.Errorf("download %s: %w %s", path, err, answer.Error)
	case sum != "" && answer.Sum != sum:
		return "", fmt.Errorf("download %s: checksum is %s, want %s", path, answer.Sum, sum)
	}
	return answer.Dir, nil
}

// key names a thing by everything that it is made from, in any order.
func key(parts ...string) string {
	hash := sha256.New()
	for _, part := range slices.Sorted(slices.Values(parts)) {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12]
}
