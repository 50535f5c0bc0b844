// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// nodeRecipe changes with this file: a node image of an older recipe is not reused.
const nodeRecipe = "3"

// refAnnotation is where an OCI layout keeps the name of an image.
const refAnnotation = "org.opencontainers.image.ref.name"

// kindModule is the kind that is linked in; its node files and its own code must
// be of one version.
func kindModule() (version, sum string, err error) {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, dep := range info.Deps {
			if dep.Path == "sigs.k8s.io/kind" {
				return dep.Version, dep.Sum, nil
			}
		}
	}
	return "", "", fmt.Errorf("this executable does not say which kind it holds: build it as a module")
}

// assemble writes the node image as an OCI layout directory.
func (p *parts) assemble(ctx context.Context, to string, note func(string)) error {
	work, err := os.MkdirTemp(filepath.Dir(to), "layers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	note("component images")
	index, err := p.componentImages(work)
	if err != nil {
		return err
	}
	note("containerd's store")
	content := filepath.Join(work, "containerd")
	if err := p.fillStore(ctx, work, index, content); err != nil {
		return err
	}
	note("layers")
	debian, err := p.debianLayer(filepath.Join(work, "debian.tar"))
	if err != nil {
		return err
	}
	node, err := p.nodeLayer(ctx, filepath.Join(work, "node.tar"))
	if err != nil {
		return err
	}
	store, err := storeLayer(filepath.Join(work, "store.tar"), content)
	if err != nil {
		return err
	}
	img, err := image(v1.Config{
		Entrypoint: []string{"/usr/local/bin/entrypoint", "/sbin/init"},
		Env:        []string{"container=docker", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		StopSignal: "SIGRTMIN+3",
	}, debian, node, store)
	if err != nil {
		return err
	}
	dir, err := layout.Write(to, empty.Index)
	if err != nil {
		return err
	}
	return dir.AppendImage(img, layout.WithAnnotations(map[string]string{refAnnotation: "node"}))
}

// debianLayer is the root file system without the units that make no sense in
// a container, as kind's own node image has it.
func (p *parts) debianLayer(path string) (v1.Layer, error) {
	w, err := newLayer(path)
	if err != nil {
		return nil, err
	}
	unwanted := []string{
		"usr/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service", "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
		"lib/systemd/system/multi-user.target.wants/", "usr/lib/systemd/system/multi-user.target.wants/", "etc/systemd/system/multi-user.target.wants/",
		"etc/systemd/system/timers.target.wants/", "etc/systemd/system/getty.target.wants/",
		"lib/systemd/system/local-fs.target.wants/", "usr/lib/systemd/system/local-fs.target.wants/",
		"lib/systemd/system/sockets.target.wants/systemd-udev", "lib/systemd/system/sockets.target.wants/systemd-initctl",
		"lib/systemd/system/basic.target.wants/", "sbin/init",
		"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "var/cache/apt/", "var/lib/apt/lists/",
	}
	w.from(p.rootfs, func(h *tar.Header) bool {
		return h.Typeflag != tar.TypeChar && h.Typeflag != tar.TypeBlock &&
			!slices.ContainsFunc(unwanted, func(prefix string) bool {
				return strings.HasPrefix(h.Name, prefix) && h.Name != prefix
			})
	})
	return w.layer()
}

// nodeLayer holds kind's files, the programs and their configuration.
func (p *parts) nodeLayer(ctx context.Context, path string) (v1.Layer, error) {
	w, err := newLayer(path)
	if err != nil {
		return nil, err
	}
	files := filepath.Join(p.kind, "images/base/files")
	err = filepath.WalkDir(files, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(files, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if strings.HasPrefix(name, "usr/local/bin/") || strings.HasPrefix(name, "kind/bin/") {
			mode = 0o755
		}
		if name == "etc/containerd/config.toml" {
			data = containerdConfig(data)
		}
		w.bytes(name, mode, data)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("kind's node files: %w", err)
	}
	spec, err := p.baseSpec(ctx)
	if err != nil {
		return nil, err
	}
	w.bytes("etc/containerd/cri-base.json", 0o644, spec)
	w.bytes("kind/version", 0o644, []byte(KubernetesSource))
	w.bytes("etc/systemd/journald.conf.d/harness.conf", 0o644, []byte("[Journal]\nReadKMsg=no\n"))
	w.dir("etc/kubernetes/manifests", 0o755, 0)
	w.link("usr/sbin/init", "/usr/lib/systemd/systemd")
	for _, unit := range []string{"kubelet.service", "containerd.service", "undo-mount-hacks.service"} {
		w.link("etc/systemd/system/multi-user.target.wants/"+unit, "/etc/systemd/system/"+unit)
	}
	w.link("etc/systemd/system/systemd-binfmt.service", "/dev/null")
	w.copyFile("usr/bin/kubernetes", 0o755, p.bin["kubernetes"])
	for _, name := range []string{"kubeadm", "kubelet", "kubectl"} {
		w.link("usr/bin/"+name, "kubernetes")
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		w.copyFile("usr/local/bin/"+name, 0o755, p.bin[name])
	}
	for _, name := range []string{"host-local", "loopback", "ptp", "portmap"} {
		w.copyFile("opt/cni/bin/"+name, 0o755, p.bin[name])
	}
	return w.layer()
}

// containerdConfig fits kind's configuration to this node image: our pause
// image, and hosts with cgroup v1, where containers may not lower their OOM score.
func containerdConfig(data []byte) []byte {
	return []byte(strings.NewReplacer(
		"registry.k8s.io/pause:3.10\"", "registry.k8s.io/pause:"+pauseTag+"\"",
		"restrict_oom_score_adj = false", "restrict_oom_score_adj = true",
	).Replace(string(data)))
}

// baseSpec is what every container starts from: containerd's default without
// limits on files. kind's hook, which hides the host's serial number, is left
// out: it needs jq and a shell at every start of a container.
func (p *parts) baseSpec(ctx context.Context) ([]byte, error) {
	out, err := exec.CommandContext(ctx, p.bin["ctr"], "oci", "spec").Output()
	if err != nil {
		return nil, fmt.Errorf("ctr oci spec: %w", err)
	}
	var spec map[string]any
	if err := json.Unmarshal(out, &spec); err != nil {
		return nil, fmt.Errorf("ctr oci spec: %w", err)
	}
	if process, ok := spec["process"].(map[string]any); ok {
		delete(process, "rlimits")
	}
	return json.Marshal(spec)
}

// storeLayer puts the image content outside of /var: kind makes /var a volume
// of each node, and the engine would copy everything in it per node. Only the
// small database stays there, beside a link to the content.
func storeLayer(path, content string) (v1.Layer, error) {
	w, err := newLayer(path)
	if err != nil {
		return nil, err
	}
	const root = "var/lib/containerd/"
	blobs := filepath.Join(content, "io.containerd.content.v1.content")
	err = filepath.WalkDir(blobs, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(blobs, path)
		if err == nil {
			w.copyFile("kind/content/"+name, 0o444, path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	w.dir("kind/content/ingest", 0o755, 0)
	w.link(root+"io.containerd.content.v1.content", "/kind/content")
	w.copyFile(root+"io.containerd.metadata.v1.bolt/meta.db", 0o644, filepath.Join(content, "io.containerd.metadata.v1.bolt/meta.db"))
	return w.layer()
}
