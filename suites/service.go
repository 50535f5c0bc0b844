// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"harness.example/harness/fixtures/echo"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

const (
	// servicePods is how many pods of the pool a Service with app=echo has.
	servicePods = 5
	// serviceAlpha is that of one address; a case that asks at each node's has room for ten of them.
	serviceAlpha = maxAlpha / 10
	// knock is how long one try at an address that may be silent takes.
	knock = time.Second
)

// serviceAnswers is how many fresh connections show every pod: kube-proxy draws one for each.
func serviceAnswers() int { return stats.CoverPlan(servicePods, serviceAlpha) }

func judgedByCover(from string) string {
	return fmt.Sprintf("every one of %d pods answers, over %d fresh connections %s (kube-proxy draws a pod for each; alpha %g)", servicePods, serviceAnswers(), from, serviceAlpha)
}

// serviceSamples are those of a case that covers the pods from up to ten nodes.
func serviceSamples(from string) []Sample {
	return []Sample{covers("pods reached from "+from+" (n for each; alpha for ten nodes)", servicePods, serviceAnswers(), 10*serviceAlpha)}
}

func serviceCases() []Case {
	return slices.Concat(serviceTypes(), servicePolicies(), serviceNames(), servicePorts(), serviceExternal(), serviceChanges())
}

// serviceTypes are the addresses that each type of a Service has.
func serviceTypes() []Case {
	return []Case{
		{
			Name:    "Service/ClusterIP",
			Doc:     "A cluster address takes connections from every node to every ready pod, by each port's name.",
			Fixture: "service/cluster-ip.yaml",
			Direct:  true,
			Samples: serviceSamples("a pod on each node"),
			Judged:  judgedByCover("from a pod on each node") + "; the second port exactly",
			Covers:  []string{"Service.spec.selector{}", "Service.spec.ports[].port", "Service.spec.ports[].targetPort", "Service.spec.type=ClusterIP"},
			Check:   checkClusterIP,
			Controls: []Control{
				{Break: "Service spec.selector.version=v1", Fails: "never answered: echo-v2"},
				{Break: "Service spec.ports[0].targetPort=8099", Fails: "dial-refused ×"},
				{Break: "Service spec.ports[1].targetPort=http", Fails: "the second port"},
			},
		},
		{
			Name:    "Service/ClusterIPFromOutside",
			Doc:     "A cluster address does not answer outside of the cluster.",
			Fixture: "service/cluster-ip.yaml",
			Needs:   []Capability{NodeAccess, NodeExec},
			Direct:  true,
			Judged:  "exact: three dials from outside, each refused or not answered; from a pod the same address answers",
			Covers:  []string{"Service.spec.type=ClusterIP"},
			Check:   checkClusterIPOutside,
			Controls: []Control{{
				Break: "a route from outside to the address by way of a node", Fails: "200 ×3", Do: routeToClusterIP,
			}},
		},
		{
			Name:    "Service/NodePort",
			Doc:     "A node port takes connections on every node to every pod, fixed or chosen by the cluster.",
			Fixture: "service/node-port.yaml",
			Needs:   []Capability{NodeAccess, NodeExec, ManyNodes},
			Direct:  true,
			Holds:   []string{seedNodePortName},
			Samples: serviceSamples("the node port of each node"),
			Judged:  judgedByCover(fmt.Sprintf("to port %d of each node from outside", seedNodePort)) + "; the chosen port, the cluster address and a port that no Service has exactly",
			Covers:  []string{"Service.spec.type=NodePort", "Service.spec.ports[].nodePort"},
			Check:   checkNodePort,
			Controls: []Control{
				{Break: "port 30007 closed on one node only", Fails: "silent on one node only: ", Do: closeOnOneNode},
				{Break: "Service spec.selector.version=v1", Fails: "never answered: echo-v2"},
				{Break: "Service spec.ports[0].nodePort=30006", Fails: "no answer on any node: "},
			},
		},
		{
			Name:    "Service/LoadBalancer",
			Doc:     "A load balancer's address answers from outside and reaches every pod, with a node port and a cluster address under it.",
			Fixture: "service/load-balancer.yaml",
			Needs:   []Capability{LoadBalancer, NodeAccess},
			Direct:  true,
			Serial:  true, // speakers that get no processor give the address to another node, and take it back
			Samples: serviceSamples("the external address"),
			Judged:  judgedByCover("to the address from outside") + "; the node port on each node and the cluster address exactly",
			Covers:  []string{"Service.spec.type=LoadBalancer", "Service.status.loadBalancer.ingress[].ip"},
			Check:   checkLoadBalancer,
			Controls: []Control{
				{Break: "Service spec.selector.version=v1", Fails: "never answered: echo-v2"},
				{Break: "Service spec.ports[0].port=81", Fails: "the external address: 200 on each of 1 requests, got "},
				// Last: an address that is given back and taken again is not reached for a while.
				{Break: "the type is ClusterIP, and the address given back", Fails: "no external address", Do: giveAddressBack},
			},
		},
	}
}

// service reads the case's Service.
func (e *Env) service(ctx context.Context) (*corev1.Service, error) {
	s, err := e.Kube.CoreV1().Services(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the Service: %w", err)
	}
	return s, nil
}

// everyPod judges that fresh connections to the address reach every pod of the pool. One knock comes first: what is
// silent need not be asked a hundred times.
func everyPod(ctx context.Context, e *Env, what string, from loadgen.Runner, host string, port int) error {
	pods, err := e.Pods(ctx, "app=echo")
	if err != nil {
		return err
	}
	if len(pods) != servicePods {
		return fmt.Errorf("%d pods are ready, want %d", len(pods), servicePods)
	}
	if err := answersOnce(ctx, e, what, from, host, port); err != nil {
		return err
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{
		Requests: []loadgen.Request{{URL: "http://" + hostPort(host, port) + "/"}}, Count: serviceAnswers(), Policy: loadgen.Fresh, Connections: 4,
	})
	if err != nil {
		return err
	}
	return reached(what, xs, pod, podNames(pods))
}

func answersOnce(ctx context.Context, e *Env, what string, from loadgen.Runner, host string, port int) error {
	xs, err := e.Burst(ctx, from, loadgen.Burst{
		Requests: []loadgen.Request{{URL: "http://" + hostPort(host, port) + "/"}}, Count: 1, Policy: loadgen.Fresh, Timeout: knock,
	})
	if err != nil {
		return err
	}
	return all(what, xs, "200")
}

func checkClusterIP(ctx context.Context, e *Env) error {
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	for _, node := range e.Target.Nodes {
		from, err := e.Inside(ctx, node.Name)
		if err != nil {
			return err
		}
		if err := everyPod(ctx, e, "from node "+node.Name, from, s.Spec.ClusterIP, 80); err != nil {
			return err
		}
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{
		Requests: []loadgen.Request{{URL: "tcp://" + hostPort(s.Spec.ClusterIP, 9000), Protocol: loadgen.TCP, Body: []byte("ping")}}, Count: 1, Policy: loadgen.Fresh,
	})
	if err != nil {
		return err
	}
	if x := xs[0]; !speaksTCP(x) {
		return &Mismatch{Want: "the second port leads to the backends' TCP port", Got: describe(x), Exchanges: xs}
	}
	return nil
}

// speaksTCP says whether a backend's TCP port greeted and echoed.
func speaksTCP(x loadgen.Exchange) bool {
	a, err := answer(x)
	return x.Err == "" && err == nil && a.Protocol == echo.ProtocolTCP
}

func checkClusterIPOutside(ctx context.Context, e *Env) error {
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	if err := answersOnce(ctx, e, "from a pod", from, s.Spec.ClusterIP, 80); err != nil {
		return err
	}
	xs, err := e.Burst(ctx, e.Outside(), loadgen.Burst{
		Requests: []loadgen.Request{{URL: "http://" + s.Spec.ClusterIP + "/"}}, Count: 3, Policy: loadgen.Fresh, Timeout: knock,
	})
	if err != nil {
		return err
	}
	for _, x := range xs {
		// Once it was connected, a broken connection is an answer, too.
		if x.ErrKind != loadgen.KindDialRefused && x.ErrKind != loadgen.KindDialTimeout {
			return &Mismatch{Want: "no connection from outside", Got: tally(xs, outcomeOf), Exchanges: xs}
		}
	}
	return nil
}

// routeToClusterIP opens the way that outside does not have: kube-proxy on a node takes the address from anybody.
func routeToClusterIP(ctx context.Context, e *Env) error {
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	route := func(ctx context.Context, verb string) error {
		out, err := exec.CommandContext(ctx, "ip", "route", verb, s.Spec.ClusterIP+"/32", "via", e.Target.Nodes[0].Address).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip route %s: %w: %s", verb, err, out)
		}
		return nil
	}
	if err := route(ctx, "add"); err != nil {
		return err
	}
	e.Undo(func(ctx context.Context) error { return route(ctx, "del") })
	return nil
}

func checkNodePort(ctx context.Context, e *Env) error {
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	chosen := int(s.Spec.Ports[1].NodePort)
	if chosen < firstNodePort || chosen > lastNodePort {
		return mismatch(fmt.Sprintf("a chosen port from %d to %d", firstNodePort, lastNodePort), "%d", chosen)
	}
	closed, err := e.freeNodePort(ctx)
	if err != nil {
		return err
	}
	if err := onEveryNode(ctx, e, seedNodePort); err != nil {
		return err
	}
	for _, node := range e.Target.Nodes {
		if err := everyPod(ctx, e, fmt.Sprintf("port %d of node %s", seedNodePort, node.Name), e.Outside(), node.Address, seedNodePort); err != nil {
			return err
		}
		xs, err := e.Burst(ctx, e.Outside(), loadgen.Burst{
			Requests: []loadgen.Request{
				{URL: "tcp://" + hostPort(node.Address, chosen), Protocol: loadgen.TCP, Body: []byte("ping")},
				{URL: "tcp://" + hostPort(node.Address, closed), Protocol: loadgen.TCP, Body: []byte("ping")},
			}, Count: 2, Policy: loadgen.Fresh, Timeout: knock,
		})
		if err != nil {
			return err
		}
		if x := xs[0]; !speaksTCP(x) {
			return &Mismatch{Want: fmt.Sprintf("the chosen port %d answers on node %s", chosen, node.Name), Got: describe(x), Exchanges: xs[:1]}
		}
		if x := xs[1]; x.ErrKind != loadgen.KindDialRefused {
			return &Mismatch{Want: fmt.Sprintf("port %d, which no Service has, is refused on node %s", closed, node.Name), Got: describe(x), Exchanges: xs[1:]}
		}
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	return answersOnce(ctx, e, "its cluster address", from, s.Spec.ClusterIP, 80)
}

// onEveryNode knocks at the port of all nodes at once, and says on which of them nobody opens.
func onEveryNode(ctx context.Context, e *Env, port int) error {
	nodes := e.Target.Nodes
	b := loadgen.Burst{Count: len(nodes), Connections: len(nodes), Policy: loadgen.Fresh, Timeout: knock}
	for _, n := range nodes {
		b.Requests = append(b.Requests, loadgen.Request{URL: "http://" + hostPort(n.Address, port) + "/"})
	}
	xs, err := e.Burst(ctx, e.Outside(), b)
	if err != nil {
		return err
	}
	var silent []string
	for _, x := range xs {
		if outcome := outcomeOf(x); outcome != "200" {
			silent = append(silent, nodes[x.Seq].Name+" ("+outcome+")")
		}
	}
	want := fmt.Sprintf("port %d answers on each of %d nodes", port, len(nodes))
	switch names := strings.Join(silent, ", "); len(silent) {
	case 0:
		return nil
	case len(nodes):
		return mismatch(want, "no answer on any node: %s", names)
	case 1:
		return mismatch(want, "silent on one node only: %s", names)
	default:
		return mismatch(want, "silent on %d nodes: %s", len(silent), names)
	}
}

// seedNodePortName is the port that one Service of the cluster can have at a time.
const seedNodePortName = "node port 30007"

// The node ports that a cluster has unless it is told otherwise.
const firstNodePort, lastNodePort = 30000, 32767

// freeNodePort is a node port that no Service has: of the lower ones, which a cluster is slow to give away.
func (e *Env) freeNodePort(ctx context.Context) (int, error) {
	services, err := e.Kube.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list the Services' node ports: %w", err)
	}
	taken := map[int]bool{}
	for _, s := range services.Items {
		taken[int(s.Spec.HealthCheckNodePort)] = true
		for _, p := range s.Spec.Ports {
			taken[int(p.NodePort)] = true
		}
	}
	for port := firstNodePort; port <= lastNodePort; port++ {
		if !taken[port] {
			return port, nil
		}
	}
	return 0, errors.New("every node port is taken")
}

// closeOnOneNode drops what comes to the port on the last node, before kube-proxy sees it.
func closeOnOneNode(ctx context.Context, e *Env) error {
	node := e.Target.Nodes[len(e.Target.Nodes)-1]
	rule := func(ctx context.Context, verb string) error {
		argv := append(append([]string{}, node.Exec...),
			"iptables", "--table", "raw", verb, "PREROUTING", "--protocol", "tcp", "--dport", fmt.Sprint(seedNodePort), "--jump", "DROP")
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput() //nolint:gosec // the target says how
		if err != nil {
			return fmt.Errorf("iptables %s on node %s: %w: %s", verb, node.Name, err, out)
		}
		return nil
	}
	if err := rule(ctx, "--insert"); err != nil {
		return err
	}
	e.Undo(func(ctx context.Context) error { return rule(ctx, "--delete") })
	return nil
}

func checkLoadBalancer(ctx context.Context, e *Env) error {
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	if len(s.Status.LoadBalancer.Ingress) == 0 {
		return mismatch("an external address", "no external address: the Service is of type %s", s.Spec.Type)
	}
	address := s.Status.LoadBalancer.Ingress[0]
	if err := everyPod(ctx, e, "the external address", e.Outside(), address.IP+address.Hostname, 80); err != nil {
		return err
	}
	for _, node := range e.Target.Nodes {
		if err := answersOnce(ctx, e, "the node port on "+node.Name, e.Outside(), node.Address, int(s.Spec.Ports[0].NodePort)); err != nil {
			return err
		}
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	return answersOnce(ctx, e, "its cluster address", from, s.Spec.ClusterIP, 80)
}

// giveAddressBack changes the type and waits until the balancer has let the address go.
func giveAddressBack(ctx context.Context, e *Env) error {
	patch := []byte(`{"spec":{"type":"ClusterIP"}}`)
	if _, err := e.Kube.CoreV1().Services(e.Namespace()).Patch(ctx, e.Name(), types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: "harness"}); err != nil {
		return fmt.Errorf("change the type: %w", err)
	}
	return e.Until(ctx, "the address is given back", func(ctx context.Context) (bool, error) {
		s, err := e.service(ctx)
		if err == nil && len(s.Status.LoadBalancer.Ingress) > 0 {
			err = errors.New("the Service still has " + s.Status.LoadBalancer.Ingress[0].IP)
		}
		return true, err
	})
}
