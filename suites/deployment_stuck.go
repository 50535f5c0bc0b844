// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/internal/stats"
)

// stuckDeployments are the cases whose rollout does not get on, as the new pods' image is on no node.
func stuckDeployments() []Case {
	return []Case{
		{
			Name:     "Deployment/BrokenImage",
			Doc:      "A new version whose image is missing takes no traffic away from the old one.",
			Fixture:  "deployment/broken-image.yaml",
			Workload: Own,
			Covers: []string{
				"Deployment.spec.strategy.rollingUpdate.maxUnavailable", "Deployment.spec.template.spec.containers[].image",
				"Deployment.spec.template.spec.containers[].imagePullPolicy", "Deployment.status.unavailableReplicas",
			},
			Judged: fmt.Sprintf("exact: of an open-loop load of %d/s no request is lost until the Deployment says that the rollout is stuck; then the very pods from before "+
				"are ready and answer, alone, and the new pod waits with ErrImageNeverPull", deploymentRate),
			Samples: []Sample{covers("old pods reached in the end", 2, stats.CoverPlan(2, answersAlpha), answersAlpha)},
			Check:   checkBrokenImage,
			Controls: []Control{
				{Break: `Deployment spec.strategy.rollingUpdate.maxUnavailable="100%"`, Fails: "requests lost"},
				{Break: "Deployment spec.strategy.rollingUpdate.maxUnavailable=1", Fails: "1 of 2 pods are gone"},
			},
		},
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
		{
			Name:     "Deployment/PercentRounding",
			Doc:      "Of bounds in percent, maxUnavailable is rounded down to whole pods and maxSurge up.",
			Fixture:  "deployment/percent-rounding.yaml",
			Workload: Own,
			Covers: []string{
				"Deployment.spec.strategy.rollingUpdate.maxUnavailable", "Deployment.spec.strategy.rollingUpdate.maxSurge", "Deployment.status.updatedReplicas",
			},
			Judged: "exact: when the Deployment says that the rollout is stuck, of 3 replicas 50 % = 1 may be missing and 34 % = 2 too many may be there, so 2 are old, the ones that " +
				"answer, and 3 new; a watch has seen no fewer than 2 ready and no more than 5",
			Samples: []Sample{covers("old pods reached in the end", 2, stats.CoverPlan(2, answersAlpha), answersAlpha)},
			Check:   checkPercentRounding,
			Controls: []Control{
				{Break: `Deployment spec.strategy.rollingUpdate.maxSurge="33%"`, Fails: "got 2 old and 2 new"},
				{Break: `Deployment spec.strategy.rollingUpdate.maxUnavailable="67%"`, Fails: "got 1 old and 3 new"},
			},
		},
		{
			Name:     "Deployment/ProportionalScaling",
			Doc:      "A Deployment scaled amid a rollout gives the old and the new pods their shares in proportion.",
			Fixture:  "deployment/proportional-scaling.yaml",
			Workload: Own,
			Covers: []string{
				"Deployment.spec.replicas", "Deployment.spec.strategy.rollingUpdate.maxSurge", "Deployment.spec.strategy.rollingUpdate.maxUnavailable",
				"Deployment.status.observedGeneration", "Deployment.status.readyReplicas",
			},
			Judged: "exact, by the controller's rule: of 2 old and 1 new replica at 3 allowed, scaling to 5 allows 6: 2·6/3 = 4 old ones, which all answer, and 1·6/3 = 2 new ones; " +
				"scaling back to 2 gives 2 and 1",
			Samples: []Sample{covers("old pods reached after scaling out", 4, stats.CoverPlan(4, answersAlpha), answersAlpha)},
			Check:   checkProportionalScaling,
			Controls: []Control{
				{Break: "Deployment spec.strategy.rollingUpdate.maxSurge=2", Fails: "got 3 old and 4 new"},
				{Break: "Deployment spec.strategy.rollingUpdate.maxUnavailable=1", Fails: "got 2 old and 4 new"},
			},
		},
	}
}

func checkBrokenImage(ctx context.Context, e *Env) error {
	before, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	load := e.startLoad(ctx, "while a broken version is rolled out", deploymentRate, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	if err := e.reachable(ctx, podNames(before)); err != nil {
		return err
	}
	generation, err := e.patchDeployment(ctx, withMissingImage())
	if err != nil {
		return err
	}
	if _, err := e.rolloutStuck(ctx, generation); err != nil {
		return err
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	if err := errors.Join(lostNone("while a broken version is rolled out", result), e.stillServing(ctx, "after the broken rollout", before)); err != nil {
		return err
	}
	if err := e.waitsForImage(ctx); err != nil {
		return err
	}
	d, err := e.deployment(ctx)
	if err != nil {
		return err
	}
	if d.Status.UnavailableReplicas != 1 {
		return mismatch("1 unavailable replica in the Deployment's status", "%d", d.Status.UnavailableReplicas)
	}
	return e.servedWith(ctx, "after the broken rollout", before, "v1")
}

// waitsForImage judges that the new pod is there and says what it lacks.
func (e *Env) waitsForImage(ctx context.Context) error {
	return e.within(ctx, controllerLimit, "the new pod says that its image is missing", func(ctx context.Context) (bool, error) {
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
		if err != nil {
			return false, err
		}
		for _, p := range list.Items {
			for _, s := range p.Status.ContainerStatuses {
				if p.Spec.Containers[0].Image == missingImage && s.State.Waiting != nil && s.State.Waiting.Reason == "ErrImageNeverPull" {
					return true, nil
				}
			}
		}
		return false, errors.New("no pod does")
	})
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

func checkPercentRounding(ctx context.Context, e *Env) error {
	if _, err := e.atRest(ctx); err != nil {
		return err
	}
	pods, err := e.watchPods(ctx, selector(e))
	if err != nil {
		return err
	}
	defer pods.stop()
	generation, err := e.patchDeployment(ctx, withMissingImage())
	if err != nil {
		return err
	}
	if _, err := e.rolloutStuck(ctx, generation); err != nil {
		return err
	}
	if err := e.replicasShared(ctx, "when nothing moves any more", 2, 3); err != nil {
		return err
	}
	if fewest, most := pods.extremes(); fewest < 2 || most > 5 {
		return mismatch("never fewer than 2 ready pods nor more than 5 pods", "as few as %d and as many as %d", fewest, most)
	}
	d, err := e.deployment(ctx)
	if err != nil {
		return err
	}
	if d.Status.UpdatedReplicas != 3 {
		return mismatch("3 updated replicas in the Deployment's status", "%d", d.Status.UpdatedReplicas)
	}
	// The pods that were taken away may take a moment to end, and the gateway to learn of it.
	if err := e.Live(ctx); err != nil {
		return err
	}
	old, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	return e.servedWith(ctx, "while the rollout is stuck", old, "v1")
}

func checkProportionalScaling(ctx context.Context, e *Env) error {
	if _, err := e.atRest(ctx); err != nil {
		return err
	}
	generation, err := e.patchDeployment(ctx, withMissingImage())
	if err != nil {
		return err
	}
	if _, err := e.rolloutStuck(ctx, generation); err != nil {
		return err
	}
	if err := e.scaleDeployment(ctx, 5); err != nil {
		return err
	}
	if err := e.replicasShared(ctx, "scaled to 5 amid a rollout", 4, 2); err != nil {
		return err
	}
	err = e.within(ctx, deploymentPatience, "4 old pods are ready", func(ctx context.Context) (bool, error) {
		d, err := e.deployment(ctx)
		if err != nil {
			return false, err
		}
		return d.Status.ReadyReplicas == 4, fmt.Errorf("%d are", d.Status.ReadyReplicas)
	})
	if err != nil {
		return err
	}
	if err := e.Live(ctx); err != nil {
		return err
	}
	old, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if err := e.servedWith(ctx, "scaled to 5 amid a rollout", old, "v1"); err != nil {
		return err
	}
	if err := e.scaleDeployment(ctx, 2); err != nil {
		return err
	}
	return e.replicasShared(ctx, "scaled back to 2", 2, 1)
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
