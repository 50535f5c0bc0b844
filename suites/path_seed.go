// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// The names are the seed's own: the text says them, so the fixture cannot choose others.
const (
	seedHost     = "example.com"
	seedSelector = "app=my-app"
	seedService  = "my-service"
	seedScaler   = "my-app-hpa"
	seedPods     = 3
	seedNodePort = 30007
	// seedCycle is so long that random picks pass as a cycle with a probability far below 1e-6.
	seedCycle = 30
	// seedRate is the load, per second, under which the Service changes its type.
	seedRate = 50
	// seedPatience is how long nodes and a load balancer may take to follow a change of type.
	seedPatience = 30 * time.Second
)

func seedAnswers() int { return stats.CoverPlan(seedPods, 1e-7) }

func seedCase() Case {
	return Case{
		Name: "Path/Seed",
		Doc: "The manifests that this project began with work as they are written: the path /api of example.com reaches the three pods in turn, the Service " +
			"serves as each of its three types, and the autoscaler reads its metric.",
		Fixture:  "path/seed.yaml",
		Needs:    []Capability{LoadBalancer, NodeAccess, Metrics},
		Workload: Own,
		Holds:    []string{seedNodePortName, "host example.com"},
		Direct:   true,
		Timeout:  4 * time.Minute,
		Covers: []string{
			"Gateway.spec.servers[].port.protocol=HTTP", "VirtualService.spec.http[].match[].uri.prefix", "VirtualService.spec.http[].route[].destination.port.number",
			"DestinationRule.spec.trafficPolicy.loadBalancer.simple=ROUND_ROBIN", "Service.spec.type=ClusterIP", "Service.spec.type=NodePort",
			"Service.spec.type=LoadBalancer", "Service.spec.ports[].nodePort", "Deployment.spec.replicas", "HorizontalPodAutoscaler.spec.metrics[].type=Resource",
		},
		Judged: fmt.Sprintf("Cycle over %d requests on one connection, exactly (chance passes it with %.1g). Each type of the Service: %d fresh connections, per node "+
			"for the node port, must reach all %d pods; chance misses one with at most 1e-6. A load of %d/s through the gateway while the types change loses exactly "+
			"nothing. The API server refuses autoscaling/v2beta2 and the same object as v2 gets a CPU figure and ScalingActive=True.",
			seedCycle, stats.CycleChance(seedCycle, seedPods), seedAnswers(), seedPods, seedRate),
		Samples: []Sample{covers("pods reached by each type of the Service (n for each address; alpha for up to ten)", seedPods, seedAnswers(), 1e-6)},
		Check:   checkSeed,
		Controls: []Control{
			{Break: "VirtualService spec.http[0].match[0].uri.prefix=/elsewhere", Fails: "404"},
			{Break: "DestinationRule spec.trafficPolicy.loadBalancer.simple=RANDOM", Fails: "not a cycle"},
			{Break: "Service spec.selector.app=nobody", Fails: "503"},
			{Break: "HorizontalPodAutoscaler spec.scaleTargetRef.name=nobody", Fails: "FailedGetScale"},
		},
	}
}

// seedURL is a GET through the gateway to the seed's host.
func (e *Env) seedURL(path string) loadgen.Request {
	return loadgen.Request{URL: "http://" + seedHost + path, Method: "GET", Host: seedHost, Address: e.gatewayAddress("http")}
}

func checkSeed(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, seedSelector)
	if err != nil {
		return err
	}
	if len(pods) != seedPods {
		return mismatch(fmt.Sprintf("%d ready pods", seedPods), "%d", len(pods))
	}
	// The seed's pods have no readiness probe: they count as ready as soon as they run.
	if err := e.Until(ctx, "the pods listen", func(ctx context.Context) (bool, error) {
		for _, p := range pods {
			if _, err := e.Control(ctx, "GET", p.Name, "/readyz", nil); err != nil {
				return false, err
			}
		}
		return true, nil
	}); err != nil {
		return err
	}
	for _, step := range []func(context.Context, *Env, []corev1.Pod) error{seedRoutes, seedTypes, seedScales} {
		if err := step(ctx, e, pods); err != nil {
			return err
		}
	}
	return nil
}

// seedRoutes judges sections 1 to 3 of the seed: host, prefix and round robin.
func seedRoutes(ctx context.Context, e *Env, pods []corev1.Pod) error {
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.seedURL("/api"), e.seedURL("/api/items?x=1")}, Count: seedCycle})
	if err != nil {
		return err
	}
	if err := reached("GET /api of "+seedHost, xs, pod, podNames(pods)); err != nil {
		return err
	}
	var picks []string
	for _, x := range xs {
		picks = append(picks, pod(x))
	}
	if err := stats.Cycle(picks, seedPods, 1); errors.Is(err, stats.ErrTooShort) {
		return err
	} else if err != nil {
		return mismatch(fmt.Sprintf("the %d pods in turn", seedPods), "%v", err)
	}
	outside := []loadgen.Request{e.seedURL("/"), e.seedURL("/v1/api"), e.seedURL("/ap")}
	xs, err = e.Gateway(ctx, loadgen.Burst{Requests: outside, Count: len(outside)})
	if err != nil {
		return err
	}
	return all("GET outside of /api", xs, "404")
}

// seedTypes applies the seed's three Services over one another while a load goes through the gateway, and reaches the pods
// in the way that each type adds.
func seedTypes(ctx context.Context, e *Env, pods []corev1.Pod) error {
	e.Undo(func(ctx context.Context) error { return seedApply(ctx, e, "cases/path/seed-clusterip.yaml") })
	load := e.startLoad(ctx, "while the Service changes its type", seedRate, e.seedURL("/api"))
	defer func() { _, _ = load.stop() }()
	for _, change := range []struct {
		manifest string
		judge    func(context.Context, *Env, *corev1.Service, []string) error
	}{
		{"cases/path/seed-clusterip.yaml", seedClusterIP},
		{"cases/path/seed-nodeport.yaml", seedNodes},
		{"cases/path/seed-loadbalancer.yaml", seedBalancer},
	} {
		if err := seedApply(ctx, e, change.manifest); err != nil {
			return err
		}
		live, err := e.Kube.CoreV1().Services(e.Namespace()).Get(ctx, seedService, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read the Service: %w", err)
		}
		if err := change.judge(ctx, e, live, podNames(pods)); err != nil {
			return err
		}
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	return lostNone("while the Service changes its type", result)
}

// seedApply applies a manifest of its own file and waits for what it promises.
func seedApply(ctx context.Context, e *Env, manifest string) error {
	objs, err := fixtures.Load(fixtures.FS, manifest, e.Vars)
	if err != nil {
		return err
	}
	if _, err := e.fx.Apply(ctx, objs...); err != nil {
		return err
	}
	return e.fx.WaitReady(ctx, objs...)
}

func seedClusterIP(ctx context.Context, e *Env, live *corev1.Service, names []string) error {
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	return e.seedReach(ctx, from, "ClusterIP", hostPort(live.Spec.ClusterIP, 80), names)
}

func seedNodes(ctx context.Context, e *Env, _ *corev1.Service, names []string) error {
	for _, n := range e.Target.Nodes {
		if err := e.seedReach(ctx, e.Outside(), "NodePort on "+n.Name, hostPort(n.Address, seedNodePort), names); err != nil {
			return err
		}
	}
	return nil
}

func seedBalancer(ctx context.Context, e *Env, live *corev1.Service, names []string) error {
	if len(live.Status.LoadBalancer.Ingress) == 0 {
		return mismatch("an address for the LoadBalancer", "none")
	}
	address := live.Status.LoadBalancer.Ingress[0]
	host := address.IP
	if host == "" {
		host = address.Hostname
	}
	return e.seedReach(ctx, e.Outside(), "LoadBalancer", hostPort(host, 80), names)
}

// seedReach judges that fresh connections to an address reach every pod, once the way is there.
func (e *Env) seedReach(ctx context.Context, from loadgen.Runner, what, address string, names []string) error {
	b := loadgen.Burst{
		Requests: []loadgen.Request{{URL: "http://" + address + "/", Method: "GET"}}, Policy: loadgen.Fresh, Timeout: 2 * time.Second,
	}
	// Nodes and balancers follow a change of type in their own time.
	b.Count = 1
	if err := e.within(ctx, seedPatience, what+" answers at "+address, func(ctx context.Context) (bool, error) {
		xs, err := e.Burst(ctx, from, b)
		if err != nil {
			return false, err
		}
		return xs[0].Status != 0, errors.New(describe(xs[0]))
	}); err != nil {
		return err
	}
	b.Count = seedAnswers()
	xs, err := e.Burst(ctx, from, b)
	if err != nil {
		return err
	}
	return reached(what, xs, pod, names)
}

// seedScales judges section 6: the version that the seed writes is refused, and the one that replaced it works.
func seedScales(ctx context.Context, e *Env, _ []corev1.Pod) error {
	i := slices.IndexFunc(e.Objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "HorizontalPodAutoscaler" })
	if i < 0 {
		return errors.New("the fixture has no autoscaler")
	}
	old := e.Objects[i].DeepCopy()
	old.Object = map[string]any{
		"apiVersion": "autoscaling/v2beta2", "kind": old.GetKind(), "spec": old.Object["spec"],
		"metadata": map[string]any{"name": seedScaler + "-old", "namespace": e.Namespace()},
	}
	body, err := old.MarshalJSON()
	if err != nil {
		return fmt.Errorf("write the old autoscaler: %w", err)
	}
	err = e.Kube.CoreV1().RESTClient().Post().AbsPath("/apis/autoscaling/v2beta2/namespaces", e.Namespace(), "horizontalpodautoscalers").
		SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
	switch {
	case err == nil:
		return mismatch("autoscaling/v2beta2 to be refused", "it was accepted")
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("create an autoscaler of autoscaling/v2beta2: %w", err)
	}
	e.Note("autoscaling/v2beta2 is refused: %v", err)
	return e.within(ctx, hpaPatience, "the autoscaler reads its metric", func(ctx context.Context) (bool, error) {
		live, err := e.Kube.AutoscalingV2().HorizontalPodAutoscalers(e.Namespace()).Get(ctx, seedScaler, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		active := false
		for _, c := range live.Status.Conditions {
			// Without its Deployment it cannot come to anything; other failures mend when metrics arrive.
			if c.Type == autoscalingv2.AbleToScale && c.Reason == "FailedGetScale" {
				return false, mismatch("the autoscaler reads its metric", "%s: %s", c.Reason, c.Message)
			}
			active = active || c.Type == autoscalingv2.ScalingActive && c.Status == corev1.ConditionTrue
		}
		_, measured := utilization(live)
		return active && measured, errors.New(said(live))
	})
}
