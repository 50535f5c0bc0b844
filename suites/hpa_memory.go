// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/loadgen"
)

// What the fixtures promise: an amount of memory for each pod, which is also what a container requests.
const (
	memoryTarget = 40 << 20
	// memoryHeld is what a pod is made to hold. With what it uses anyhow that is for two pods or three.
	memoryHeld = 64 << 20
	// memoryPatience covers two scrapes of metrics-server, and what it takes to start one.
	memoryPatience = 90 * time.Second
)

// hpaMemory are autoscalers on what the kubelets measure.
func hpaMemory() []Case {
	const judged = "exact: once the metrics API shows that the pod holds 64 Mi, the decision made while it is the only one is ceil(metric / target), with the metric that the decision itself shows"
	memory := func(name, fixture, doc string, covers []string, controls ...Control) Case {
		c := decisionCase(name, fixture, doc, checkMemory, covers, controls...)
		c.Needs, c.Judged = []Capability{Metrics}, judged
		return c
	}
	return []Case{
		memory("Memory", "memory", "Pods are added by the memory that they use, as an amount for each or as the part of what they request.",
			[]string{
				"metrics[].type=Resource", "metrics[].resource.name=memory", "metrics[].resource.target.averageValue",
				"metrics[].resource.target.averageUtilization", "metrics[].resource.target.type",
			},
			Control{Break: "HorizontalPodAutoscaler/-amount spec.metrics[0].resource.target.averageValue=1Gi", Fails: "the amount: 1 desired"},
			Control{Break: "HorizontalPodAutoscaler/-part spec.metrics[0].resource.target.averageUtilization=2000", Fails: "the part: 1 desired"},
			Control{Break: "HorizontalPodAutoscaler/-part spec.metrics[0].resource.target={type: AverageValue, averageValue: 1Gi}", Fails: "the part: 1 desired"},
		),
		memory("ContainerResource", "container-resource", "Pods are added by what one of their containers uses; what the others use does not count.",
			[]string{
				"metrics[].type=ContainerResource", "metrics[].containerResource.name", "metrics[].containerResource.container", "metrics[].containerResource.target.type",
				"metrics[].containerResource.target.averageValue", "metrics[].containerResource.target.averageUtilization",
			},
			Control{Break: "HorizontalPodAutoscaler/-amount spec.metrics[0].containerResource.container=side", Fails: "the amount: 1 desired"},
			Control{Break: "HorizontalPodAutoscaler/-part spec.metrics[0].containerResource.target.averageUtilization=2000", Fails: "the part: 1 desired"},
			Control{Break: "HorizontalPodAutoscaler/-part spec.metrics[0].containerResource.name=cpu", Fails: "the part: 1 desired"},
		),
	}
}

func checkMemory(ctx context.Context, e *Env) error {
	type scaled struct {
		*scaler
		what string
	}
	var both []scaled
	for _, kind := range []string{"amount", "part"} {
		suffix := "-" + kind
		s, err := e.scalerBy(ctx, suffix, selector(e)+suffix)
		if err != nil {
			return err
		}
		if err := e.hold(ctx, s.source); err != nil {
			return err
		}
		both = append(both, scaled{s, "the " + kind})
	}
	for _, s := range both {
		limited, cancel := context.WithTimeout(ctx, memoryPatience)
		err := e.Until(limited, "the metrics API shows that pod "+s.source+" holds its memory", func(ctx context.Context) (bool, error) {
			used, err := e.memory(ctx, s.source)
			return used >= memoryHeld, err
		})
		cancel()
		if err != nil {
			return err
		}
		for err = errUntold; errors.Is(err, errUntold); {
			err = s.alone(ctx, s.what)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// alone brings the pods down to the one that holds the memory, and judges what the autoscaler decides then. A pod that is on
// its way out, or was not measured yet, would count.
func (s *scaler) alone(ctx context.Context, what string) error {
	release, err := s.place(ctx, 1)
	if err != nil {
		return err
	}
	if err := s.e.within(ctx, decisionLimit, what+": one pod that is not on its way out", func(ctx context.Context) (bool, error) {
		pods, err := s.e.Kube.CoreV1().Pods(s.e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: "app=" + s.target})
		if err != nil {
			return false, err
		}
		left := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
		return len(left) == 1, fmt.Errorf("%d pods", len(left))
	}); err != nil {
		return err
	}
	want := what + ": as many pods as 64 Mi and more need"
	if err := s.decidesOn(ctx, release, want, func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return h.Status.CurrentReplicas == 1 && len(readings(h)) > 0 && (h.Status.DesiredReplicas > 1 || s.since(h)) || h.Status.CurrentReplicas > 1 && s.since(h)
	}); err != nil {
		return err
	}
	if s.last.Status.CurrentReplicas != 1 {
		return errUntold
	}
	target := resource.NewQuantity(memoryTarget, resource.BinarySI)
	needed := int32(math.Ceil(timesTarget(s.last)))
	if got := s.last.Status.DesiredReplicas; got != needed || got < 2 {
		return mismatch(fmt.Sprintf("%s: ceil(metric / %s) pods, at least 2", what, target), "%s: %d desired (%s)", what, got, said(s.last))
	}
	return nil
}

// timesTarget is how many times its target a decision's metric was.
func timesTarget(h *autoscalingv2.HorizontalPodAutoscaler) float64 {
	for _, m := range h.Status.CurrentMetrics {
		v := current(m)
		switch {
		case v.AverageUtilization != nil:
			return float64(*v.AverageUtilization) / 100
		case v.AverageValue != nil:
			return float64(v.AverageValue.MilliValue()) / (1000 * memoryTarget)
		}
	}
	return 0
}

// hold has a pod hold memory for longer than the case takes, once.
func (e *Env) hold(ctx context.Context, name string) error {
	p, err := e.Kube.CoreV1().Pods(e.Namespace()).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read pod %s: %w", name, err)
	}
	const held = "harness.example/holds"
	if p.Annotations[held] != "" {
		return nil
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	request := e.Commanded(loadgen.Request{URL: "http://" + hostPort(p.Status.PodIP, 8080) + "/"}, fmt.Sprintf("hold=%dMi", memoryHeld>>20), "for=10m")
	xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{request}, Count: 1, Policy: loadgen.Fresh})
	if err != nil {
		return err
	}
	if outcomeOf(xs[0]) != "200" {
		return fmt.Errorf("have pod %s hold memory: %s", name, outcomeOf(xs[0]))
	}
	return e.annotate(ctx, name, held, "64Mi")
}

// memory is what the metrics API says that a pod uses, in bytes.
func (e *Env) memory(ctx context.Context, name string) (int64, error) {
	body, err := e.Kube.CoreV1().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/namespaces", e.Namespace(), "pods", name).DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	var m struct {
		Containers []struct {
			Usage map[corev1.ResourceName]resource.Quantity `json:"usage"`
		} `json:"containers"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	if len(m.Containers) == 0 {
		return 0, errors.New("the pod is not measured yet")
	}
	total := int64(0)
	for _, c := range m.Containers {
		used := c.Usage[corev1.ResourceMemory]
		total += used.Value()
	}
	return total, nil
}
