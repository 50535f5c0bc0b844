// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Source makes every image here: Go modules compiled, Envoy from its wheel, the
// root file system from Debian. It needs root, Debian and Go, and no registry.
type Source struct {
	Cache  string // absolute; everything in it is keyed by what it is made from and safe to delete
	Engine Engine
}

// Name is what --images calls it.
func (Source) Name() string { return "source" }

// parts are the pieces that the node image is made from, as paths.
type parts struct {
	bin      map[string]string // program → path
	rootfs   string
	envoy    string
	template string // Istio's bootstrap template for Envoy
	kind     string // directory of kind's module
}

// Prepare compiles and assembles what is not in the cache yet.
func (s Source) Prepare(ctx context.Context, step Step) (Set, error) {
	set := Set{
		IstioTag: IstioSource, Kubernetes: KubernetesSource, OwnCNI: true, EtcdTag: etcdTag, CoreDNSTag: coreDNSTag, Envoy: envoyVersion,
	}
	goVersion, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return set, fmt.Errorf("ask for the version of Go: %w (the source way needs Go %s or newer in PATH)", err, minGo)
	}
	p, err := s.gather(ctx, step, strings.TrimSpace(string(goVersion)))
	if err != nil {
		return set, err
	}
	pieces := []string{nodeRecipe, filepath.Base(p.rootfs), filepath.Base(p.envoy), filepath.Base(p.kind)}
	for name, path := range p.bin {
		pieces = append(pieces, name+"="+filepath.Base(filepath.Dir(path)))
	}
	id := key(pieces...)
	set.Node = "localhost/harness-node:" + id
	if s.Engine.Has(ctx, set.Node) {
		return set, nil
	}
	layout := filepath.Join(s.Cache, "node", id)
	err = step(ctx, "assemble node image", func(ctx context.Context, note func(string)) error {
		return inPlace(layout, func(tmp string) error { return p.assemble(ctx, tmp, note) })
	})
	if err != nil {
		return set, err
	}
	return set, step(ctx, "import node image", func(ctx context.Context, _ func(string)) error {
		return s.Engine.Import(ctx, layout, set.Node)
	})
}

// gather gets the parts, all at once: what waits for the network runs beside
// what needs the processors.
func (s Source) gather(ctx context.Context, step Step, goVersion string) (*parts, error) {
	p := &parts{bin: map[string]string{}}
	group, ctx := errgroup.WithContext(ctx)
	part := func(name string, get func(ctx context.Context, note func(string)) error) {
		group.Go(func() error { return step(ctx, name, get) })
	}
	part("debian root file system", func(ctx context.Context, note func(string)) (err error) {
		p.rootfs, err = rootfs(ctx, s.Cache, note)
		return err
	})
	part("envoy "+envoyVersion, func(ctx context.Context, note func(string)) (err error) {
		p.envoy, err = envoy(ctx, s.Cache, note)
		return err
	})
	part("module files", func(ctx context.Context, _ func(string)) error {
		istio, err := modules[0].moduleDir(ctx, s.Cache, "istio.io/istio", "")
		if err != nil {
			return err
		}
		p.template = filepath.Join(istio, "tools/packaging/common/envoy_bootstrap.json")
		version, sum, err := kindModule()
		if err != nil {
			return err
		}
		p.kind, err = modules[0].moduleDir(ctx, s.Cache, "sigs.k8s.io/kind@"+version, sum)
		return err
	})
	dirs := make([]string, len(modules))
	for i, m := range modules {
		part("compile "+m.name, func(ctx context.Context, note func(string)) (err error) {
			dirs[i], err = m.build(ctx, s.Cache, goVersion, note)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		programs, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, program := range programs {
			p.bin[program.Name()] = filepath.Join(dir, program.Name())
		}
	}
	return p, p.check()
}

func (p *parts) check() error {
	var missing []error
	for _, program := range []string{
		"kubernetes", "etcd", "coredns", "pause", "metrics-server", "pilot-discovery", "pilot-agent",
		"containerd", "containerd-shim-runc-v2", "ctr", "host-local", "loopback", "ptp", "portmap", "controller", "speaker",
	} {
		if p.bin[program] == "" {
			missing = append(missing, fmt.Errorf("no program %s was built: delete the bin directory of the cache and try again", program))
		}
	}
	return errors.Join(missing...)
}
