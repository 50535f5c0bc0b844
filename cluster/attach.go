// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// AttachConfig names a cluster that is already there.
type AttachConfig struct {
	Kubeconfig string // path; empty for the usual rules (KUBECONFIG, ~/.kube/config)
	Context    string // empty for the current one
	Image      string // the backends' image, where the cluster can pull it already
	Push       string // or a repository to push it to
	Gateway    string // NAMESPACE/SERVICE; "own" for one that each run makes; empty for the one labelled istio=ingressgateway
	// Backend makes the image, as in Config.
	Backend func() (ref string, save func(io.Writer) error, err error)
}

// Attach discovers what a cluster has. It changes nothing on the cluster; with
// Push it writes to the registry, and on a kind cluster it loads the backends' image.
func Attach(ctx context.Context, c AttachConfig) (*Access, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.Timeout = 8 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	path := c.Kubeconfig
	if path == "" {
		path = rules.GetDefaultFilename()
	}
	a := &Access{
		Kubeconfig: path, Context: c.Context, IstioNamespace: "istio-system", Provider: "attached", Images: "as found",
		Capabilities: map[string]string{},
	}
	if a.Versions, err = versions(ctx, client); err != nil {
		return nil, fmt.Errorf("reach the cluster at %s: %w", config.Host, err)
	}
	if a.Nodes, err = discoverNodes(ctx, client); err != nil {
		return nil, err
	}
	if err := a.findGateway(ctx, client, c.Gateway); err != nil {
		return nil, err
	}
	a.discover(ctx, client)
	if a.Image, err = c.image(ctx, a); err != nil {
		return nil, err
	}
	return a, nil
}

// findGateway takes the gateway named, or the only one labelled as Istio's, and
// the address at which it answers from here.
func (a *Access) findGateway(ctx context.Context, client kubernetes.Interface, want string) error {
	if want == "own" {
		a.Gateway.Service = want
		return nil
	}
	var service *corev1.Service
	if want != "" {
		namespace, name, ok := strings.Cut(want, "/")
		if !ok {
			return fmt.Errorf("gateway %q: want NAMESPACE/SERVICE", want)
		}
		var err error
		if service, err = client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
	} else {
		list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{LabelSelector: "istio=ingressgateway"})
		if err != nil {
			return fmt.Errorf("look for the ingress gateway: %w", err)
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("found %d Services labelled istio=ingressgateway, want 1: name the gateway with --gateway NAMESPACE/SERVICE", len(list.Items))
		}
		service = &list.Items[0]
	}
	if service.Spec.Selector["istio"] == "" {
		return fmt.Errorf("gateway %s/%s does not select pods by the label istio, which Gateways of the fixtures name", service.Namespace, service.Name)
	}
	var tried []string
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		host := ingress.IP + ingress.Hostname
		if a.Gateway = gatewayOf(service, host, false); open(ctx, host, a.Gateway.Ports["http"]) {
			return nil
		}
		tried = append(tried, host)
	}
	for _, node := range a.Nodes {
		if a.Gateway = gatewayOf(service, node.Address, true); open(ctx, node.Address, a.Gateway.Ports["http"]) {
			return nil
		}
		tried = append(tried, node.Address)
	}
	return fmt.Errorf("gateway %s/%s answers neither at its addresses nor at the nodes' (tried %s): run the harness where one of them is reached",
		service.Namespace, service.Name, strings.Join(tried, ", "))
}

func open(ctx context.Context, host string, port int) bool {
	if port == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// discover fills in the capabilities, each missing one with its reason.
func (a *Access) discover(ctx context.Context, client kubernetes.Interface) {
	have := func(capability string, err error) {
		a.Capabilities[capability] = ""
		if err != nil {
			a.Capabilities[capability] = err.Error()
		}
	}
	_, err := client.Discovery().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").DoRaw(ctx)
	have("Metrics", err)
	have("CustomMetrics", unserved(client, "custom.metrics.k8s.io", "external.metrics.k8s.io"))
	have("LoadBalancer", balanced(ctx, client))
	hooks, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err == nil && !slices.ContainsFunc(hooks.Items, func(h admissionv1.MutatingWebhookConfiguration) bool {
		return strings.Contains(h.Name, "sidecar-injector")
	}) {
		err = errors.New("no sidecar injector is installed")
	}
	have("Injection", err)
	have("NodeAccess", a.nodeAccess(ctx))
}

// unserved says whether nobody serves the API groups, so that a run may.
func unserved(client kubernetes.Interface, names ...string) error {
	groups, err := client.Discovery().ServerGroups()
	if err != nil {
		return err
	}
	for _, g := range groups.Groups {
		if slices.Contains(names, g.Name) {
			return fmt.Errorf("%s is served already: the cases bring an adapter of their own", g.Name)
		}
	}
	return nil
}

// balanced looks for a Service that a load balancer serves: without one, an
// address would be waited for in vain.
func balanced(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, service := range list.Items {
		if len(service.Status.LoadBalancer.Ingress) > 0 {
			return nil
		}
	}
	return errors.New("no Service of the cluster has an external address")
}

// nodeAccess tells whether the nodes' addresses are reached from here: kubelet
// listens on every node.
func (a *Access) nodeAccess(ctx context.Context) error {
	for _, node := range a.Nodes {
		if !open(ctx, node.Address, 10250) {
			return fmt.Errorf("node %s is not reached at %s from here", node.Name, node.Address)
		}
	}
	return nil
}

// image finds the backends' image a way into the cluster.
func (c AttachConfig) image(ctx context.Context, a *Access) (string, error) {
	if c.Image != "" {
		return c.Image, nil
	}
	if c.Backend == nil {
		return "", nil
	}
	ref, save, err := c.Backend()
	if err != nil {
		return "", err
	}
	if c.Push != "" {
		return push(ctx, c.Push, ref, save)
	}
	kind, found := strings.CutPrefix(a.Context, "kind-")
	if !found {
		return "", fmt.Errorf("the cluster has no image for the backends: name one with --image, or have it pushed with --push REPOSITORY (a kind cluster is loaded by itself when its context, kind-NAME, is named with --context)")
	}
	engine, err := findEngine(ctx, "", "")
	if err != nil {
		return "", err
	}
	k := newKind(Config{Name: kind}, engine)
	for i, node := range a.Nodes {
		if err := k.run(ctx, node.Name, saver(save), "ctr", "--namespace", "k8s.io", "images", "import", "-"); err != nil {
			return "", err
		}
		a.Nodes[i].Exec = []string{engine.name, "exec", "--interactive", node.Name}
	}
	return ref, nil
}

// push writes the image to REPOSITORY under the tag of its own content.
func push(ctx context.Context, repository, ref string, save func(io.Writer) error) (string, error) {
	_, tag, _ := strings.Cut(ref[strings.LastIndexByte(ref, '/')+1:], ":")
	to, err := name.NewTag(strings.TrimSuffix(repository, "/") + ":" + tag)
	if err != nil {
		return "", fmt.Errorf("push: %w", err)
	}
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(saver(save)), nil }, nil)
	if err != nil {
		return "", fmt.Errorf("push: %w", err)
	}
	if err := remote.Write(to, img, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("push %s: %w", to, err)
	}
	return to.String(), nil
}
