// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stuckDeployments are the cases whose rollout does not get on, as the new pods' image is on no node.
func stuckDeployments() []Case {
	return []Case{
		{
			Name:     "Deployment/ProgressDeadline",
			Doc:      "A rollout that makes no progress is reported after progressDeadlineSeconds, not before, and is well again once it is mended.",
			Fixture:  "deployment/progress-deadline.yaml",
			Workload: Own,
			Covers: []string{
				"Deployment.spec.progressDeadlineSeconds", "Deployment.status.conditions[].type", "Deployment.status.conditions[].status",
				"Deployment.status.conditions[].reason", "Deployment.status.conditions[].lastTransitionTime",
			},
			Judged: fmt.Sprintf("exact, by the API's own times: at least 3 s from the new ReplicaSet's creation, its last progress, to the condition's change, which comes within %s; "+
				"the old pod answers alone, and after the template is taken back the condition is true again", controllerLimit),
			Check:    checkProgressDeadline,
			Controls: []Control{{Break: "Deployment spec.progressDeadlineSeconds=600", Fails: "makes no progress within"}},
		},
	}
}

func checkProgressDeadline(ctx context.Context, e *Env) error {
	const deadline = 3 * time.Second
	before, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	generation, err := e.patchDeployment(ctx, withMissingImage())
	if err != nil {
		return err
	}
	said, err := e.rolloutStuck(ctx, generation)
	if err != nil {
		return err
	}
	fresh, _, err := e.replicaSets(ctx)
	if err != nil {
		return err
	}
	if fresh == nil {
		return mismatch("a ReplicaSet of the new template", "none")
	}
	after := said.LastTransitionTime.Sub(fresh.CreationTimestamp.Time)
	e.Figure("from the last progress to the report", after.Seconds(), "s")
	if after < deadline {
		return mismatch(fmt.Sprintf("no report before %s without progress", deadline), "one after %s", after)
	}
	if err := e.servedWith(ctx, "while the rollout is stuck", before, "v1"); err != nil {
		return err
	}
	d, err := e.deployment(ctx)
	if err != nil {
		return err
	}
	was := before[0].Spec.Containers[0]
	if _, err := e.patchDeployment(ctx, withImage(was.Image, was.ImagePullPolicy)); err != nil {
		return err
	}
	err = e.within(ctx, controllerLimit, "the mended Deployment says that it is well", func(ctx context.Context) (bool, error) {
		now, err := e.deployment(ctx)
		if err != nil {
			return false, err
		}
		c := progressing(now)
		if now.Status.ObservedGeneration <= d.Generation || c == nil || c.Status != corev1.ConditionTrue {
			return false, fmt.Errorf("its condition Progressing is %+v", c)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return e.rolledOut(ctx, 0)
}

// scaleDeployment sets the replicas by the scale subresource and waits until the controller has acted on it.
func (e *Env) scaleDeployment(ctx context.Context, replicas int32) error {
	api := e.Kube.AppsV1().Deployments(e.Namespace())
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: e.Name(), Namespace: e.Namespace()}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
	if _, err := api.UpdateScale(ctx, e.Name(), scale, metav1.UpdateOptions{FieldManager: "harness-check"}); err != nil {
		return fmt.Errorf("scale to %d: %w", replicas, err)
	}
	d, err := e.deployment(ctx)
	if err != nil {
		return err
	}
	_, err = e.actedOn(ctx, d.Generation)
	return err
}
