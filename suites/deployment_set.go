// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// deploymentSets are the cases about which pods are a Deployment's, and how many.
func deploymentSets() []Case {
	return []Case{
		{
			Name:     "Deployment/ReleasesRelabelledPod",
			Doc:      "A pod whose label no longer meets the selector's expression is let go: it is replaced, gets no traffic and runs on.",
			Fixture:  "deployment/releases-relabelled-pod.yaml",
			Workload: Own,
			Covers: []string{
				"Deployment.spec.selector.matchExpressions[].key", "Deployment.spec.selector.matchExpressions[].operator",
				"Deployment.spec.selector.matchExpressions[].values[]", "Deployment.spec.template.metadata.labels{}", "Service.spec.selector{}",
				"Pod.metadata.ownerReferences[].uid",
			},
			Judged:  fmt.Sprintf("exact: the same pod is there and running, without an owner; the two that answer are the one that stayed and its new neighbour, ready within %s", deploymentPatience),
			Samples: []Sample{covers("pods reached in the end", 2, stats.CoverPlan(2, answersAlpha), answersAlpha)},
			Check:   checkReleasesRelabelledPod,
			Controls: []Control{
				{Break: "Service spec.selector.serving=", Fails: "not expected"},
				{Break: "the Deployment is made anew without the expression", Fails: "still has an owner", Do: func(ctx context.Context, e *Env) error {
					return e.reselected(ctx, map[string]any{"matchLabels": map[string]any{"app": e.Name()}})
				}},
			},
		},
		{
			Name:     "Deployment/SelectorImmutable",
			Doc:      "The API refuses another selector, and a template that the selector does not match; the pod serves on.",
			Fixture:  "deployment/selector-immutable.yaml",
			Workload: Own,
			Covers:   []string{"Deployment.spec.selector.matchLabels{}", "Deployment.spec.template.metadata.labels{}"},
			Judged:   "exact: each change is refused as invalid, for the reason that it must be; the very pod from before answers alone",
			Check:    checkSelectorImmutable,
			Controls: []Control{{Break: "the Deployment is made anew with the other selector", Fails: "accepted", Do: func(ctx context.Context, e *Env) error {
				return e.reselected(ctx, map[string]any{"matchExpressions": []any{map[string]any{"key": "app", "operator": "Exists"}}})
			}}},
		},
		{
			Name:     "Deployment/ScaleToZero",
			Doc:      "Scaled to zero, nothing of a Deployment answers, through the gateway or its Service; scaled back, every pod does.",
			Fixture:  "deployment/scale-to-zero.yaml",
			Workload: Own,
			Direct:   true,
			Covers:   []string{"Deployment.spec.replicas", "Deployment.status.replicas", "Deployment.status.availableReplicas"},
			Judged:   fmt.Sprintf("exact: at zero each request is answered 503 by the gateway and refused at the cluster address; scaled back, two new pods answer, ready within %s", deploymentPatience),
			Samples:  []Sample{covers("pods reached in the end", 2, stats.CoverPlan(2, answersAlpha), answersAlpha)},
			Check:    checkScaleToZero,
			Controls: []Control{
				{Break: "a pod that is nobody's wears the label", Fails: "200", Do: addStranger},
				{Break: "a ResourceQuota leaves room for one pod", Fails: "exceeded quota", Do: allowOnePod},
			},
		},
	}
}

// reselected makes the Deployment anew, with its pods, with another selector.
func (e *Env) reselected(ctx context.Context, selector map[string]any) error {
	i := slices.IndexFunc(e.wanted, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Deployment" })
	if i < 0 {
		return errors.New("the fixture has no Deployment")
	}
	old := e.wanted[i]
	if err := e.fx.Delete(ctx, old); err != nil {
		return err
	}
	e.Undo(func(ctx context.Context) error { return e.fx.Delete(ctx, old) })
	changed := old.DeepCopy()
	if err := unstructured.SetNestedMap(changed.Object, selector, "spec", "selector"); err != nil {
		return err
	}
	live, err := e.fx.Apply(ctx, changed)
	if err != nil {
		return err
	}
	return e.fx.WaitReady(ctx, live...)
}

func checkReleasesRelabelledPod(ctx context.Context, e *Env) error {
	before, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	leaver, stays := before[0], before[1]
	api := e.Kube.CoreV1().Pods(e.Namespace())
	if _, err := api.Patch(ctx, leaver.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"serving":"no"}}}`), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("relabel pod %s: %w", leaver.Name, err)
	}
	e.Undo(func(ctx context.Context) error {
		return api.Delete(ctx, leaver.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)})
	})
	err = e.within(ctx, controllerLimit/2, "the relabelled pod is let go", func(ctx context.Context) (bool, error) {
		p, err := api.Get(ctx, leaver.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return len(p.OwnerReferences) == 0, errors.New("it still has an owner")
	})
	if err != nil {
		return err
	}
	var serving []corev1.Pod
	err = e.within(ctx, deploymentPatience, "the pod that stayed and a new one are ready", func(ctx context.Context) (bool, error) {
		var err error
		serving, err = e.Pods(ctx, selector(e)+",serving=yes")
		if err != nil {
			return false, err
		}
		return len(serving) == 2 && slices.Contains(podNames(serving), stays.Name), fmt.Errorf("ready are %s", strings.Join(podNames(serving), ", "))
	})
	if err != nil {
		return err
	}
	if err := e.Live(ctx); err != nil {
		return err
	}
	if _, err := e.servedBy(ctx, "after pod "+leaver.Name+" was relabelled", podNames(serving)); err != nil {
		return err
	}
	return e.stillServing(ctx, "after the relabelling", []corev1.Pod{leaver})
}

func checkSelectorImmutable(ctx context.Context, e *Env) error {
	before, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	for _, change := range []struct {
		what, reason string
		make         func(*appsv1.Deployment)
	}{
		{"another selector", "field is immutable", func(d *appsv1.Deployment) {
			d.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}}
		}},
		{"a template that the selector does not match", "`selector` does not match template `labels`", func(d *appsv1.Deployment) {
			d.Spec.Template.Labels = map[string]string{"application": e.Name()}
		}},
	} {
		if err := e.refuses(ctx, change.what, change.reason, change.make); err != nil {
			return err
		}
	}
	if err := e.stillServing(ctx, "after the refusals", before); err != nil {
		return err
	}
	_, err = e.servedBy(ctx, "after the refusals", podNames(before))
	return err
}

// refuses judges that the API calls a change of the Deployment invalid, for the reason. It is only tried, not made.
func (e *Env) refuses(ctx context.Context, what, reason string, change func(*appsv1.Deployment)) error {
	var refusal error
	err := e.Until(ctx, "the API judges "+what, func(ctx context.Context) (bool, error) {
		d, err := e.deployment(ctx)
		if err != nil {
			return false, err
		}
		change(d)
		_, refusal = e.Kube.AppsV1().Deployments(e.Namespace()).Update(ctx, d, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		// Its controller may have changed the object meanwhile: a conflict is no judgement.
		if apierrors.IsConflict(refusal) {
			return false, refusal
		}
		return true, nil
	})
	switch {
	case err != nil:
		return err
	case refusal == nil:
		return mismatch(what+" refused", "it is accepted")
	case !apierrors.IsInvalid(refusal):
		return fmt.Errorf("try %s: %w", what, refusal)
	case !strings.Contains(refusal.Error(), reason):
		return mismatch(what+" refused: "+reason, "%v", refusal)
	}
	return nil
}

func checkScaleToZero(ctx context.Context, e *Env) error {
	if err := e.rolledOut(ctx, 0); err != nil {
		return err
	}
	e.Undo(func(ctx context.Context) error { return e.scaleDeployment(ctx, 2) })
	if err := e.scaleDeployment(ctx, 0); err != nil {
		return err
	}
	// A pod on its way out is no endpoint any more, but answers who still knows its address until it has ended.
	err := e.within(ctx, deploymentPatience, "no pod of the Deployment is left", func(ctx context.Context) (bool, error) {
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e) + ",pod-template-hash"})
		if err != nil {
			return false, err
		}
		return len(list.Items) == 0, fmt.Errorf("%d are", len(list.Items))
	})
	if err != nil {
		return err
	}
	if err := e.Live(ctx); err != nil {
		return err
	}
	d, err := e.deployment(ctx)
	if err != nil {
		return err
	}
	if d.Status.Replicas+d.Status.AvailableReplicas != 0 {
		return mismatch("no replicas in the Deployment's status", "%d, %d available", d.Status.Replicas, d.Status.AvailableReplicas)
	}
	if err := e.nobodyAnswers(ctx, "scaled to zero"); err != nil {
		return err
	}

	if err := e.scaleDeployment(ctx, 2); err != nil {
		return err
	}
	err = e.within(ctx, deploymentPatience, "two pods are available again", func(ctx context.Context) (bool, error) {
		d, err := e.deployment(ctx)
		if err != nil {
			return false, err
		}
		for _, c := range d.Status.Conditions {
			if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
				return false, mismatch("two pods are available again", "%s: %s", c.Reason, c.Message)
			}
		}
		return d.Status.AvailableReplicas == 2, fmt.Errorf("%d are", d.Status.AvailableReplicas)
	})
	if err != nil {
		return err
	}
	if err := e.Live(ctx); err != nil {
		return err
	}
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	_, err = e.servedBy(ctx, "scaled back", podNames(pods))
	return err
}

// nobodyAnswers judges that nothing answers, through the gateway or at the Service's own address.
func (e *Env) nobodyAnswers(ctx context.Context, what string) error {
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: routeTries, Policy: loadgen.Fresh})
	if err != nil {
		return err
	}
	if err := all(what+", through the gateway", xs, "503"); err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	xs, err = e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{{URL: "http://" + s.Spec.ClusterIP + "/"}}, Count: routeTries, Policy: loadgen.Fresh})
	if err != nil {
		return err
	}
	return all(what+", at the cluster address", xs, "dial-refused")
}

// addStranger adds a pod like the Deployment's that is not its own.
func addStranger(ctx context.Context, e *Env) error {
	d, err := e.deployment(ctx)
	if err != nil {
		return err
	}
	api := e.Kube.CoreV1().Pods(e.Namespace())
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: e.Name() + "-stranger", Labels: d.Spec.Template.Labels}, Spec: d.Spec.Template.Spec}
	if _, err := api.Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pod %s: %w", p.Name, err)
	}
	e.Undo(func(ctx context.Context) error {
		return api.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](1)})
	})
	return e.Until(ctx, "pod "+p.Name+" is ready", func(ctx context.Context) (bool, error) {
		now, err := api.Get(ctx, p.Name, metav1.GetOptions{})
		return err == nil && fixtures.PodReady(now), err
	})
}
