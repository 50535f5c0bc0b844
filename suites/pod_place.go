// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
)

// podPlaces are the cases about where pods are put, and whether they may be sent away.
func podPlaces() []Case {
	return []Case{
		{
			Name:     "Pod/TopologySpread",
			Doc:      "A pod that would be one too many on its node waits for a place, if it must be spread over the nodes.",
			Fixture:  "pod/topology-spread.yaml",
			Needs:    []Capability{ManyNodes},
			Workload: Own,
			Prepare:  nameNode,
			Covers: []string{
				"Pod.spec.topologySpreadConstraints[].maxSkew", "Pod.spec.topologySpreadConstraints[].topologyKey",
				"Pod.spec.topologySpreadConstraints[].whenUnsatisfiable=DoNotSchedule", "Pod.spec.topologySpreadConstraints[].nodeAffinityPolicy",
				"Pod.spec.nodeSelector{}", "Pod.status.conditions[].reason",
			},
			Judged: "exact, by the scheduler's rule: of two pods that may be on one node only the first is, and answers alone; with the second that node would have two more than the others, so the " +
				"scheduler says that it is unschedulable",
			Check: checkTopologySpread,
			Controls: []Control{
				respread("maxSkew=2"), respread("whenUnsatisfiable=ScheduleAnyway"), respread("nodeAffinityPolicy=Honor"),
				{Break: "the pods are made anew for another node", Fails: "got from", Do: otherNode},
			},
		},
		{
			Name:     "Pod/Affinity",
			Doc:      "An affinity and an anti-affinity put a pod on the node of another one, and not there.",
			Fixture:  "pod/affinity.yaml",
			Needs:    []Capability{ManyNodes},
			Workload: Own,
			Prepare:  nameNode,
			Covers: []string{
				"Pod.spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].topologyKey",
				"Pod.spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector.matchLabels{}",
				"Pod.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].topologyKey",
				"Pod.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector.matchLabels{}",
			},
			Judged:  "exact: by the node that each answer names",
			Samples: []Sample{covers("pods reached", 3, stats.CoverPlan(3, answersAlpha), answersAlpha)},
			Check:   checkAffinity,
			Controls: []Control{
				{Break: "the near pod must not be with the other", Fails: "near is on", Do: placedAs("near", "far")},
				{Break: "the far pod must be with the other", Fails: "far is on", Do: placedAs("far", "near")},
			},
		},
		{
			Name:     "Pod/Eviction",
			Doc:      "An eviction that a PodDisruptionBudget allows replaces a pod without a lost request; one that would break it is refused.",
			Fixture:  "pod/eviction.yaml",
			Workload: Own,
			Covers:   []string{"Pod.status.conditions[].type", "Pod.status.conditions[].reason", "Deployment.status.availableReplicas"},
			Judged: fmt.Sprintf("exact: of two pods, one of which must be there, the first is evicted, with the condition DisruptionTarget, and the second refused with 429; of an open-loop load of "+
				"%d/s no request is lost; once the first is replaced the second could be evicted", endRate),
			Check: checkEviction,
			Controls: []Control{
				{Break: "PodDisruptionBudget spec.minAvailable=0", Fails: "the second eviction refused"},
				{Break: "PodDisruptionBudget spec.minAvailable=2", Fails: "the first eviction allowed"},
			},
		},
	}
}

// nameNode gives the fixture the name of a node for workloads.
func nameNode(e *Env) error {
	e.Vars["NODE"] = e.Target.workers()[0].Name
	return nil
}

func podSpec(o *unstructured.Unstructured) (map[string]any, error) {
	spec, ok := o.Object["spec"].(map[string]any)
	for _, key := range []string{"template", "spec"} {
		if ok {
			spec, ok = spec[key].(map[string]any)
		}
	}
	if !ok {
		return nil, fmt.Errorf("%s %s has no pod template", o.GetKind(), o.GetName())
	}
	return spec, nil
}

// nodesOf judges that the ready pods answer, and returns the node that each pod's answer names.
func (e *Env) nodesOf(ctx context.Context, what string, want int) (map[string]string, error) {
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return nil, err
	}
	if len(pods) != want {
		return nil, mismatch(fmt.Sprintf("%d pods that are ready", want), "%d", len(pods))
	}
	xs, err := e.servedBy(ctx, what, podNames(pods))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, x := range xs {
		a, err := answer(x)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == a.Pod })
		if a.Node != pods[i].Spec.NodeName {
			return nil, mismatch(a.Pod+" on node "+pods[i].Spec.NodeName, "on %s", a.Node)
		}
		out[a.Pod] = a.Node
	}
	return out, nil
}

func checkTopologySpread(ctx context.Context, e *Env) error {
	rs, err := e.Kube.AppsV1().ReplicaSets(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the ReplicaSet: %w", err)
	}
	var ready, waiting []string
	err = e.within(ctx, deploymentPatience, "each of two pods is ready or has no place", func(ctx context.Context) (bool, error) {
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
		if err != nil {
			return false, err
		}
		ready, waiting = nil, nil
		for _, p := range list.Items {
			switch {
			case !metav1.IsControlledBy(&p, rs):
				return false, fmt.Errorf("pod %s is still there", p.Name)
			case fixtures.PodReady(&p):
				ready = append(ready, p.Name)
			case slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable
			}):
				waiting = append(waiting, p.Name)
			}
		}
		return len(ready) > 0 && len(ready)+len(waiting) == 2, fmt.Errorf("%d are ready, %d have no place", len(ready), len(waiting))
	})
	if err != nil {
		return err
	}
	if len(ready) != 1 {
		return mismatch("one pod on the node and one without a place", "%d on the node", len(ready))
	}
	if err := e.Live(ctx); err != nil {
		return err
	}
	xs, err := e.servedBy(ctx, "the pods", ready)
	if err != nil {
		return err
	}
	a, err := answer(xs[0])
	if err != nil {
		return err
	}
	if a.Node != e.Vars["NODE"] {
		return mismatch("an answer from node "+e.Vars["NODE"], "from %s", a.Node)
	}
	return nil
}

// respread is a control that makes the pods anew with a constraint which lets both be on one node.
func respread(change string) Control {
	path, value, _ := strings.Cut(change, "=")
	return Control{Break: "the pods are made anew with " + change, Fails: "2 on the node", Do: func(ctx context.Context, e *Env) error {
		return e.remade(ctx, edit{kind: "ReplicaSet", path: "spec.template.spec.topologySpreadConstraints[0]." + path, value: value})
	}}
}

// otherNode makes the pods anew for another node.
func otherNode(ctx context.Context, e *Env) error {
	value := "{" + corev1.LabelHostname + ": " + e.Target.workers()[1].Name + "}"
	return e.remade(ctx, edit{kind: "ReplicaSet", path: "spec.template.spec.nodeSelector", value: value})
}

func checkAffinity(ctx context.Context, e *Env) error {
	nodes, err := e.nodesOf(ctx, "the pods", 3)
	if err != nil {
		return err
	}
	on := map[string]string{}
	for name, node := range nodes {
		role, _, _ := strings.Cut(strings.TrimPrefix(name, e.Name()+"-"), "-")
		on[role] = node
	}
	named := e.Vars["NODE"]
	switch {
	case on["anchor"] != named:
		return mismatch("anchor on "+named, "anchor is on %s", on["anchor"])
	case on["near"] != named:
		return mismatch("near on "+named+", with the anchor", "near is on %s", on["near"])
	case on["far"] == named:
		return mismatch("far not on "+named+", where the anchor is", "far is on %s", on["far"])
	}
	return nil
}

// placedAs gives a pod the affinities of another one and waits until it is where it now must be.
func placedAs(name, like string) func(context.Context, *Env) error {
	return func(ctx context.Context, e *Env) error {
		source, err := find(e.wanted, edit{kind: "Deployment", name: "-" + like})
		if err != nil {
			return err
		}
		target, err := find(e.wanted, edit{kind: "Deployment", name: "-" + name})
		if err != nil {
			return err
		}
		from, err := podSpec(source)
		if err != nil {
			return err
		}
		broken := target.DeepCopy()
		spec, err := podSpec(broken)
		if err != nil {
			return err
		}
		spec["affinity"] = from["affinity"]
		live, err := e.fx.Apply(ctx, broken)
		if err != nil {
			return err
		}
		return e.fx.WaitReady(ctx, live...)
	}
}

func checkEviction(ctx context.Context, e *Env) error {
	pods, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	err = e.Until(ctx, "the budget counts both pods", func(ctx context.Context) (bool, error) {
		b, err := e.Kube.PolicyV1().PodDisruptionBudgets(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
		return err == nil && b.Status.ObservedGeneration >= b.Generation && b.Status.CurrentHealthy == 2, err
	})
	if err != nil {
		return err
	}
	load := e.startLoad(ctx, "while a pod is evicted", endRate, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	if err := e.reachable(ctx, podNames(pods)); err != nil {
		return err
	}
	var said string
	if err := e.evict(ctx, pods[0].Name, false); err != nil {
		return notAllowed("the first eviction allowed", err)
	}
	switch err := e.evict(ctx, pods[1].Name, false); {
	case err == nil:
		return mismatch("the second eviction refused", "allowed")
	case !apierrors.IsTooManyRequests(err):
		return fmt.Errorf("evict pod %s: %w", pods[1].Name, err)
	}
	err = e.within(ctx, deploymentPatience, "the evicted pod is gone", func(ctx context.Context) (bool, error) {
		p, err := e.Kube.CoreV1().Pods(e.Namespace()).Get(ctx, pods[0].Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.DisruptionTarget {
				said = c.Reason
			}
		}
		return false, errors.New("it is there")
	})
	if err != nil {
		return err
	}
	if said != "EvictionByEvictionAPI" {
		return mismatch("the evicted pod's condition DisruptionTarget with the reason EvictionByEvictionAPI", "%q", said)
	}
	if _, err := e.atRest(ctx); err != nil {
		return err
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	if err := errors.Join(lostNone("while a pod is evicted", result), e.stillServing(ctx, "after the refusal", pods[1:])); err != nil {
		return err
	}
	return e.within(ctx, controllerLimit, "the second pod could be evicted", func(ctx context.Context) (bool, error) {
		err := e.evict(ctx, pods[1].Name, true)
		return err == nil, err
	})
}

// notAllowed is a Mismatch if an eviction was refused for the budget's sake, else the error.
func notAllowed(want string, err error) error {
	if apierrors.IsTooManyRequests(err) {
		return mismatch(want, "%v", err)
	}
	return fmt.Errorf("evict: %w", err)
}

// evict asks for a pod to be sent away, or only whether it could be.
func (e *Env) evict(ctx context.Context, name string, dry bool) error {
	o := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: e.Namespace()}}
	if dry {
		o.DeleteOptions = &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
	}
	return e.Kube.CoreV1().Pods(e.Namespace()).EvictV1(ctx, o)
}
