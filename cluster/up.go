// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// bringUp is the state that the steps of Up share.
type bringUp struct {
	Config
	*state
	engine *engine
	kind   *kindCluster
	client kubernetes.Interface
	access *Access
	track  *tracker
}

// Up brings the environment up, or reuses it where it is up and healthy. It
// runs inside the environment's namespace, after Prepare.
func Up(ctx context.Context, c Config, progress Progress) (*Access, error) {
	unlock, err := c.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := c.load()
	if err != nil {
		return nil, fmt.Errorf("nothing is prepared: %w", err)
	}
	engine, err := findEngine(ctx, s.Engine, c.StateDir)
	if err != nil {
		return nil, err
	}
	b := &bringUp{Config: c, state: s, engine: engine, kind: newKind(c, engine), track: &tracker{progress: progress}}
	err = b.track.sequence(ctx, "", []step{
		{"nodes", b.nodes},
		{"connect", b.connect},
		{"pod network", b.podNetwork},
		{"components", b.components},
		{"gateway", b.gateway},
	})
	if err != nil {
		return nil, err
	}
	s.Access = b.access
	s.Steps = append(s.Steps, b.track.ended...)
	return b.access, c.save(s)
}

// nodes creates the kind cluster. Nodes of an earlier run that do not all run
// are removed first: their clock, leases and addresses are stale.
func (b *bringUp) nodes(ctx context.Context, note func(string)) error {
	found, err := b.kind.nodes(ctx)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		if b.kind.healthy(ctx, found, b.Workers+1) {
			note("reused")
			return nil
		}
		note("removing what an earlier run left")
		if err := b.kind.delete(ctx); err != nil {
			return err
		}
	}
	b.state.Access = nil
	if err := b.save(b.state); err != nil {
		return err
	}
	return b.kind.create(ctx, b.Set, b.Workers, note)
}

func (b *bringUp) connect(ctx context.Context, _ func(string)) error {
	config, err := clientcmd.BuildConfigFromFlags("", b.kubeconfig())
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 100, 200
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	b.access = &Access{
		Kubeconfig: b.kubeconfig(), Context: "kind-" + b.Name, IstioNamespace: "istio-system", Disruptive: true,
		Provider: "kind/" + b.engine.name, Images: b.Way, Owned: true,
		Capabilities: map[string]string{"LoadBalancer": "", "Metrics": "", "NodeAccess": "", "Injection": "", "CustomMetrics": ""},
	}
	if b.Isolated {
		b.access.Netns = b.network()
	}
	b.access.Nodes, err = discoverNodes(ctx, b.client)
	for i, node := range b.access.Nodes {
		b.access.Nodes[i].Exec = []string{b.engine.name, "exec", "--interactive", node.Name}
	}
	return err
}

// components installs everything that runs on the cluster, all at once, and
// waits until each serves.
func (b *bringUp) components(ctx context.Context, _ func(string)) error {
	if err := b.importArchives(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range []step{
		{"dns", b.dns},
		{"istio", b.istio},
		{"metallb", b.metallb},
		{"metrics-server", b.metricsServer},
		{"backend image", b.backendImage},
	} {
		group.Go(func() error { return b.track.run(ctx, "components", s) })
	}
	return group.Wait()
}

// importArchives gives the nodes the images that their own image lacks.
func (b *bringUp) importArchives(ctx context.Context) error {
	for _, archive := range b.Set.Archives {
		err := b.importEverywhere(ctx, func(node string) error {
			file, err := os.Open(archive)
			if err != nil {
				return fmt.Errorf("open image archive: %w (run `harness up` again to fetch it)", err)
			}
			defer file.Close()
			return b.importOn(ctx, node, file)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bringUp) importEverywhere(ctx context.Context, load func(node string) error) error {
	group, _ := errgroup.WithContext(ctx)
	for _, node := range b.access.Nodes {
		group.Go(func() error { return load(node.Name) })
	}
	return group.Wait()
}

// backendImage gives every node the image of the suites' backends, unless it
// holds that very image.
func (b *bringUp) backendImage(ctx context.Context, note func(string)) error {
	if b.Backend == nil {
		return nil
	}
	ref, save, err := b.Backend()
	if err != nil {
		return err
	}
	note(ref)
	b.access.Image = ref
	return b.importEverywhere(ctx, func(node string) error {
		held, err := b.engine.output(ctx, "exec", node, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet", "name=="+ref)
		if err == nil && slices.Contains(strings.Fields(held), ref) {
			return nil
		}
		return b.importOn(ctx, node, saver(save))
	})
}
