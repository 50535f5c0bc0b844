// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// machinePatience is how long pods may take to move, and a gateway to start.
const machinePatience = 60 * time.Second

// pathMachines are changes of the machines under load: they disturb what others use.
func pathMachines() []Case {
	judged := fmt.Sprintf("exact: an open-loop load of %d/s through the gateway, of which no request is lost; neither mesh nor client retries. ", deploymentRate)
	return []Case{
		{
			Name:     "Path/NodeDrainsUnderLoad",
			Doc:      "A node is cordoned and its pods are evicted, they come back elsewhere, and no request is lost.",
			Fixture:  "path/node-drains.yaml",
			Needs:    []Capability{NodeExec, ManyNodes},
			Workload: Own,
			Serial:   true,
			Judged:   judged + "In the end all pods are ready, none on the drained node, and each answers",
			Samples:  []Sample{covers("pods reached in the end", deploymentReplicas, deploymentAnswers(), 1e-6)},
			Covers:   []string{"Pod.spec.terminationGracePeriodSeconds", "Pod.spec.topologySpreadConstraints[].topologyKey"},
			Check:    checkNodeDrains,
			Controls: []Control{
				{Break: "Service spec.publishNotReadyAddresses=true", Fails: "requests lost"},
				{Break: "no other node takes pods", Fails: "the evicted pods are ready elsewhere", Do: cordonOthers},
			},
		},
		{
			Name:    "Path/GatewayRestartsUnderLoad",
			Doc:     "One of two gateway pods is told to end, drains and is replaced, and no request is lost.",
			Fixture: "path/gateway-restarts.yaml",
			Needs:   []Capability{NodeExec},
			Serial:  true,
			Timeout: 3 * time.Minute,
			Judged:  judged + "Both gateway pods carry requests before one of them goes, and its replacement does after",
			Covers:  []string{"Gateway.spec.selector{}"},
			Check:   checkGatewayRestarts,
			Controls: []Control{
				{Break: "VirtualService spec.http[0].fault={abort: {httpStatus: 418, percentage: {value: 5}}}", Fails: "requests lost"},
			},
		},
	}
}

// checkNodeDrains does what kubectl drain does, to the case's own pods.
func checkNodeDrains(ctx context.Context, e *Env) error {
	before, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if len(before) != deploymentReplicas {
		return fmt.Errorf("%d pods are ready, want %d to begin with", len(before), deploymentReplicas)
	}
	load := e.startLoad(ctx, "while a node drains", deploymentRate, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	if err := e.reachable(ctx, podNames(before)); err != nil {
		return err
	}
	drained := before[0].Spec.NodeName
	if err := e.cordon(ctx, drained); err != nil {
		return err
	}
	start := time.Now()
	for _, p := range before {
		if p.Spec.NodeName != drained {
			continue
		}
		eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace}}
		if err := e.Kube.PolicyV1().Evictions(p.Namespace).Evict(ctx, eviction); err != nil {
			return fmt.Errorf("evict pod %s: %w", p.Name, err)
		}
	}
	var after []corev1.Pod
	err = e.within(ctx, machinePatience, "the evicted pods are ready elsewhere", func(ctx context.Context) (bool, error) {
		all, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
		if err != nil {
			return false, err
		}
		after = nil
		for _, p := range all.Items {
			if p.Spec.NodeName == drained {
				return false, fmt.Errorf("pod %s is still on node %s", p.Name, drained)
			}
			if fixtures.PodReady(&p) {
				after = append(after, p)
			} else if c := condition(&p, corev1.PodScheduled); c != nil && c.Reason == corev1.PodReasonUnschedulable {
				return false, mismatch("the evicted pods are ready elsewhere", "pod %s: %s", p.Name, c.Message)
			}
		}
		return len(after) == deploymentReplicas, fmt.Errorf("%d of %d pods are ready", len(after), deploymentReplicas)
	})
	if err != nil {
		return err
	}
	e.Figure("from eviction to ready elsewhere", time.Since(start).Seconds(), "s")
	if err := e.reachable(ctx, podNames(after)); err != nil {
		return err
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	if err := lostNone("while a node drains", result); err != nil {
		return err
	}
	return e.answerFrom(ctx, "after the drain", podNames(after))
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i, c := range p.Status.Conditions {
		if c.Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// cordon keeps new pods off a node.
func (e *Env) cordon(ctx context.Context, node string) error {
	set := func(ctx context.Context, value bool) error {
		patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, value)
		if _, err := e.Kube.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: "harness"}); err != nil {
			return fmt.Errorf("cordon %s: %w", node, err)
		}
		return nil
	}
	if err := set(ctx, true); err != nil {
		return err
	}
	e.Undo(func(ctx context.Context) error { return set(ctx, false) })
	return nil
}

// cordonOthers leaves the pods of the first pod's node nowhere to go.
func cordonOthers(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return errors.New("no pod is ready")
	}
	for _, node := range e.Target.workers() {
		if node.Name == pods[0].Spec.NodeName {
			continue
		}
		if err := e.cordon(ctx, node.Name); err != nil {
			return err
		}
	}
	return nil
}

// checkGatewayRestarts ends one of two pods of the gateway.
func checkGatewayRestarts(ctx context.Context, e *Env) error {
	first, err := e.gatewayPods(ctx)
	if err != nil {
		return err
	}
	if len(first) != 1 {
		return fmt.Errorf("the gateway has %d pods, the case knows one", len(first))
	}
	if err := e.scaleGateway(ctx, first[0], 2); err != nil {
		return err
	}
	if err := e.gatewaysAre(ctx, 2); err != nil {
		return err
	}
	// Connections of ten requests each: there are always some to every gateway pod, old ones and new ones.
	load := e.startLoadOver(ctx, "while a gateway restarts", deploymentRate, e.URL("/"), loadgen.Rotate(10))
	defer func() { _, _ = load.stop() }()
	if err := e.carried(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := e.Kube.CoreV1().Pods(first[0].Namespace).Delete(ctx, first[0].Name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete gateway pod %s: %w", first[0].Name, err)
	}
	if err := e.within(ctx, machinePatience, "the gateway pod ends", func(ctx context.Context) (bool, error) { return e.gone(ctx, first[0]) }); err != nil {
		return err
	}
	if err := e.gatewaysAre(ctx, 2); err != nil {
		return err
	}
	if err := e.carried(ctx); err != nil {
		return err
	}
	e.Figure("from the pod's end to two gateways", time.Since(start).Seconds(), "s")
	result, err := load.stop()
	if err != nil {
		return err
	}
	return lostNone("while a gateway restarts", result)
}

// gatewayPods are the ready pods of the gateway.
func (e *Env) gatewayPods(ctx context.Context) ([]corev1.Pod, error) {
	return fixtures.ReadyPods(ctx, e.Kube, e.Target.Gateway.Namespace, labels.SelectorFromSet(e.Target.Gateway.Selector).String())
}

// gatewaysAre waits for so many gateway pods that serve the case's configuration.
func (e *Env) gatewaysAre(ctx context.Context, want int) error {
	if err := e.within(ctx, machinePatience, fmt.Sprintf("%d gateway pods are ready", want), func(ctx context.Context) (bool, error) {
		pods, err := e.gatewayPods(ctx)
		return err == nil && len(pods) == want, err
	}); err != nil {
		return err
	}
	return e.Live(ctx)
}

// carried waits until each of the gateway's pods has sent requests of the case on.
func (e *Env) carried(ctx context.Context) error {
	return e.within(ctx, machinePatience, "each gateway pod carries requests", func(ctx context.Context) (bool, error) {
		gateways, err := e.gatewayPods(ctx)
		if err != nil {
			return false, err
		}
		for _, p := range gateways {
			book, err := e.envoyBook(ctx, p)
			if err != nil {
				return false, err
			}
			if sum(book) == 0 {
				return false, fmt.Errorf("gateway pod %s has carried none", p.Name)
			}
		}
		return true, nil
	})
}

// scaleGateway scales the Deployment of a gateway pod, and back in the end.
func (e *Env) scaleGateway(ctx context.Context, p corev1.Pod, replicas int32) error {
	d, _, err := e.deploymentOf(ctx, &p)
	if err != nil {
		return err
	}
	before := ptr.Deref(d.Spec.Replicas, 1)
	scale := func(ctx context.Context, n int32) error {
		patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n)
		if _, err := e.Kube.AppsV1().Deployments(d.Namespace).Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "scale"); err != nil {
			return fmt.Errorf("scale %s to %d: %w", d.Name, n, err)
		}
		return nil
	}
	if err := scale(ctx, replicas); err != nil {
		return err
	}
	e.Undo(func(ctx context.Context) error {
		if err := scale(ctx, before); err != nil {
			return err
		}
		return e.Until(ctx, "the gateway has its pods as before", func(ctx context.Context) (bool, error) {
			list, err := e.Kube.CoreV1().Pods(d.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
			return err == nil && len(list.Items) == int(before), err
		})
	})
	return nil
}
