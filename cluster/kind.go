// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kind "sigs.k8s.io/kind/pkg/cluster"
	kindexec "sigs.k8s.io/kind/pkg/exec"
	"sigs.k8s.io/kind/pkg/log"

	"harness.example/harness/cluster/images"
)

// kindCluster is the nodes, made by kind's own package.
type kindCluster struct {
	Config
	engine *engine
}

func newKind(c Config, e *engine) *kindCluster { return &kindCluster{Config: c, engine: e} }

// provider is kind told where to say what it does. kind reads its settings and
// those of podman from the process's environment.
func (k *kindCluster) provider(say func(string)) (*kind.Provider, error) {
	for _, pair := range append([]string{
		"KIND_EXPERIMENTAL_PODMAN_NETWORK=" + k.network(), "KIND_EXPERIMENTAL_DOCKER_NETWORK=" + k.network(),
	}, k.engine.env...) {
		name, value, _ := strings.Cut(pair, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	option := kind.ProviderWithDocker()
	if k.engine.name == "podman" {
		option = kind.ProviderWithPodman()
	}
	return kind.NewProvider(option, kind.ProviderWithLogger(kindLogger{say})), nil
}

// brisk are settings for a cluster that lives an hour and is asked for changes all the time: etcd does not wait for the
// disk, the API server collects garbage less often, kube-proxy and the autoscalers look sooner. kubeadm wants a list of
// arguments whole, so kind's own is repeated.
var brisk = []string{ //nolint:gochecknoglobals // a constant list
	`kind: ClusterConfiguration
apiVersion: kubeadm.k8s.io/v1beta4
etcd: {local: {extraArgs: [{name: unsafe-no-fsync, value: "true"}]}}
apiServer: {extraEnvs: [{name: GOGC, value: "300"}]}
controllerManager:
  extraArgs:
    - {name: enable-hostpath-provisioner, value: "true"}
    - {name: horizontal-pod-autoscaler-sync-period, value: 5s}
`,
	`kind: KubeProxyConfiguration
apiVersion: kubeproxy.config.k8s.io/v1alpha1
iptables: {minSyncPeriod: 300ms}
`,
}

// config is the shape of the cluster.
func (k *kindCluster) config(set images.Set, workers int) *v1alpha4.Cluster {
	patches := append([]string{"kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nfailCgroupV1: false\n"}, brisk...)
	if set.EtcdTag != "" {
		patches = append(patches, fmt.Sprintf("kind: ClusterConfiguration\napiVersion: kubeadm.k8s.io/v1beta4\netcd:\n  local:\n    imageTag: %s\ndns:\n  imageTag: %s\n", set.EtcdTag, set.CoreDNSTag))
	}
	nodes := []v1alpha4.Node{{Role: v1alpha4.ControlPlaneRole, Image: set.Node}}
	for range workers {
		nodes = append(nodes, v1alpha4.Node{Role: v1alpha4.WorkerRole, Image: set.Node})
	}
	return &v1alpha4.Cluster{
		TypeMeta:             v1alpha4.TypeMeta{APIVersion: "kind.x-k8s.io/v1alpha4", Kind: "Cluster"},
		Nodes:                nodes,
		Networking:           v1alpha4.Networking{DisableDefaultCNI: set.OwnCNI},
		KubeadmConfigPatches: patches,
	}
}

// create makes the nodes. kind takes no context, so it runs beside it; what was
// made of an interrupted cluster is removed by delete.
func (k *kindCluster) create(ctx context.Context, set images.Set, workers int, note func(string)) error {
	provider, err := k.provider(note)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		done <- provider.Create(k.Name, kind.CreateWithV1Alpha4Config(k.config(set, workers)),
			kind.CreateWithKubeconfigPath(k.kubeconfig()), kind.CreateWithRetain(true),
			kind.CreateWithDisplayUsage(false), kind.CreateWithDisplaySalutation(false))
	}()
	known := make(chan error, 1)
	introducing, stop := context.WithCancel(ctx)
	defer stop()
	go func() { known <- k.introduce(introducing, workers+1) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		return errors.Join(ctx.Err(), k.abandon(done))
	}
	if err == nil {
		err = <-known
	}
	if err != nil {
		var ran *kindexec.RunError
		if errors.As(err, &ran) {
			return fmt.Errorf("kind: %w\n%s", err, lastLines(string(ran.Output), 30))
		}
		return fmt.Errorf("kind: %w", err)
	}
	return os.Chmod(k.kubeconfig(), 0o600)
}

// introduce writes the nodes' names into every node's hosts file, before they
// join: podman runs one name server for all its networks, in the namespace of
// the first, so a second environment beside it has none.
func (k *kindCluster) introduce(ctx context.Context, want int) error {
	var found []container
	var hosts strings.Builder
	err := until(ctx, 2*time.Minute, func(ctx context.Context) (err error) {
		if found, err = k.nodes(ctx); err != nil {
			return err
		}
		if len(found) != want {
			return fmt.Errorf("%d of %d nodes are there", len(found), want)
		}
		hosts.Reset()
		for _, node := range found {
			address, err := k.engine.output(ctx, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", node.Name)
			if err != nil || address == "" || !node.Running {
				return fmt.Errorf("node %s has no address yet: %w", node.Name, err)
			}
			fmt.Fprintln(&hosts, address, node.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, node := range found {
		if err := k.run(ctx, node.Name, strings.NewReader(hosts.String()), "sh", "-c", "cat >> /etc/hosts"); err != nil {
			return err
		}
	}
	return nil
}

// abandon takes the nodes from under a kind that cannot be told to stop, so
// that it fails soon and nothing runs on.
func (k *kindCluster) abandon(done <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := k.delete(ctx)
		select {
		case <-done:
			return k.delete(ctx)
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// container is one node as the engine sees it.
type container struct {
	Name    string
	Running bool
}

const clusterLabel = "io.x-k8s.kind.cluster"

// nodes lists the node containers, running or not.
func (k *kindCluster) nodes(ctx context.Context) ([]container, error) {
	out, err := k.engine.output(ctx, "ps", "--all", "--filter", "label="+clusterLabel+"="+k.Name, "--format", "{{.Names}} {{.State}}")
	if err != nil {
		return nil, err
	}
	var found []container
	for line := range strings.Lines(out) {
		name, state, _ := strings.Cut(strings.TrimSpace(line), " ")
		// docker says "running", podman 4 "Up 2 minutes".
		state = strings.ToLower(state)
		found = append(found, container{Name: name, Running: strings.HasPrefix(state, "running") || strings.HasPrefix(state, "up")})
	}
	return found, nil
}

// healthy says whether all nodes run and the API server answers on its own node.
func (k *kindCluster) healthy(ctx context.Context, found []container, want int) bool {
	if len(found) != want {
		return false
	}
	for _, node := range found {
		// A container whose processes were killed may still be called running.
		if _, err := k.engine.output(ctx, "exec", node.Name, "true"); !node.Running || err != nil {
			return false
		}
	}
	if _, err := os.Stat(k.kubeconfig()); err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := k.engine.output(ctx, "exec", k.Name+"-control-plane", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "--raw", "/readyz")
	return err == nil
}

// delete removes the nodes with their volumes, however they are.
func (k *kindCluster) delete(ctx context.Context) error {
	found, err := k.nodes(ctx)
	if err != nil {
		return err
	}
	group, _ := errgroup.WithContext(ctx)
	for _, node := range found {
		// Force and at once: a node of a machine that was restarted has lost its
		// processes, and nothing on a node is worth a clean stop.
		args := []string{"rm", "--force", "--volumes"}
		if k.engine.name == "podman" {
			args = append(args, "--time", "0")
		}
		group.Go(func() error {
			_, err := k.engine.output(ctx, append(args, node.Name)...)
			return err
		})
	}
	err = group.Wait()
	volumes, listErr := k.volumes(ctx)
	for _, volume := range volumes {
		if _, rmErr := k.engine.output(ctx, "volume", "rm", "--force", volume); rmErr != nil {
			err = errors.Join(err, rmErr)
		}
	}
	return errors.Join(err, listErr)
}

// volumes lists those that kind made for the nodes with podman, each labelled
// with its node's name. With docker they are anonymous and go with the container.
func (k *kindCluster) volumes(ctx context.Context) ([]string, error) {
	if k.engine.name != "podman" {
		return nil, nil
	}
	out, err := k.engine.output(ctx, "volume", "ls", "--format", "json")
	if err != nil {
		return nil, err
	}
	var all []struct {
		Name   string
		Labels map[string]string
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("read podman's list of volumes: %w", err)
	}
	node := regexp.MustCompile("^" + regexp.QuoteMeta(k.Name) + "-(control-plane|worker)[0-9]*$")
	var found []string
	for _, volume := range all {
		for label := range volume.Labels {
			if node.MatchString(label) {
				found = append(found, volume.Name)
			}
		}
	}
	return found, nil
}

// run runs a command on a node with in as its standard input.
func (k *kindCluster) run(ctx context.Context, node string, in io.Reader, args ...string) error {
	cmd := k.engine.command(ctx, append([]string{"exec", "--interactive", node}, args...)...)
	cmd.Stdin = in
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s on node %s: %w: %s", strings.Join(args[:min(len(args), 4)], " "), node, err, lastLines(out.String(), 8))
	}
	return nil
}

// apply applies manifests with the kubectl of the control-plane node.
func (b *bringUp) apply(ctx context.Context, manifests string) error {
	return b.kind.run(ctx, b.Name+"-control-plane", strings.NewReader(manifests),
		"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "apply", "--server-side", "--force-conflicts",
		"--field-manager=harness", "--filename", "-")
}

// importOn gives one node an image archive.
func (b *bringUp) importOn(ctx context.Context, node string, archive io.Reader) error {
	return b.kind.run(ctx, node, archive, "ctr", "--namespace", "k8s.io", "images", "import", "--digests", "--snapshotter", "overlayfs", "-")
}

// saver turns a function that writes an archive into its reader.
func saver(save func(io.Writer) error) io.Reader {
	out, in := io.Pipe()
	go func() { in.CloseWithError(save(in)) }()
	return out
}

// subnet is the IPv4 network that the nodes are on.
func (k *kindCluster) subnet(ctx context.Context) (string, error) {
	out, err := k.engine.output(ctx, "network", "inspect", k.network())
	if err != nil {
		return "", err
	}
	var networks []struct {
		Subnets []struct{ Subnet string }                  // podman
		IPAM    struct{ Config []struct{ Subnet string } } // docker
	}
	if err := json.Unmarshal([]byte(out), &networks); err != nil || len(networks) == 0 {
		return "", fmt.Errorf("network %s: cannot read what %s says of it: %w", k.network(), k.engine.name, err)
	}
	for _, s := range append(networks[0].Subnets, networks[0].IPAM.Config...) {
		if strings.Contains(s.Subnet, ".") {
			return s.Subnet, nil
		}
	}
	return "", fmt.Errorf("network %s has no IPv4 subnet", k.network())
}

// kindLogger passes on what kind says, a line at a time.
type kindLogger struct{ say func(string) }

func (l kindLogger) Warn(message string)              { l.say(message) }
func (l kindLogger) Warnf(format string, args ...any) { l.say(fmt.Sprintf(format, args...)) }
func (l kindLogger) Error(message string)             { l.say(message) }
func (l kindLogger) Errorf(format string, args ...any) {
	l.say(fmt.Sprintf(format, args...))
}
func (l kindLogger) V(level log.Level) log.InfoLogger {
	if level > 0 {
		return log.NoopInfoLogger{}
	}
	return kindInfo(l)
}

type kindInfo struct{ say func(string) }

func (l kindInfo) Info(message string) { l.say(strings.TrimSpace(message)) }
func (l kindInfo) Infof(format string, args ...any) {
	l.say(strings.TrimSpace(fmt.Sprintf(format, args...)))
}
func (l kindInfo) Enabled() bool { return true }
