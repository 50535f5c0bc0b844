// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sync/errgroup"
)

// nodeImage is the one that kind v0.33.0 was released with.
const nodeImage = "kindest/node:" + KubernetesRegistry + "@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"

// published are the other images, by version: their digests could not be looked
// up where this list was made, so the ones that were pulled are reported.
var published = []string{
	"docker.io/istio/pilot:" + IstioRegistry,
	"docker.io/istio/proxyv2:" + IstioRegistry,
	"quay.io/metallb/controller:" + MetalLB,
	"quay.io/metallb/speaker:" + MetalLB,
	"registry.k8s.io/metrics-server/metrics-server:" + MetricsServer,
}

// Registry pulls published images into the cache, and from there into the
// engine and the nodes: the nodes themselves never need a way out.
type Registry struct {
	Cache  string
	Engine Engine
	Mirror string // host[:port][/path] that serves every repository in place of its own registry
}

// Name is what --images calls it.
func (Registry) Name() string { return "registry" }

// Prepare pulls what is not in the cache yet.
func (r Registry) Prepare(ctx context.Context, step Step) (Set, error) {
	set := Set{IstioTag: IstioRegistry, Kubernetes: KubernetesRegistry}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(3)
	set.Archives = make([]string, len(published))
	for i, ref := range published {
		set.Archives[i] = filepath.Join(r.Cache, "pulled", file(ref)+".tar")
		group.Go(func() error {
			return step(groupCtx, "pull "+ref, func(ctx context.Context, note func(string)) error {
				return inPlace(set.Archives[i], func(tmp string) error { return r.save(ctx, ref, tmp, note) })
			})
		})
	}
	layoutDir := filepath.Join(r.Cache, "pulled", file(nodeImage))
	group.Go(func() error {
		return step(groupCtx, "pull kindest/node:"+KubernetesRegistry, func(ctx context.Context, note func(string)) error {
			return inPlace(layoutDir, func(tmp string) error { return r.saveLayout(ctx, tmp, note) })
		})
	})
	if err := group.Wait(); err != nil {
		return set, err
	}
	set.Node = "localhost/harness-node:" + KubernetesRegistry + "-" + key(nodeImage)
	if r.Engine.Has(ctx, set.Node) {
		return set, nil
	}
	return set, step(ctx, "import node image", func(ctx context.Context, _ func(string)) error {
		return r.Engine.Import(ctx, layoutDir, set.Node)
	})
}

func (r Registry) pull(ctx context.Context, ref string, note func(string)) (v1.Image, error) {
	parsed, err := name.ParseReference(mirrored(ref, r.Mirror))
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	img, err := remote.Image(parsed, remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: goarch}))
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", parsed, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", parsed, err)
	}
	note(digest.String())
	return img, nil
}

func (r Registry) save(ctx context.Context, ref, to string, note func(string)) error {
	img, err := r.pull(ctx, ref, note)
	if err != nil {
		return err
	}
	// The archive carries the published name even when a mirror served it.
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(to, tag, img)
}

func (r Registry) saveLayout(ctx context.Context, to string, note func(string)) error {
	img, err := r.pull(ctx, nodeImage, note)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	dir, err := layout.Write(to, empty.Index)
	if err != nil {
		return err
	}
	return dir.AppendImage(img, layout.WithAnnotations(map[string]string{refAnnotation: "node"}))
}

// mirrored replaces the registry of a reference. A mirror serves one platform
// under its own digest, so the reference keeps only its tag.
func mirrored(ref, mirror string) string {
	if mirror == "" {
		return ref
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return ref
	}
	tagged, _, _ := strings.Cut(ref, "@")
	tag, err := name.NewTag(tagged)
	if err != nil {
		return ref
	}
	return strings.TrimSuffix(mirror, "/") + "/" + parsed.Context().RepositoryStr() + ":" + tag.TagStr()
}

func file(ref string) string {
	return strings.NewReplacer("/", "_", ":", "_", "@", "_").Replace(ref)
}
