// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	watchtools "k8s.io/client-go/tools/watch"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
)

// changedDeployments are the cases about how one version follows another.
func changedDeployments() []Case {
	two := []Sample{covers("new pods reached in the end", 2, stats.CoverPlan(2, answersAlpha), answersAlpha)}
	return []Case{
		{
			Name:     "Deployment/Rollback",
			Doc:      "An earlier template is served again by its own ReplicaSet, as long as revisionHistoryLimit has it kept.",
			Fixture:  "deployment/rollback.yaml",
			Workload: Own,
			Covers:   []string{"Deployment.spec.revisionHistoryLimit", "Deployment.metadata.annotations{}", "Deployment.spec.template.spec.containers[].env[].value"},
			Judged:   "exact: after two changes of version the ReplicaSet before the last one is kept, and no older one; with its template back it answers alone, the same object with the highest revision",
			Check:    checkRollback,
			Controls: []Control{
				{Break: "Deployment spec.revisionHistoryLimit=0", Fails: "is not kept"},
				{Break: "Deployment spec.revisionHistoryLimit=5", Fails: "old ReplicaSets are kept"},
			},
		},
		{
			Name:     "Deployment/Recreate",
			Doc:      "Recreate ends every old pod before it makes a new one, at the price of traffic lost in between.",
			Fixture:  "deployment/recreate.yaml",
			Workload: Own,
			Covers:   []string{"Deployment.spec.strategy.type=Recreate"},
			Judged: "exact, by a watch of every state of the pods: at no time one of the old version has not ended and one of the new is there, and at one time none is ready; an open-loop load " +
				"of 50/s sees it; then the new version alone answers",
			Samples: two,
			Check:   checkRecreate,
			Controls: []Control{
				{Break: "Deployment spec.strategy={type: RollingUpdate, rollingUpdate: {maxUnavailable: 1, maxSurge: 1}}", Fails: "versions at once"},
				{Break: "Deployment spec.strategy={type: RollingUpdate, rollingUpdate: {maxUnavailable: 2, maxSurge: 0}}", Fails: "versions at once"},
			},
		},
		{
			Name:     "Deployment/PauseResume",
			Doc:      "A paused Deployment does nothing about a new template until it is resumed.",
			Fixture:  "deployment/pause-resume.yaml",
			Workload: Own,
			Covers:   []string{"Deployment.spec.paused", "Deployment.status.updatedReplicas", "Deployment.status.conditions[].reason"},
			Judged:   "exact: once the controller has taken note of the new template there is no ReplicaSet of it and the same pod answers; resumed, the new version alone does",
			Check:    checkPauseResume,
			Controls: []Control{{Break: "somebody resumes the Deployment whenever it is paused", Fails: "while paused", Do: resumeAlways}},
		},
		{
			Name:     "Deployment/MinReadySeconds",
			Doc:      "A new pod counts only after it has been ready for minReadySeconds: until then the old one stays.",
			Fixture:  "deployment/min-ready-seconds.yaml",
			Workload: Own,
			Covers:   []string{"Deployment.spec.minReadySeconds", "Pod.status.conditions[].lastTransitionTime"},
			Judged: fmt.Sprintf("exact, by the API's own times: from the new pod's condition Ready to the old pod's deletion at least 3 s pass (both are cut to whole seconds, which keeps whole "+
				"differences); of an open-loop load of %d/s no request is lost", deploymentRate),
			Check:    checkMinReadySeconds,
			Controls: []Control{{Break: "Deployment spec.minReadySeconds=0", Fails: "after the new one was ready"}},
		},
	}
}

// nextVersion is a version that the case's Deployment has not had.
func nextVersion(d *appsv1.Deployment) string { return fmt.Sprintf("g%d", d.Generation) }

// rollOut gives the pods a new version and waits until they all have it.
func (e *Env) rollOut(ctx context.Context) (version string, pods []corev1.Pod, err error) {
	d, err := e.deployment(ctx)
	if err != nil {
		return "", nil, err
	}
	version = nextVersion(d)
	if _, err := e.patchDeployment(ctx, withVersion(version)); err != nil {
		return "", nil, err
	}
	pods, err = e.atRest(ctx)
	return version, pods, err
}

func checkRollback(ctx context.Context, e *Env) error {
	if _, err := e.atRest(ctx); err != nil {
		return err
	}
	wanted, _, err := e.rollOut(ctx)
	if err != nil {
		return err
	}
	keep, _, err := e.replicaSets(ctx)
	if err != nil {
		return err
	}
	if _, _, err := e.rollOut(ctx); err != nil {
		return err
	}
	err = e.within(ctx, controllerLimit/2, "only the ReplicaSet before the last one is kept", func(ctx context.Context) (bool, error) {
		_, old, err := e.replicaSets(ctx)
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(old, func(rs appsv1.ReplicaSet) bool { return rs.UID == keep.UID }) {
			return false, mismatch("the ReplicaSet before the last one is kept", "%s is not kept", keep.Name)
		}
		return len(old) == 1, fmt.Errorf("%d old ReplicaSets are kept", len(old))
	})
	if err != nil {
		return err
	}
	// What `kubectl rollout undo` does: the Deployment gets that ReplicaSet's template, from which it differs in the version only.
	if _, err := e.patchDeployment(ctx, withVersion(echoVersion(keep.Spec.Template.Spec))); err != nil {
		return err
	}
	pods, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	now, _, err := e.replicaSets(ctx)
	if err != nil {
		return err
	}
	d, err := e.deployment(ctx)
	if err != nil {
		return err
	}
	const revision = "deployment.kubernetes.io/revision"
	if now.UID != keep.UID || now.Annotations[revision] != d.Annotations[revision] || now.Annotations[revision] == keep.Annotations[revision] {
		return mismatch("the ReplicaSet "+keep.Name+" again, as a new revision", "%s as revision %s, before %s, of %s",
			now.Name, now.Annotations[revision], keep.Annotations[revision], d.Annotations[revision])
	}
	return e.servedWith(ctx, "after the rollback", pods, wanted)
}

func checkRecreate(ctx context.Context, e *Env) error {
	before, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	var mixed string
	pods, err := e.watchPods(ctx, selector(e), func(pods map[types.UID]corev1.Pod) {
		versions := map[string]int{}
		for _, p := range pods {
			if p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
				versions[echoVersion(p.Spec)]++
			}
		}
		if len(versions) > 1 {
			mixed = counts(versions)
		}
	})
	if err != nil {
		return err
	}
	defer pods.stop()
	load := e.startLoad(ctx, "while all pods are replaced", 50, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	if err := e.reachable(ctx, podNames(before)); err != nil {
		return err
	}
	start := time.Now()
	to, after, err := e.rollOut(ctx)
	if err != nil {
		return err
	}
	e.Figure("from change to rolled out", time.Since(start).Seconds(), "s")
	err = e.Until(ctx, "the watch has seen the new pods ready", func(context.Context) (bool, error) {
		now := pods.now()
		return len(now) == len(after) && !slices.ContainsFunc(now, func(p corev1.Pod) bool { return !fixtures.PodReady(&p) || echoVersion(p.Spec) != to }), nil
	})
	if err != nil {
		return err
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	fewest, _ := pods.extremes()
	pods.mu.Lock()
	both := mixed
	pods.mu.Unlock()
	lost := result.Sent - result.OK
	switch {
	case both != "":
		return mismatch("old pods ended before the first new one is made", "both versions at once: %s", both)
	case fewest > 0:
		return mismatch("no pod ready at one time", "always %d", fewest)
	case lost == 0:
		return mismatch("requests that fail while no pod is ready", "all of %d answered", result.Sent)
	}
	e.Figure("requests lost while all pods are replaced", float64(lost), "requests")
	return e.servedWith(ctx, "after the change", after, to)
}

func checkPauseResume(ctx context.Context, e *Env) error {
	before, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	from := echoVersion(before[0].Spec)
	if _, err := e.patchDeployment(ctx, `{"spec":{"paused":true}}`); err != nil {
		return err
	}
	d, err := e.deployment(ctx)
	if err != nil {
		return err
	}
	to := nextVersion(d)
	generation, err := e.patchDeployment(ctx, withVersion(to))
	if err != nil {
		return err
	}
	if d, err = e.actedOn(ctx, generation); err != nil {
		return err
	}
	if c := progressing(d); !d.Spec.Paused || c == nil || c.Reason != "DeploymentPaused" || d.Status.UpdatedReplicas != 0 {
		return mismatch("nothing updated while paused, and the condition's reason DeploymentPaused", "%d updated, %+v, paused %t", d.Status.UpdatedReplicas, c, d.Spec.Paused)
	}
	if err := e.servedWith(ctx, "while paused", before, from); err != nil {
		return err
	}
	if d, err = e.deployment(ctx); err != nil {
		return err
	}
	if !d.Spec.Paused || d.Status.UpdatedReplicas != 0 {
		return mismatch("nothing updated while paused, until it is resumed", "%d updated, paused %t", d.Status.UpdatedReplicas, d.Spec.Paused)
	}
	fresh, _, err := e.replicaSets(ctx)
	if err != nil {
		return err
	}
	if fresh != nil {
		return mismatch("no ReplicaSet of the new template while paused", "%s", fresh.Name)
	}
	if _, err := e.patchDeployment(ctx, `{"spec":{"paused":false}}`); err != nil {
		return err
	}
	after, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	return e.servedWith(ctx, "once resumed", after, to)
}

// resumeAlways is somebody else who wants the Deployment to go on, and watches it.
func resumeAlways(ctx context.Context, e *Env) error {
	api := e.Kube.AppsV1().Deployments(e.Namespace())
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Deployments: %w", err)
	}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, selectedWatch(api.Watch))
	if err != nil {
		return fmt.Errorf("watch Deployments: %w", err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for event := range w.ResultChan() {
			if d, ok := event.Object.(*appsv1.Deployment); ok && d.Spec.Paused {
				_, _ = api.Patch(ctx, d.Name, types.MergePatchType, []byte(`{"spec":{"paused":false}}`), metav1.PatchOptions{})
			}
		}
	})
	e.Undo(func(context.Context) error {
		w.Stop()
		done.Wait()
		return nil
	})
	return nil
}

func checkMinReadySeconds(ctx context.Context, e *Env) error {
	const least = 3 * time.Second
	before, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	old := before[0]
	var deleted time.Time
	pods, err := e.watchPods(ctx, selector(e), func(pods map[types.UID]corev1.Pod) {
		if p := pods[old.UID]; p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && deleted.IsZero() {
			deleted = p.DeletionTimestamp.Add(-time.Duration(*p.DeletionGracePeriodSeconds) * time.Second)
		}
	})
	if err != nil {
		return err
	}
	defer pods.stop()
	load := e.startLoad(ctx, "while the pod is replaced", deploymentRate, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	if err := e.reachable(ctx, podNames(before)); err != nil {
		return err
	}
	to, after, err := e.rollOut(ctx)
	if err != nil {
		return err
	}
	err = e.Until(ctx, "the watch has seen the old pod go", func(context.Context) (bool, error) {
		return !slices.ContainsFunc(pods.now(), func(p corev1.Pod) bool { return p.UID == old.UID }), nil
	})
	if err != nil {
		return err
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	pods.mu.Lock()
	passed := deleted.Sub(readySince(&after[0]))
	pods.mu.Unlock()
	if deleted.IsZero() {
		return errors.New("the watch has not seen the old pod's deletion")
	}
	e.Figure("from ready to available", passed.Seconds(), "s")
	if passed < least {
		return mismatch(fmt.Sprintf("the old pod kept until the new one has been ready for %s", least), "deleted %s after the new one was ready", passed)
	}
	return errors.Join(lostNone("while the pod is replaced", result), e.servedWith(ctx, "after the change", after, to))
}
