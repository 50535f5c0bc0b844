// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// componentImages writes all images that run on the nodes into one OCI layout
// and returns its directory.
func (p *parts) componentImages(work string) (string, error) {
	files, err := packageFiles(p.rootfs, iptablesPackages)
	if err != nil {
		return "", err
	}
	// layer names one layer by the function that fills it; a layer that several
	// images share is written once.
	layer := func(name string, fill func(*layerWriter)) v1.Layer {
		if err != nil {
			return nil
		}
		var w *layerWriter
		if w, err = newLayer(filepath.Join(work, name+".tar")); err != nil {
			return nil
		}
		fill(w)
		var made v1.Layer
		made, err = w.layer()
		return made
	}
	program := func(name, at string) v1.Layer {
		return layer(name, func(w *layerWriter) { w.copyFile(at, 0o755, p.bin[name]) })
	}
	iptables := layer("iptables", func(w *layerWriter) {
		w.from(p.rootfs, func(h *tar.Header) bool { return iptablesFile(h, files) })
		w.bytes("etc/passwd", 0o644, []byte("root:x:0:0::/root:/sbin/nologin\nistio-proxy:x:1337:1337::/home/istio-proxy:/sbin/nologin\n"))
		w.bytes("etc/group", 0o644, []byte("root:x:0:\nistio-proxy:x:1337:\n"))
		w.dir("tmp", 0o1777, 0)
		w.dir("run", 0o755, 0)
	})
	kubernetes := layer("kubernetes", func(w *layerWriter) {
		w.copyFile("usr/local/bin/kubernetes", 0o755, p.bin["kubernetes"])
		for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
			w.link("usr/local/bin/"+name, "kubernetes")
		}
	})
	proxy := layer("proxy", func(w *layerWriter) {
		w.copyFile("usr/local/bin/pilot-agent", 0o755, p.bin["pilot-agent"])
		w.copyFile("usr/local/bin/envoy", 0o755, p.envoy)
		w.dir("var/lib/istio", 0o755, 1337)
		w.dir("var/lib/istio/envoy", 0o755, 1337)
		w.dir("etc/istio", 0o755, 1337)
		w.dir("etc/istio/proxy", 0o755, 1337)
		w.copyFile("var/lib/istio/envoy/envoy_bootstrap_tmpl.json", 0o644, p.template)
	})
	scratch := layer("scratch", func(w *layerWriter) { w.dir("tmp", 0o1777, 0) })

	const k8s = "registry.k8s.io/"
	kube := func(name string, layers ...v1.Layer) component {
		return component{ref: k8s + name + ":" + KubernetesSource, config: v1.Config{Entrypoint: []string{"/usr/local/bin/" + name}}, layers: layers}
	}
	all := []component{
		kube("kube-apiserver", scratch, kubernetes),
		kube("kube-controller-manager", scratch, kubernetes),
		kube("kube-scheduler", scratch, kubernetes),
		kube("kube-proxy", iptables, kubernetes),
		single(k8s+"etcd:"+etcdTag, "/usr/local/bin/etcd", scratch, program("etcd", "usr/local/bin/etcd")),
		single(k8s+"coredns/coredns:"+coreDNSTag, "/coredns", scratch, program("coredns", "coredns")),
		single(k8s+"pause:"+pauseTag, "/pause", program("pause", "pause")),
		single(k8s+"metrics-server/metrics-server:"+MetricsServer, "/metrics-server", scratch, program("metrics-server", "metrics-server")),
		single("quay.io/metallb/controller:"+MetalLB, "/controller", scratch, program("controller", "controller")),
		single("quay.io/metallb/speaker:"+MetalLB, "/speaker", scratch, program("speaker", "speaker")),
		{
			ref: "docker.io/istio/pilot:" + IstioSource, config: v1.Config{Entrypoint: []string{"/usr/local/bin/pilot-discovery"}, User: "1337:1337"},
			layers: []v1.Layer{scratch, program("pilot-discovery", "usr/local/bin/pilot-discovery")},
		},
		{
			ref: "docker.io/istio/proxyv2:" + IstioSource, config: v1.Config{Entrypoint: []string{"/usr/local/bin/pilot-agent"}, User: "1337:1337"},
			layers: []v1.Layer{iptables, proxy},
		},
	}
	if err != nil {
		return "", err
	}
	to := filepath.Join(work, "components")
	dir, err := layout.Write(to, mutate.IndexMediaType(empty.Index, "application/vnd.oci.image.index.v1+json"))
	if err != nil {
		return "", err
	}
	for _, c := range all {
		c.config.Env = []string{path}
		img, err := image(c.config, c.layers...)
		if err != nil {
			return "", fmt.Errorf("image %s: %w", c.ref, err)
		}
		if err := dir.AppendImage(img, layout.WithAnnotations(map[string]string{
			"io.containerd.image.name": c.ref, refAnnotation: c.ref,
		})); err != nil {
			return "", fmt.Errorf("image %s: %w", c.ref, err)
		}
	}
	return to, nil
}

type component struct {
	ref    string
	config v1.Config
	layers []v1.Layer
}

func single(ref, entrypoint string, layers ...v1.Layer) component {
	return component{ref: ref, config: v1.Config{Entrypoint: []string{entrypoint}}, layers: layers}
}

// fillStore has containerd itself take the images in, in a directory of its own,
// so that nodes start with a store that their containerd knows.
func (p *parts) fillStore(ctx context.Context, work, components, root string) error {
	archive := filepath.Join(work, "components.tar")
	if err := run(exec.CommandContext(ctx, "tar", "-C", components, "-cf", archive, ".")); err != nil {
		return err
	}
	// A socket's path may have 107 bytes at most, and the cache may lie deep.
	state, err := os.MkdirTemp("", "harness-ctr-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	socket := filepath.Join(state, "c.sock")
	config := filepath.Join(state, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.internal.v1.opt\", \"io.containerd.nri.v1.nri\"]\n[grpc]\naddress = %q\n",
		root, filepath.Join(state, "state"), socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(work, "containerd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	daemon := exec.CommandContext(ctx, p.bin["containerd"], "--config", config)
	daemon.Stdout, daemon.Stderr = log, log
	daemon.Cancel = func() error { return daemon.Process.Signal(os.Interrupt) }
	daemon.WaitDelay = 10 * time.Second
	if err := daemon.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	importErr := p.importAll(ctx, socket, archive)
	_ = daemon.Process.Signal(os.Interrupt)
	waitErr := daemon.Wait()
	if importErr != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w\ncontainerd (%v):\n%s", importErr, waitErr, tail(said, 20))
	}
	return nil
}

func (p *parts) importAll(ctx context.Context, socket, archive string) error {
	ctr := func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, p.bin["ctr"], append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)...)
	}
	deadline := time.Now().Add(20 * time.Second)
	for ctr("version").Run() != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("containerd did not answer within 20 s")
		}
		time.Sleep(50 * time.Millisecond)
	}
	return run(ctr("images", "import", "--local", "--no-unpack", "--all-platforms", archive))
}

// iptablesFile keeps files, their directories and links of the wanted packages.
func iptablesFile(h *tar.Header, files map[string]bool) bool {
	name := filepath.Clean(h.Name)
	switch name {
	case "bin", "sbin", "lib", "lib64", "usr", "etc", "var", "etc/alternatives":
		return true
	case "etc/ld.so.cache":
		return true
	}
	// The names that programs have by choice (iptables for iptables-nft) are in
	// no package's list.
	if filepath.Dir(name) == "etc/alternatives" || strings.HasPrefix(h.Linkname, "/etc/alternatives/") {
		return true
	}
	if dir := "usr/share/"; len(name) > len(dir) && name[:len(dir)] == dir {
		return false
	}
	return files[name]
}
