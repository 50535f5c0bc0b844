// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"harness.example/harness/cluster/manifests"
)

// poll is how often a condition is looked at while the environment comes up.
const poll = 200 * time.Millisecond

const gatewayService = "istio-ingressgateway"

// discoverNodes lists the nodes, the control plane first.
func discoverNodes(ctx context.Context, client kubernetes.Interface) ([]Node, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var control, workers []Node
	for _, n := range list.Items {
		node := Node{Name: n.Name}
		for _, address := range n.Status.Addresses {
			if address.Type == corev1.NodeInternalIP && node.Address == "" {
				node.Address = address.Address
			}
		}
		if _, node.ControlPlane = n.Labels["node-role.kubernetes.io/control-plane"]; node.ControlPlane {
			control = append(control, node)
		} else {
			workers = append(workers, node)
		}
	}
	return append(control, workers...), nil
}

// podNetwork gives every node its share of the pod addresses and the ways to
// the others': plain CNI plugins and one route per node, where the node image
// brings no network of its own.
func (b *bringUp) podNetwork(ctx context.Context, note func(string)) error {
	if b.Isolated {
		if err := keepNeighbours(); err != nil {
			return err
		}
	}
	if !b.Set.OwnCNI {
		note("kindnet")
		return nil
	}
	blocks := map[string]string{}
	err := until(ctx, time.Minute, func(ctx context.Context) error {
		list, err := b.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range list.Items {
			if n.Spec.PodCIDR == "" {
				return fmt.Errorf("node %s has no pod addresses yet", n.Name)
			}
			blocks[n.Name] = n.Spec.PodCIDR
		}
		return nil
	})
	if err != nil {
		return err
	}
	api, err := b.client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return err
	}
	note("kube-proxy")
	return b.importEverywhere(ctx, func(node string) error {
		conf, err := json.Marshal(cniConfig(blocks[node]))
		if err != nil {
			return err
		}
		script := []string{
			"set -e", "mkdir -p /etc/cni/net.d", "cat > /tmp/harness.conflist",
			// A pod that starts before kube-proxy knows the API server's address waits
			// half a minute for its first answer. So pods wait for kube-proxy.
			fmt.Sprintf("for i in $(seq 300); do timeout 1 bash -c '</dev/tcp/%s/443' 2>/dev/null && break; sleep 0.2; done", api.Spec.ClusterIP),
			"cp /tmp/harness.conflist /etc/cni/net.d/10-harness.conflist",
		}
		for _, other := range b.access.Nodes {
			if other.Name != node {
				script = append(script, fmt.Sprintf("ip route replace %s via %s", blocks[other.Name], other.Address))
			}
		}
		return b.kind.run(ctx, node, strings.NewReader(string(conf)), "sh", "-c", strings.Join(script, "\n"))
	})
}

func cniConfig(block string) map[string]any {
	return map[string]any{
		"cniVersion": "0.4.0", "name": "harness",
		"plugins": []any{
			map[string]any{
				"type": "ptp", "ipMasq": false, "mtu": 1500,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": "/run/cni-ipam-state",
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
					"ranges": []any{[]any{map[string]any{"subnet": block}}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}
}

func (b *bringUp) dns(ctx context.Context, _ func(string)) error {
	return b.rolledOut(ctx, "kube-system", "deployment/coredns", "daemonset/kube-proxy")
}

func (b *bringUp) istio(ctx context.Context, note func(string)) error {
	note("apply")
	// The gateway's pod is injected by istiod: until that answers, its creation
	// is refused and tried again ever more slowly. So it comes second.
	istiod, gateway := splitGateway(strings.ReplaceAll(manifests.Istio, manifests.IstioTag, b.Set.IstioTag))
	if err := b.apply(ctx, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: istio-system\n---\n"+istiod); err != nil {
		return err
	}
	note("istiod")
	if err := b.rolledOut(ctx, "istio-system", "deployment/istiod"); err != nil {
		return err
	}
	note("gateway")
	if err := b.apply(ctx, gateway); err != nil {
		return err
	}
	return b.rolledOut(ctx, "istio-system", "deployment/"+gatewayService)
}

// splitGateway parts the gateway's Deployment from everything else.
func splitGateway(all string) (rest, gateway string) {
	var others []string
	for doc := range strings.SplitSeq(all, "\n---\n") {
		if strings.Contains(doc, "\nkind: Deployment\n") && strings.Contains(doc, "\n  name: "+gatewayService+"\n") {
			gateway = doc
			continue
		}
		others = append(others, doc)
	}
	return strings.Join(others, "\n---\n"), gateway
}

func (b *bringUp) metallb(ctx context.Context, note func(string)) error {
	subnet, err := b.kind.subnet(ctx)
	if err != nil {
		return err
	}
	first, last, err := pool(subnet)
	if err != nil {
		return err
	}
	note("apply")
	if err := b.apply(ctx, manifests.MetalLB); err != nil {
		return err
	}
	note("controller, speakers")
	if err := b.rolledOut(ctx, "metallb-system", "deployment/controller", "daemonset/speaker"); err != nil {
		return err
	}
	note(fmt.Sprintf("addresses %s-%s", first, last))
	addresses := fmt.Sprintf(`apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: harness, namespace: metallb-system}
spec: {addresses: ["%s-%s"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: harness, namespace: metallb-system}
spec: {ipAddressPools: [harness]}
`, first, last)
	return b.apply(ctx, addresses)
}

// pool takes addresses for load balancers from the end of a subnet, where the
// engine, which counts from the start, gives none to nodes.
func pool(subnet string) (first, last netip.Addr, err error) {
	prefix, err := netip.ParsePrefix(subnet)
	if err != nil || !prefix.Addr().Is4() || prefix.Bits() > 25 {
		return first, last, fmt.Errorf("subnet %q: want IPv4 of /25 or wider", subnet)
	}
	base := prefix.Masked().Addr().As4()
	end := binary.BigEndian.Uint32(base[:]) + 1<<(32-prefix.Bits()) - 1
	at := func(n uint32) netip.Addr {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n)
		return netip.AddrFrom4(b)
	}
	return at(end - 55), at(end - 5), nil
}

func (b *bringUp) metricsServer(ctx context.Context, note func(string)) error {
	note("apply")
	if err := b.apply(ctx, manifests.MetricsServer); err != nil {
		return err
	}
	note("first figures")
	return until(ctx, 3*time.Minute, func(ctx context.Context) error {
		_, err := b.client.Discovery().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").DoRaw(ctx)
		return err
	})
}

// gateway waits for the gateway's external address and for its first answer.
func (b *bringUp) gateway(ctx context.Context, note func(string)) error {
	var service *corev1.Service
	err := until(ctx, 2*time.Minute, func(ctx context.Context) (err error) {
		service, err = b.client.CoreV1().Services("istio-system").Get(ctx, gatewayService, metav1.GetOptions{})
		if err == nil && len(service.Status.LoadBalancer.Ingress) == 0 {
			err = fmt.Errorf("service istio-system/%s has no external address yet", gatewayService)
		}
		return err
	})
	if err != nil {
		return err
	}
	b.access.Gateway = gatewayOf(service, service.Status.LoadBalancer.Ingress[0].IP, false)
	note(b.access.Gateway.Host)
	b.access.Versions, err = versions(ctx, b.client)
	if err != nil {
		return err
	}
	if b.Set.Envoy != "" {
		b.access.Versions["envoy"] = b.Set.Envoy
	}
	return until(ctx, time.Minute, func(ctx context.Context) error {
		return answers(ctx, fmt.Sprintf("http://%s:15021/healthz/ready", b.access.Gateway.Host))
	})
}

func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Its own transport: the default one would ask a proxy from the environment.
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

// gatewayOf reads a gateway's Service: ports by what they are for, at the host
// given, or as node ports.
func gatewayOf(service *corev1.Service, host string, nodePorts bool) Gateway {
	g := Gateway{Namespace: service.Namespace, Service: service.Name, Selector: service.Spec.Selector, Host: host, Ports: map[string]int{}}
	for _, port := range service.Spec.Ports {
		name := port.Name
		switch {
		case port.Port == 80:
			name = "http"
		case port.Port == 443:
			name = "https"
		case port.Port == 31400:
			name = "tcp"
		}
		if g.Ports[name] = int(port.Port); nodePorts {
			g.Ports[name] = int(port.NodePort)
		}
	}
	return g
}

// versions says what runs, as the cluster itself tells.
func versions(ctx context.Context, client kubernetes.Interface) (map[string]string, error) {
	info, err := client.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("ask for the server's version: %w", err)
	}
	found := map[string]string{"kubernetes": info.GitVersion}
	deployments, err := client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	names := map[string]string{
		"istiod": "istio", "istio-ingressgateway": "gateway", "metrics-server": "metrics-server", "coredns": "coredns", "controller": "metallb",
	}
	for _, d := range deployments.Items {
		name, known := names[d.Name]
		if !known || name == "metallb" && d.Namespace != "metallb-system" {
			continue
		}
		image := d.Spec.Template.Spec.Containers[0].Image
		if tag := image[strings.LastIndexByte(image, ':')+1:]; image != "auto" && tag != image {
			found[name] = tag
		}
	}
	return found, nil
}

// until waits for a condition: at least one try, and the last reason in the error.
func until(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, poll, limit, true, func(ctx context.Context) (bool, error) {
		err := try(ctx)
		if ctx.Err() == nil || last == nil {
			last = err
		}
		return err == nil, nil
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ctx.Err(), last)
	default:
		return fmt.Errorf("not within %s: %w", strconv.FormatFloat(limit.Seconds(), 'f', -1, 64)+" s", last)
	}
}
