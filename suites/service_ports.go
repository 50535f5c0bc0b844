// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/fixtures/echo"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

const (
	// refusal is how long a refusal may take: a node sends few of them in a second, and a client that was not told asks again.
	refusal = 10 * time.Second

	// namedPods is how many pods the case about a port's name has, each with another number for it.
	namedPods = 2
)

func namedAnswers() int { return stats.CoverPlan(namedPods, maxAlpha) }

// servicePorts are how a Service finds its backends and speaks to them.
func servicePorts() []Case {
	return []Case{
		{
			Name:    "Service/UDP",
			Doc:     "Two protocols share a port's number: each reaches its own port of the pods, datagrams from every node to every pod, and at each node's port.",
			Fixture: "service/udp.yaml",
			Needs:   []Capability{NodeAccess},
			Direct:  true,
			Samples: serviceSamples("a pod on each node"),
			Judged:  fmt.Sprintf("every one of %d pods answers, over %d sockets on each node (kube-proxy draws a pod for each; alpha %g); TCP and the node ports exactly", servicePods, serviceAnswers(), serviceAlpha),
			Covers:  []string{"Service.spec.ports[].protocol", "Service.spec.ports[].nodePort", "Service.spec.ports[].port"},
			Check:   checkUDP,
			Controls: []Control{
				{Break: "Service spec.ports[1].targetPort=8099", Fails: "dial-refused ×"},
				{Break: "Service spec.ports[1].port=9002; Service spec.ports[1].protocol=TCP", Fails: "datagrams from node"},
				{Break: "Service spec.selector.version=v1", Fails: "never answered: echo-v2"},
			},
		},
		{
			Name:     "Service/NamedPort",
			Doc:      "A target port that is a name is looked up in each pod: pods with different numbers for it serve one Service.",
			Fixture:  "service/named-port.yaml",
			Workload: Own,
			Direct:   true,
			Samples:  []Sample{covers("pods reached at the cluster address", namedPods, namedAnswers(), maxAlpha)},
			Judged:   fmt.Sprintf("both pods answer, each at its own number, over %d fresh connections (kube-proxy draws a pod for each; n and alpha as sampled)", namedAnswers()),
			Covers:   []string{"Service.spec.ports[].targetPort"},
			Check:    checkNamedPort,
			Controls: []Control{
				{Break: "Service spec.ports[0].targetPort=8070", Fails: "dial-refused ×"},
				{Break: "Service spec.ports[0].targetPort=control", Fails: "404 ×"},
			},
		},
		{
			Name:    "Service/NoEndpoints",
			Doc:     "A Service that selects no pod refuses connections, at its cluster address and at its node port.",
			Fixture: "service/no-endpoints.yaml",
			Needs:   []Capability{NodeAccess},
			Direct:  true,
			Judged:  fmt.Sprintf("exact: a connection from a pod on each node, and one at each node, are refused; a refusal may take %s, for a node sends few in a second", refusal),
			Covers:  []string{"Service.spec.selector{}"},
			Check:   checkNoEndpoints,
			Controls: []Control{
				{Break: "Service spec.selector.version=v1", Fails: "200 ×1"},
			},
		},
		{
			Name:    "Service/ManualEndpoints",
			Doc:     "A Service without a selector serves the endpoints that somebody writes for it, at the ports that they have, if they are ready.",
			Fixture: "service/manual-endpoints.yaml",
			Direct:  true,
			Prepare: poolAddress,
			Judged:  "exact: each of three requests from each node is answered by the pod whose address the EndpointSlice has",
			Covers: []string{
				"Service.spec.selector{}", "EndpointSlice.endpoints[].addresses[]", "EndpointSlice.endpoints[].conditions.ready", "EndpointSlice.ports[].port",
			},
			Check: checkManualEndpoints,
			Controls: []Control{
				{Break: "EndpointSlice ports[0].port=8099", Fails: "dial-refused ×3"},
				{Break: "EndpointSlice endpoints[0].conditions.ready=false", Fails: "dial-refused ×"},
				{Break: "delete EndpointSlice", Fails: "dial-refused ×"},
			},
		},
		{
			Name:     "Service/Terminating",
			Doc:      "A pod that is ending gets no new connections while its Service has another, and goes on to get them if it has none.",
			Fixture:  "service/terminating.yaml",
			Workload: Own,
			Direct:   true,
			Judged: fmt.Sprintf("exact: three connections to the Service of the ending pod alone are answered by it; none of %d to the Service of both is (one still among %d would be missed with a chance of %g)",
				namedAnswers(), namedPods, maxAlpha),
			Covers: []string{"EndpointSlice.endpoints[].conditions.terminating", "EndpointSlice.endpoints[].conditions.serving", "Service.spec.selector{}"},
			Check:  checkTerminating,
			Controls: []Control{
				{Break: "Service/-alone spec.selector.role=nobody", Fails: "the ending pod's own Service"},
				{Break: "Service/-both spec.selector.role=first", Fails: "the Service of both"},
			},
		},
		appProtocol(),
	}
}

func appProtocol() Case {
	table := func(e *Env) []route {
		return []route{
			{"http", e.URL("/http"), echo.ProtocolHTTP1},
			{"http2", e.URL("/http2"), echo.ProtocolH2C},
			{"kubernetes.io/h2c", e.URL("/h2c"), echo.ProtocolH2C},
		}
	}
	c := routesCase(Case{
		Name:    "Service/AppProtocol",
		Doc:     "Istio speaks to a port in the protocol that its appProtocol names, whatever the port is called.",
		Fixture: "service/app-protocol.yaml",
		Covers:  []string{"Service.spec.ports[].appProtocol"},
		Controls: []Control{
			{Break: "Service spec.ports[1].appProtocol=http", Fails: "http2: http1 instead of h2c"},
			{Break: "Service spec.ports[2].appProtocol=", Fails: "h2c: http1 instead of h2c"},
			{Break: "Service spec.ports[0].appProtocol=http2", Fails: "http: h2c instead of http1"},
		},
	}, table)
	c.Check = func(ctx context.Context, e *Env) error {
		return takesBy(ctx, e, e.Outside(), table(e), func(x loadgen.Exchange) string {
			a, err := answer(x)
			if x.ErrKind != "" || err != nil {
				return answerer(x)
			}
			return a.Protocol
		})
	}
	return c
}

// datagrams judges that sockets are answered by each of the pods and by nobody else.
func datagrams(what string, xs []loadgen.Exchange, pods []corev1.Pod) error {
	for i, x := range xs {
		var a echo.Answer
		if x.Err == "" && json.Unmarshal(x.Body, &a) == nil && a.Protocol == echo.ProtocolUDP {
			xs[i].Status, xs[i].Header = http.StatusOK, http.Header{echo.HeaderPod: {a.Pod}} // as it would be over HTTP
		}
	}
	return reached(what, xs, pod, podNames(pods))
}

func checkUDP(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo")
	if err != nil {
		return err
	}
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	udp := func(host string, port, count int) loadgen.Burst {
		return loadgen.Burst{
			Requests: []loadgen.Request{{URL: "udp://" + hostPort(host, port), Protocol: loadgen.UDP, Body: []byte("ping")}},
			Count:    count, Connections: min(4, count), Policy: loadgen.Fresh, Timeout: 3 * knock,
		}
	}
	for _, node := range e.Target.Nodes {
		from, err := e.Inside(ctx, node.Name)
		if err != nil {
			return err
		}
		for _, count := range []int{1, serviceAnswers()} { // what is silent need not be asked a hundred times
			xs, err := e.Burst(ctx, from, udp(s.Spec.ClusterIP, 9000, count))
			if err != nil {
				return err
			}
			if answered := datagrams("datagrams from node "+node.Name, xs, pods); answered != nil && (count > 1 || xs[0].Status == 0) {
				return answered
			}
		}
		xs, err := e.Burst(ctx, from, loadgen.Burst{
			Requests: []loadgen.Request{{URL: "tcp://" + hostPort(s.Spec.ClusterIP, 9000), Protocol: loadgen.TCP, Body: []byte("ping")}}, Count: 1, Policy: loadgen.Fresh,
		})
		if err != nil {
			return err
		}
		if !speaksTCP(xs[0]) {
			return &Mismatch{Want: "the same number leads to the backends' TCP port", Got: describe(xs[0]), Exchanges: xs}
		}
		xs, err = e.Burst(ctx, e.Outside(), udp(node.Address, int(s.Spec.Ports[1].NodePort), 1))
		if err != nil {
			return err
		}
		if _, err := answer(xs[0]); err != nil || xs[0].Err != "" {
			return &Mismatch{Want: "a datagram to the port of node " + node.Name + " is answered", Got: describe(xs[0]), Exchanges: xs}
		}
	}
	return nil
}

func checkNamedPort(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if len(pods) != namedPods {
		return fmt.Errorf("%d pods are ready, want %d", len(pods), namedPods)
	}
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{{URL: clusterURL(s)}}, Count: namedAnswers(), Policy: loadgen.Fresh, Connections: 4})
	if err != nil {
		return err
	}
	return reached("the cluster address", xs, pod, podNames(pods))
}

func checkNoEndpoints(ctx context.Context, e *Env) error {
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	refused := func(what string, from loadgen.Runner, host string, port int) error {
		xs, err := e.Burst(ctx, from, loadgen.Burst{
			Requests: []loadgen.Request{{URL: "http://" + hostPort(host, port) + "/"}}, Count: 1, Policy: loadgen.Fresh, Timeout: refusal,
		})
		if err != nil {
			return err
		}
		return all(what, xs, loadgen.KindDialRefused)
	}
	for _, node := range e.Target.Nodes {
		from, err := e.Inside(ctx, node.Name)
		if err != nil {
			return err
		}
		if err := refused("from node "+node.Name, from, s.Spec.ClusterIP, 80); err != nil {
			return err
		}
		if err := refused("at node "+node.Name, e.Outside(), node.Address, int(s.Spec.Ports[0].NodePort)); err != nil {
			return err
		}
	}
	return nil
}

// poolAddress gives the manifest the address of the pool's pod of version v2.
func poolAddress(e *Env) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	pods, err := e.Pods(ctx, "app=echo,version=v2")
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		return fmt.Errorf("%d pods are ready, want 1", len(pods))
	}
	e.Vars["ADDRESS"] = pods[0].Status.PodIP
	return nil
}

func checkManualEndpoints(ctx context.Context, e *Env) error {
	pods, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{FieldSelector: "status.podIP=" + e.Vars["ADDRESS"]})
	if err != nil {
		return fmt.Errorf("find the pod: %w", err)
	}
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	for _, node := range e.Target.Nodes {
		from, err := e.Inside(ctx, node.Name)
		if err != nil {
			return err
		}
		xs, err := e.tries(ctx, from, loadgen.Request{URL: clusterURL(s)})
		if err != nil {
			return err
		}
		if err := reached("from node "+node.Name, xs, pod, podNames(pods.Items)); err != nil {
			return err
		}
	}
	return nil
}

func checkTerminating(ctx context.Context, e *Env) error {
	first, second := e.Name()+"-first", e.Name()+"-second"
	pods := e.Kube.CoreV1().Pods(e.Namespace())
	e.Undo(func(ctx context.Context) error { return e.startAgain(ctx, first) })
	if err := pods.Delete(ctx, first, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("end the pod: %w", err)
	}
	if err := e.Until(ctx, "the pod is an endpoint that is ending", func(ctx context.Context) (bool, error) {
		slices, err := e.Kube.DiscoveryV1().EndpointSlices(e.Namespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		return true, ending(slices.Items, first)
	}); err != nil {
		return err
	}
	if err := e.Live(ctx); err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	for _, s := range []struct {
		suffix, what, pod string
		count             int
	}{{"-alone", "the ending pod's own Service", first, 3}, {"-both", "the Service of both", second, namedAnswers()}} {
		live, err := e.serviceOf(ctx, s.suffix)
		if err != nil {
			return err
		}
		xs, err := e.Burst(ctx, from, loadgen.Burst{
			Requests: []loadgen.Request{{URL: clusterURL(live)}}, Count: s.count, Connections: 3, Policy: loadgen.Fresh, Timeout: 3 * knock,
		})
		if err != nil {
			return err
		}
		if err := reached(s.what, xs, pod, []string{s.pod}); err != nil {
			return err
		}
	}
	return nil
}

// ending says whether the pod is ending, and serves, in all slices that have it.
func ending(slices []discoveryv1.EndpointSlice, pod string) error {
	for _, s := range slices {
		for _, ep := range s.Endpoints {
			if c := ep.Conditions; ep.TargetRef != nil && ep.TargetRef.Name == pod && (c.Terminating == nil || !*c.Terminating || c.Serving == nil || !*c.Serving) {
				return fmt.Errorf("slice %s has pod %s with %+v", s.Name, pod, c)
			}
		}
	}
	return nil
}

// startAgain makes a pod of the fixture anew, without waiting for the old one to end by itself.
func (e *Env) startAgain(ctx context.Context, name string) error {
	old, err := find(e.wanted, edit{kind: "Pod", name: name})
	if err != nil {
		return err
	}
	at := int64(0)
	if err := e.Kube.CoreV1().Pods(e.Namespace()).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &at}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("end the pod at once: %w", err)
	}
	if err := e.fx.Delete(ctx, old); err != nil {
		return err
	}
	made, err := e.fx.Apply(ctx, old)
	if err != nil {
		return err
	}
	return e.fx.WaitReady(ctx, made...)
}
