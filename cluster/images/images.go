// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package images gets the container images of an environment. There are two
// ways, behind one interface: published images from a registry, or images made
// here from the components' own Go modules.
package images

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The components' versions. Where both ways have a version it is the same one.
const (
	KubernetesSource   = "v1.37.2" // what the control-plane module pins
	KubernetesRegistry = "v1.37.0" // what kind v0.33.0 publishes a node image of
	IstioSource        = "1.31-eed52ebb66ad"
	IstioRegistry      = "1.31.4"
	MetalLB            = "v0.15.3"
	MetricsServer      = "v0.9.0"
	etcdTag            = "3.7.3-0"
	coreDNSTag         = "v1.15.0"
	pauseTag           = "3.10.2"
	envoyVersion       = "1.40.0"
)

// Set is what a way has made ready.
type Set struct {
	Node       string   // the node image, as the container engine knows it
	Archives   []string // OCI or docker archives to import on every node; none when the node image holds all
	IstioTag   string   // tag of docker.io/istio/{pilot,proxyv2}
	Kubernetes string   // version in the node image
	OwnCNI     bool     // the node image has plain CNI plugins and no kindnet
	EtcdTag    string   // image tags that kubeadm has to be told, empty for its own
	CoreDNSTag string
	Envoy      string // version of the proxy, empty where Istio's own build decides
}

// A Way gets every image that an environment needs.
type Way interface {
	Name() string
	// Prepare makes the images ready in the engine and the cache. It needs the
	// network of the machine and is quick when everything is cached.
	Prepare(ctx context.Context, step Step) (Set, error)
}

// Step runs one named part of the work and reports its time; note says what it
// is at.
type Step func(ctx context.Context, name string, do func(ctx context.Context, note func(string)) error) error

// Engine is the container engine that holds the node image.
type Engine interface {
	// Has tells whether the engine holds the image.
	Has(ctx context.Context, ref string) bool
	// Import takes an OCI layout directory in under the name ref.
	Import(ctx context.Context, layout, ref string) error
}

// Probe says which way suits this machine: registry where the node image's
// registry (or the mirror) answers within two seconds, else source.
func Probe(ctx context.Context, mirror string) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ref, err := name.ParseReference(mirrored(nodeImage, mirror))
	if err != nil {
		return "source"
	}
	if _, err := net.DefaultResolver.LookupHost(ctx, hostOnly(ref.Context().RegistryStr())); err != nil {
		slog.Debug("registry probe", "error", err)
		return "source"
	}
	if _, err := remote.Head(ref, remote.WithContext(ctx)); err != nil {
		slog.Debug("registry probe", "error", err)
		return "source"
	}
	return "registry"
}

func hostOnly(registry string) string {
	if host, _, err := net.SplitHostPort(registry); err == nil {
		return host
	}
	return registry
}

// inPlace makes path by filling a temporary neighbour and renaming it, so that
// what is in the cache is always whole.
func inPlace(path string, fill func(tmp string) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	part := filepath.Join(tmp, filepath.Base(path))
	if err := fill(part); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		if _, made := os.Stat(path); made == nil {
			return nil // by somebody else, from the same inputs
		}
		return fmt.Errorf("keep %s: %w", filepath.Base(path), err)
	}
	return nil
}
