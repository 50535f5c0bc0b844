// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/loadgen"
)

// The shape of the affinity's proof: each client asks both ports of a Service a few times, and in between the short affinity
// has run out.
const (
	affinityRounds = 3
	affinityPorts  = 2
	affinityPause  = 1500 * time.Millisecond
)

// servicePolicies are which of its pods a Service gives to whom.
func servicePolicies() []Case {
	// With three nodes: each client's every pause is one draw per port.
	moves := 3 * affinityPorts * (affinityRounds - 1)
	return []Case{
		{
			Name:    "Service/Hairpin",
			Doc:     "A pod reaches itself through its own Service, at the cluster address and at a node port.",
			Fixture: "service/hairpin.yaml",
			Direct:  true,
			Judged:  "exact: the Service has one pod, it asks, and each of three tries at each address is answered by itself",
			Covers:  []string{"Service.spec.selector{}", "Service.spec.ports[].port", "Service.spec.ports[].nodePort"},
			Check:   checkHairpin,
			Controls: []Control{
				{Break: "Service spec.selector.version=v3", Fails: "not expected: \"echo-v3"},
				{Break: "Service spec.ports[0].targetPort=8099", Fails: "dial-refused ×"},
			},
		},
		{
			Name:    "Service/SessionAffinity",
			Doc:     "With affinity by client address every connection of a client goes to one pod, until the client has been silent for the timeout.",
			Fixture: "service/session-affinity.yaml",
			Needs:   []Capability{ManyNodes},
			Direct:  true,
			Judged: fmt.Sprintf("exact for the long timeout: a client's answers all come from one pod; for the short one (1 s, pauses of %s) at least one of %d new draws "+
				"from %d pods moves: with three nodes alpha is %.1g, and an affinity that never ends moves none", affinityPause, moves, servicePods, math.Pow(servicePods, -float64(moves))),
			Samples: []Sample{{Of: "draws of a pod after the short timeout", N: moves, Alpha: maxAlpha, Power: 1, Shift: 1.0 / servicePods}},
			Covers:  []string{"Service.spec.sessionAffinity", "Service.spec.sessionAffinityConfig.clientIP.timeoutSeconds"},
			Check:   checkSessionAffinity,
			Controls: []Control{
				{Break: "Service/-long spec.sessionAffinity=None; Service/-long spec.sessionAffinityConfig=", Fails: "moved"},
				{Break: "Service/-long spec.sessionAffinityConfig.clientIP.timeoutSeconds=1", Fails: "moved"},
				{Break: "Service/-short spec.sessionAffinityConfig.clientIP.timeoutSeconds=600", Fails: "no client moves"},
			},
		},
		{
			Name:    "Service/InternalTrafficPolicy",
			Doc:     "With the internal policy Local a client reaches the pods of its own node only, and nobody where there is none.",
			Fixture: "service/internal-traffic-policy.yaml",
			Needs:   []Capability{ManyNodes},
			Direct:  true,
			Samples: serviceSamples("a pod on each node"),
			Judged:  fmt.Sprintf("exact: none of %d answers is from another node's pod, and three tries where the node has none are not answered; every pod of the node answers (n and alpha as sampled)", serviceAnswers()),
			Covers:  []string{"Service.spec.internalTrafficPolicy"},
			Check:   checkInternalTrafficPolicy,
			Controls: []Control{
				{Break: "Service/-one spec.internalTrafficPolicy=Cluster", Fails: "200 ×3"},
				{Break: "Service/-all spec.internalTrafficPolicy=Cluster", Fails: "-all from node "},
			},
		},
		{
			Name:    "Service/TrafficDistribution",
			Doc:     "With the distribution PreferSameNode a client reaches the pods of its own node only, and all pods where its node has none.",
			Fixture: "service/traffic-distribution.yaml",
			Needs:   []Capability{ManyNodes},
			Direct:  true,
			Samples: serviceSamples("a pod on each node"),
			Judged:  fmt.Sprintf("exact: none of %d answers is from another node's pod unless there is none on the client's; every pod that may answer does (n and alpha as sampled)", serviceAnswers()),
			Covers:  []string{"Service.spec.trafficDistribution=PreferSameNode", "EndpointSlice.endpoints[].hints.forNodes[].name"},
			Check:   checkTrafficDistribution,
			Controls: []Control{
				{Break: "Service/-many spec.trafficDistribution=", Fails: "not expected: \"echo-v"},
				{Break: "Service/-one spec.selector.version=v3", Fails: "not expected: \"echo-v3"},
			},
		},
	}
}

// serviceOf reads the Service of the case whose name has the suffix.
func (e *Env) serviceOf(ctx context.Context, suffix string) (*corev1.Service, error) {
	s, err := e.Kube.CoreV1().Services(e.Namespace()).Get(ctx, e.Name()+suffix, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the Service %s: %w", suffix, err)
	}
	return s, nil
}

// tries makes three fresh connections to the URL, with time for a packet that was lost.
func (e *Env) tries(ctx context.Context, from loadgen.Runner, r loadgen.Request) ([]loadgen.Exchange, error) {
	return e.threeTimes(ctx, from, r, 3*knock)
}

func (e *Env) threeTimes(ctx context.Context, from loadgen.Runner, r loadgen.Request, limit time.Duration) ([]loadgen.Exchange, error) {
	return e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{r}, Count: 3, Connections: 3, Policy: loadgen.Fresh, Timeout: limit})
}

// ends judges that each of three tries has one of the outcomes.
func ends(ctx context.Context, e *Env, what string, from loadgen.Runner, r loadgen.Request, outcomes ...string) error {
	limit := 3 * knock
	if slices.Contains(outcomes, loadgen.KindDialTimeout) {
		limit = knock // it may well be silent
	}
	xs, err := e.threeTimes(ctx, from, r, limit)
	if err != nil {
		return err
	}
	return all(what, xs, outcomes...)
}

// unanswered judges that nobody opens: a proxy may refuse or drop.
func unanswered(ctx context.Context, e *Env, what string, from loadgen.Runner, url string) error {
	return ends(ctx, e, what, from, loadgen.Request{URL: url}, loadgen.KindDialTimeout, loadgen.KindDialRefused)
}

// answeredOnly judges that fresh connections to the URL are answered by each of the pods and by nobody else. They are as
// many as show every pod of the pool: a stray one would be seen.
func answeredOnly(ctx context.Context, e *Env, what string, from loadgen.Runner, url string, pods []corev1.Pod) error {
	if err := ends(ctx, e, what, from, loadgen.Request{URL: url}, "200"); err != nil {
		return err
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{{URL: url}}, Count: serviceAnswers(), Policy: loadgen.Fresh, Connections: 4})
	if err != nil {
		return err
	}
	return reached(what, xs, pod, podNames(pods))
}

func clusterURL(s *corev1.Service) string {
	return "http://" + hostPort(s.Spec.ClusterIP, int(s.Spec.Ports[0].Port)) + "/"
}

// podsOn are those of the pods that stand on the node.
func podsOn(node string, pods []corev1.Pod) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool { return p.Spec.NodeName != node })
}

// backend is traffic from inside a pod that also answers.
func (e *Env) backend(p corev1.Pod) loadgen.Runner {
	return loadgen.Pod{Config: e.Config, Namespace: p.Namespace, Name: p.Name, Container: "echo"}
}

func checkHairpin(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo,version=v2")
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		return fmt.Errorf("%d pods are ready, want 1", len(pods))
	}
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	for what, url := range map[string]string{
		"at the cluster address": clusterURL(s),
		"at its node's port":     "http://" + hostPort(pods[0].Status.HostIP, int(s.Spec.Ports[0].NodePort)) + "/",
	} {
		xs, err := e.tries(ctx, e.backend(pods[0]), loadgen.Request{URL: url})
		if err != nil {
			return err
		}
		if err := reached("the pod asks itself "+what, xs, pod, podNames(pods)); err != nil {
			return err
		}
	}
	return nil
}

// A course is the pods that answered one client at one port, in the order of its connections.
type course struct {
	client string
	pods   []string
}

func (c course) moves() bool { return len(slices.Compact(slices.Clone(c.pods))) > 1 }

func checkSessionAffinity(ctx context.Context, e *Env) error {
	long, err := e.serviceOf(ctx, "-long")
	if err != nil {
		return err
	}
	short, err := e.serviceOf(ctx, "-short")
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var stay, move []course
	group, groupCtx := errgroup.WithContext(ctx)
	for _, node := range e.Target.Nodes {
		group.Go(func() error {
			a, b, err := e.courses(groupCtx, node.Name, long, short)
			mu.Lock()
			defer mu.Unlock()
			stay, move = append(stay, a...), append(move, b...)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, c := range stay {
		if c.moves() {
			return mismatch("every connection of a client goes to one pod", "%s moved: %v", c.client, c.pods)
		}
	}
	if !slices.ContainsFunc(move, course.moves) {
		return mismatch("clients are given another pod once the timeout has passed", "no client moves, in %d courses: %v", len(move), move)
	}
	return nil
}

// courses has a client ask every port of both Services again and again, with a pause longer than the short timeout.
func (e *Env) courses(ctx context.Context, node string, long, short *corev1.Service) (stay, move []course, err error) {
	from, err := e.Inside(ctx, node)
	if err != nil {
		return nil, nil, err
	}
	b := loadgen.Burst{Policy: loadgen.Fresh, Interval: affinityPause}
	for _, s := range []*corev1.Service{long, short} {
		for _, p := range s.Spec.Ports {
			b.Requests = append(b.Requests, loadgen.Request{URL: "http://" + hostPort(s.Spec.ClusterIP, int(p.Port)) + "/"})
		}
	}
	// As many connections as requests: each of them stays with one request.
	b.Connections, b.Count = len(b.Requests), affinityRounds*len(b.Requests)
	xs, err := e.Burst(ctx, from, b)
	if err != nil {
		return nil, nil, err
	}
	if err := all("with affinity, from node "+node, xs, "200"); err != nil {
		return nil, nil, err
	}
	for i, r := range b.Requests {
		c := course{client: "the client on " + node + " at " + r.URL}
		for k := i; k < len(xs); k += len(b.Requests) {
			c.pods = append(c.pods, pod(xs[k]))
		}
		if i < len(long.Spec.Ports) {
			stay = append(stay, c)
		} else {
			move = append(move, c)
		}
	}
	return stay, move, nil
}

func checkInternalTrafficPolicy(ctx context.Context, e *Env) error {
	for suffix, labels := range map[string]string{"-one": "app=echo,version=v2", "-all": "app=echo"} {
		s, err := e.serviceOf(ctx, suffix)
		if err != nil {
			return err
		}
		pods, err := e.Pods(ctx, labels)
		if err != nil {
			return err
		}
		for _, node := range e.Target.Nodes {
			from, err := e.Inside(ctx, node.Name)
			if err != nil {
				return err
			}
			what := fmt.Sprintf("%s from node %s", suffix, node.Name)
			switch here := podsOn(node.Name, pods); {
			case len(here) == 0:
				err = unanswered(ctx, e, what+", which has no pod", from, clusterURL(s))
			case len(pods) == 1:
				err = ends(ctx, e, what, from, loadgen.Request{URL: clusterURL(s)}, "200")
			default:
				err = answeredOnly(ctx, e, what, from, clusterURL(s), here)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func checkTrafficDistribution(ctx context.Context, e *Env) error {
	for _, suffix := range []string{"-one", "-many"} {
		s, err := e.serviceOf(ctx, suffix)
		if err != nil {
			return err
		}
		if err := e.hinted(ctx, s); err != nil {
			return err
		}
	}
	// The prover compares endpoints, not their hints: what follows is behind these, too.
	if err := e.Live(ctx); err != nil {
		return err
	}
	for suffix, labels := range map[string]string{"-one": "app=echo,version=v2", "-many": "app=echo"} {
		s, err := e.serviceOf(ctx, suffix)
		if err != nil {
			return err
		}
		pods, err := e.Pods(ctx, labels)
		if err != nil {
			return err
		}
		for _, node := range e.Target.Nodes {
			from, err := e.Inside(ctx, node.Name)
			if err != nil {
				return err
			}
			may := podsOn(node.Name, pods)
			if len(may) == 0 {
				may = pods
			}
			if err := answeredOnly(ctx, e, fmt.Sprintf("%s from node %s", suffix, node.Name), from, clusterURL(s), may); err != nil {
				return err
			}
		}
	}
	return nil
}

// hinted waits until the Service's endpoints carry hints exactly when it asks for a distribution.
func (e *Env) hinted(ctx context.Context, s *corev1.Service) error {
	want := s.Spec.TrafficDistribution != nil
	return e.Until(ctx, "the endpoints' hints are as the Service asks", func(ctx context.Context) (bool, error) {
		list, err := e.Kube.DiscoveryV1().EndpointSlices(s.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + s.Name})
		if err != nil {
			return false, err
		}
		for _, slice := range list.Items {
			for _, ep := range slice.Endpoints {
				if (ep.Hints != nil && len(ep.Hints.ForNodes) > 0) != want {
					return false, fmt.Errorf("endpoint %v has hints %v", ep.Addresses, ep.Hints)
				}
			}
		}
		return true, nil
	})
}
