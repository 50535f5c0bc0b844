// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"harness.example/harness/loadgen"
)

// serviceExternal are the addresses that a Service has beside its own, and who may use them. Where a case says that a
// balancer of its own gives the address, the Service has a class that nobody serves and the check itself writes the status:
// what kube-proxy makes of the address is then proved without a balancer's help, from pods, whose nodes take it.
func serviceExternal() []Case {
	return []Case{
		{
			Name:    "Service/ExternalIPs",
			Doc:     "Every node takes what is sent to an external address of a Service, for its ports.",
			Fixture: "service/external-ips.yaml",
			Direct:  true,
			Prepare: func(e *Env) error { e.Vars["ADDRESS"] = e.ownAddress(); return nil },
			Judged:  "exact: three requests to the address from a pod on each node are answered by the Service's pod",
			Covers:  []string{"Service.spec.externalIPs[]"},
			Check: func(ctx context.Context, e *Env) error {
				return e.everyNode(ctx, "the external address", "http://"+hostPort(e.ownAddress(), 80)+"/", "app=echo,version=v2")
			},
			Controls: []Control{
				{Break: "Service spec.externalIPs=", Fails: "the external address, from node"},
				{Break: "Service spec.ports[0].port=81", Fails: "the external address, from node"},
				{Break: "Service spec.selector.version=v3", Fails: "not expected: \"echo-v3"},
			},
		},
		{
			Name:    "Service/LoadBalancerClass",
			Doc:     "A Service of a load balancer's class is left alone by the cluster's own balancer, and has the address that the balancer of its class writes into its status.",
			Fixture: "service/load-balancer-class.yaml",
			Needs:   []Capability{LoadBalancer},
			Direct:  true,
			Judged:  "exact: the Service has no address although a younger one of no class has; once a balancer of its own gives it one, three requests from each node are answered there",
			Covers:  []string{"Service.spec.loadBalancerClass", "Service.status.loadBalancer.ingress[].ip"},
			Check:   checkLoadBalancerClass,
			Controls: []Control{
				{Break: "the same Service without a class", Fails: "it has ", Do: withoutClass},
				{Break: "Service/-classed spec.selector.version=v3", Fails: "not expected: \"echo-v3"},
			},
		},
		{
			Name:    "Service/WithoutNodePorts",
			Doc:     "A load balanced Service that asks for no node ports has none, and its address answers all the same.",
			Fixture: "service/without-node-ports.yaml",
			Direct:  true,
			Judged:  "exact: it has no node port, and three requests from each node to the address that a balancer of its own gives are answered",
			Covers:  []string{"Service.spec.allocateLoadBalancerNodePorts", "Service.spec.type=LoadBalancer"},
			Check: func(ctx context.Context, e *Env) error {
				s, err := e.service(ctx)
				if err != nil {
					return err
				}
				if port := s.Spec.Ports[0].NodePort; port != 0 {
					return mismatch("no node port", "node port %d", port)
				}
				if err := e.balance(ctx, s); err != nil {
					return err
				}
				return e.everyNode(ctx, "its address", "http://"+hostPort(e.ownAddress(), 80)+"/", "app=echo,version=v2")
			},
			Controls: []Control{
				{Break: "Service spec.ports[0].targetPort=8099", Fails: "dial-refused ×3"},
				// Last: ports that a Service has are not taken away.
				{Break: "Service spec.allocateLoadBalancerNodePorts=true", Fails: "got node port "},
			},
		},
		{
			Name:    "Service/SourceRanges",
			Doc:     "A load balancer's address answers clients in the Service's source ranges, and is silent to others.",
			Fixture: "service/source-ranges.yaml",
			Direct:  true,
			Prepare: poolAddress,
			Judged:  "exact: at the address that a balancer of its own gives three connections of the pod whose address is the range are answered, and three of another pod are not opened",
			Covers:  []string{"Service.spec.loadBalancerSourceRanges[]"},
			Check:   checkSourceRanges,
			Controls: []Control{
				{Break: "Service spec.loadBalancerSourceRanges=", Fails: "a client out of range: dial-timeout on each of 3 requests, got 200 ×3"},
				{Break: "Service spec.loadBalancerSourceRanges=[203.0.113.0/24]", Fails: "a client in range: 200 on each of 3 requests, got dial-timeout ×3"},
			},
		},
		{
			Name:    "Service/AddressMode",
			Doc:     "Nodes do not take for themselves what goes to an external address whose mode is Proxy: the balancer is to see it first.",
			Fixture: "service/address-mode.yaml",
			Direct:  true,
			Judged:  "exact: at the addresses that a balancer of its own gives three connections from a pod are answered in the mode VIP, and not opened in the mode Proxy",
			Covers:  []string{"Service.status.loadBalancer.ingress[].ipMode", "Service.status.loadBalancer.ingress[].ip"},
			Check:   checkAddressMode,
			Controls: []Control{
				{Break: `Service/-proxy metadata.annotations["harness.example/mode"]=VIP`, Fails: "the mode Proxy: "},
				{Break: `Service/-vip metadata.annotations["harness.example/mode"]=Proxy`, Fails: "the mode VIP: "},
			},
		},
		{
			Name:    "Service/ExternalTrafficPolicy",
			Doc:     "With the external policy Local a node port shows the pod its client's address and is silent on nodes without a pod; with Cluster every node answers.",
			Fixture: "service/external-traffic-policy.yaml",
			Needs:   []Capability{NodeAccess, ManyNodes},
			Direct:  true,
			Judged:  "exact: three tries at each node have one right outcome, and the pod names the peer that it saw",
			Covers:  []string{"Service.spec.externalTrafficPolicy"},
			Check:   checkExternalTrafficPolicy,
			Controls: []Control{
				{Break: "Service/-local spec.externalTrafficPolicy=Cluster", Fails: "the policy Local at node"},
				{Break: "Service/-cluster spec.externalTrafficPolicy=Local", Fails: "the policy Cluster at node"},
			},
		},
		{
			Name:    "Service/HealthCheckNodePort",
			Doc:     "A load balanced Service with the external policy Local has a port on every node that says whether the node has a pod of it.",
			Fixture: "service/health-check-node-port.yaml",
			Needs:   []Capability{NodeAccess, ManyNodes},
			Direct:  true,
			Judged:  "exact: of three requests to each node all are answered, with 200 on the node of the pod and 503 on the others",
			Covers:  []string{"Service.spec.healthCheckNodePort"},
			Check:   checkHealthCheckNodePort,
			Controls: []Control{
				{Break: "Service spec.selector.version=none", Fails: "200 on each of 3 requests, got 503 ×3"},
				{Break: "Service spec.selector.version=", Fails: "503 on each of 3 requests, got 200 ×3"},
				{Break: "Service spec.externalTrafficPolicy=Cluster", Fails: "no such port"},
			},
		},
	}
}

// ownAddress is out of a range that is nobody's (RFC 2544), and another for every case.
func (e *Env) ownAddress() string {
	sum := 0
	for _, c := range []byte(e.Name()) {
		sum = (sum*31 + int(c)) % (1 << 16)
	}
	return netip.AddrFrom4([4]byte{198, 19, byte(sum >> 8), byte(sum)}).String()
}

// addressMode is the annotation by which a fixture tells the balancer that the check plays how to give addresses.
const addressMode = "harness.example/mode"

// balance is what a load balancer does to tell that Services have an address.
func (e *Env) balance(ctx context.Context, services ...*corev1.Service) error {
	for _, s := range services {
		if err := e.address(ctx, s); err != nil {
			return err
		}
	}
	return e.Live(ctx)
}

func (e *Env) address(ctx context.Context, s *corev1.Service) error {
	mode := cmp.Or(s.Annotations[addressMode], string(corev1.LoadBalancerIPModeVIP))
	status := fmt.Appendf(nil, `{"status":{"loadBalancer":{"ingress":[{"ip":%q,"ipMode":%q}]}}}`, e.ownAddress(), mode)
	if _, err := e.Kube.CoreV1().Services(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, status, metav1.PatchOptions{FieldManager: "harness"}, "status"); err != nil {
		return fmt.Errorf("give the Service an address: %w", err)
	}
	return nil
}

// everyNode judges that three requests of a pod on each node are answered by all of the pods, which are few.
func (e *Env) everyNode(ctx context.Context, what, url, labels string) error {
	pods, err := e.Pods(ctx, labels)
	if err != nil {
		return err
	}
	for _, node := range e.Target.Nodes {
		from, err := e.Inside(ctx, node.Name)
		if err != nil {
			return err
		}
		xs, err := e.tries(ctx, from, loadgen.Request{URL: url})
		if err != nil {
			return err
		}
		if err := reached(what+", from node "+node.Name, xs, pod, podNames(pods)); err != nil {
			return err
		}
	}
	return nil
}

func checkLoadBalancerClass(ctx context.Context, e *Env) error {
	plain, err := e.serviceOf(ctx, "-plain")
	if err != nil {
		return err
	}
	if len(plain.Status.LoadBalancer.Ingress) == 0 {
		return fmt.Errorf("the Service %s has no address", plain.Name)
	}
	s, err := e.serviceOf(ctx, "-classed")
	if err != nil {
		return err
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != e.ownAddress() {
			return mismatch("no address from the cluster's own balancer", "it has %s", in.IP+in.Hostname)
		}
	}
	if err := e.balance(ctx, s); err != nil {
		return err
	}
	return e.everyNode(ctx, "its address", "http://"+hostPort(e.ownAddress(), 80)+"/", "app=echo,version=v2")
}

// withoutClass makes the Service anew, for a class cannot be taken away; ready, it has an address of the cluster's balancer.
func withoutClass(ctx context.Context, e *Env) error {
	return e.replace(ctx, "Service/-classed", "spec.loadBalancerClass=")
}

func checkSourceRanges(ctx context.Context, e *Env) error {
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	if err := e.balance(ctx, s); err != nil {
		return err
	}
	for _, client := range []struct{ what, version, outcome string }{
		{"a client in range", "v2", "200"},
		{"a client out of range", "v3", loadgen.KindDialTimeout},
	} {
		pods, err := e.Pods(ctx, "app=echo,version="+client.version)
		if err != nil {
			return err
		}
		if len(pods) != 1 {
			return fmt.Errorf("%d pods of version %s are ready, want 1", len(pods), client.version)
		}
		if err := ends(ctx, e, client.what, e.backend(pods[0]), loadgen.Request{URL: "http://" + hostPort(e.ownAddress(), 80) + "/"}, client.outcome); err != nil {
			return err
		}
	}
	return nil
}

func checkAddressMode(ctx context.Context, e *Env) error {
	vip, err := e.serviceOf(ctx, "-vip")
	if err != nil {
		return err
	}
	proxy, err := e.serviceOf(ctx, "-proxy")
	if err != nil {
		return err
	}
	if err := e.balance(ctx, vip, proxy); err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	at := func(s *corev1.Service) string {
		return "http://" + hostPort(e.ownAddress(), int(s.Spec.Ports[0].Port)) + "/"
	}
	if err := ends(ctx, e, "the mode VIP", from, loadgen.Request{URL: at(vip)}, "200"); err != nil {
		return err
	}
	return unanswered(ctx, e, "the mode Proxy", from, at(proxy))
}

func checkExternalTrafficPolicy(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo,version=v2")
	if err != nil {
		return err
	}
	for suffix, policy := range map[string]string{"-local": "Local", "-cluster": "Cluster"} {
		s, err := e.serviceOf(ctx, suffix)
		if err != nil {
			return err
		}
		for _, node := range e.Target.Nodes {
			what := fmt.Sprintf("the policy %s at node %s", policy, node.Name)
			url := "http://" + hostPort(node.Address, int(s.Spec.Ports[0].NodePort)) + "/"
			if policy == "Local" && len(podsOn(node.Name, pods)) == 0 {
				if err := ends(ctx, e, what+", which has no pod", e.Outside(), loadgen.Request{URL: url}, loadgen.KindDialTimeout); err != nil {
					return err
				}
				continue
			}
			xs, err := e.tries(ctx, e.Outside(), loadgen.Request{URL: url})
			if err != nil {
				return err
			}
			if err := all(what, xs, "200"); err != nil {
				return err
			}
			if policy == "Local" {
				err = showsClient(what, xs)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// showsClient judges that the backend saw the client's own address. That it does not see it with the policy Cluster is not
// judged: a bridge between the nodes may put the host's address into the place of the node's.
func showsClient(what string, xs []loadgen.Exchange) error {
	for _, x := range xs {
		a, err := answer(x)
		if err != nil {
			return err
		}
		seen, _, _ := net.SplitHostPort(a.Remote)
		if own, _, _ := net.SplitHostPort(x.Local); seen != own {
			return &Mismatch{Want: what + ": the pod sees the client's address " + own, Got: seen, Exchanges: xs}
		}
	}
	return nil
}

func checkHealthCheckNodePort(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo,version=v2")
	if err != nil {
		return err
	}
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	if s.Spec.HealthCheckNodePort == 0 {
		return mismatch("a port for health checks", "no such port")
	}
	// kube-proxy answers health checks behind its rules, and the proof is about rules: with another round it is behind both.
	if err := e.Live(ctx); err != nil {
		return err
	}
	for _, node := range e.Target.Nodes {
		want := "503"
		if len(podsOn(node.Name, pods)) > 0 {
			want = "200"
		}
		url := "http://" + hostPort(node.Address, int(s.Spec.HealthCheckNodePort)) + "/"
		if err := ends(ctx, e, "node "+node.Name, e.Outside(), loadgen.Request{URL: url}, want); err != nil {
			return err
		}
	}
	return nil
}
