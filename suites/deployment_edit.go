// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

const (
	// missingImage is on no node, and with the policy Never nobody looks for it elsewhere.
	missingImage = "harness.invalid/missing:none"
	// controllerLimit is how long a controller may take for a step that it makes at once.
	controllerLimit = 20 * time.Second
	// answersAlpha is the chance that a burst of servedBy misses one of several pods.
	answersAlpha = 1e-6 / 4
)

// deployment reads the case's Deployment.
func (e *Env) deployment(ctx context.Context) (*appsv1.Deployment, error) {
	d, err := e.Kube.AppsV1().Deployments(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the Deployment: %w", err)
	}
	return d, nil
}

// patchDeployment changes the case's Deployment and has it as it was written after the check. The generation is that of the change.
func (e *Env) patchDeployment(ctx context.Context, patch string) (generation int64, err error) {
	d, err := e.Kube.AppsV1().Deployments(e.Namespace()).Patch(ctx, e.Name(), types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "harness-check"})
	if err != nil {
		return 0, fmt.Errorf("patch the Deployment with %s: %w", patch, err)
	}
	e.Undo(func(ctx context.Context) error {
		for _, o := range e.wanted {
			if o.GetKind() == "Deployment" {
				_, err := e.fx.Apply(ctx, o)
				return err
			}
		}
		return nil
	})
	return d.Generation, nil
}

// withVersion is a patch that gives the Deployment's pods another version.
func withVersion(version string) string {
	return fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"echo","env":[{"name":"ECHO_VERSION","value":%q}]}]}}}}`, version)
}

// withImage is a patch that gives the Deployment's pods another image.
func withImage(image string, policy corev1.PullPolicy) string {
	return fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"echo","image":%q,"imagePullPolicy":%q}]}}}}`, image, policy)
}

// withMissingImage is a patch that gives them one that they cannot get.
func withMissingImage() string { return withImage(missingImage, corev1.PullNever) }

// actedOn waits until the Deployment's controller has acted on a generation.
func (e *Env) actedOn(ctx context.Context, generation int64) (*appsv1.Deployment, error) {
	var d *appsv1.Deployment
	err := e.within(ctx, controllerLimit, "the controller has acted on the change", func(ctx context.Context) (bool, error) {
		var err error
		if d, err = e.deployment(ctx); err != nil {
			return false, err
		}
		return d.Status.ObservedGeneration >= generation, nil
	})
	return d, err
}

// rolloutStuck waits until the Deployment says of itself that a generation's rollout does not get on: nothing moves any more then.
func (e *Env) rolloutStuck(ctx context.Context, generation int64) (*appsv1.DeploymentCondition, error) {
	var c *appsv1.DeploymentCondition
	err := e.within(ctx, controllerLimit, "the Deployment says that it makes no progress", func(ctx context.Context) (bool, error) {
		d, err := e.deployment(ctx)
		if err != nil {
			return false, err
		}
		if c = progressing(d); c == nil || d.Status.ObservedGeneration < generation {
			return false, errors.New("its controller has not said anything of the change")
		}
		if c.Status != corev1.ConditionFalse || c.Reason != "ProgressDeadlineExceeded" {
			return false, fmt.Errorf("its condition Progressing is %s: %s", c.Status, c.Reason)
		}
		return true, nil
	})
	return c, err
}

func progressing(d *appsv1.Deployment) *appsv1.DeploymentCondition {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			return &c
		}
	}
	return nil
}

// atRest waits until the Deployment is rolled out and only its pods are left, and returns them.
func (e *Env) atRest(ctx context.Context) ([]corev1.Pod, error) {
	if err := e.rolledOut(ctx, 0); err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	err := e.Until(ctx, "only the Deployment's pods are left", func(ctx context.Context) (bool, error) {
		d, err := e.deployment(ctx)
		if err != nil {
			return false, err
		}
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
		if err != nil {
			return false, err
		}
		pods = list.Items
		return len(pods) == int(*d.Spec.Replicas), nil
	})
	if err != nil {
		return nil, err
	}
	return pods, e.Live(ctx)
}

// replicaSets are the Deployment's ReplicaSets: the one of its template, nil when there is none, and all others.
func (e *Env) replicaSets(ctx context.Context) (fresh *appsv1.ReplicaSet, old []appsv1.ReplicaSet, err error) {
	d, err := e.deployment(ctx)
	if err != nil {
		return nil, nil, err
	}
	list, err := e.Kube.AppsV1().ReplicaSets(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
	if err != nil {
		return nil, nil, fmt.Errorf("list ReplicaSets: %w", err)
	}
	for _, rs := range list.Items {
		now, its := d.Spec.Template.Spec, rs.Spec.Template.Spec
		switch {
		case !metav1.IsControlledBy(&rs, d):
		case echoVersion(now) == echoVersion(its) && now.Containers[0].Image == its.Containers[0].Image:
			fresh = &rs
		default:
			old = append(old, rs)
		}
	}
	return fresh, old, nil
}

// replicasShared judges how many replicas the old template and the new one have been given.
func (e *Env) replicasShared(ctx context.Context, what string, wantOld, wantFresh int32) error {
	fresh, sets, err := e.replicaSets(ctx)
	if err != nil {
		return err
	}
	var old, ofFresh int32
	for _, rs := range sets {
		old += *rs.Spec.Replicas
	}
	if fresh != nil {
		ofFresh = *fresh.Spec.Replicas
	}
	if old != wantOld || ofFresh != wantFresh {
		return mismatch(fmt.Sprintf("%s: %d old and %d new replicas", what, wantOld, wantFresh), "%d old and %d new", old, ofFresh)
	}
	return nil
}

// stillServing judges that pods are still there, the very ones, and ready.
func (e *Env) stillServing(ctx context.Context, what string, before []corev1.Pod) error {
	now, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	var lost []string
	for _, p := range before {
		if !slices.ContainsFunc(now, func(q corev1.Pod) bool { return q.UID == p.UID }) {
			lost = append(lost, p.Name)
		}
	}
	if len(lost) > 0 {
		return mismatch(what+": every pod from before still serves", "%d of %d pods are gone: %s", len(lost), len(before), strings.Join(lost, ", "))
	}
	return nil
}

// servedBy judges that exactly these pods answer through the gateway.
func (e *Env) servedBy(ctx context.Context, what string, names []string) ([]loadgen.Exchange, error) {
	xs, err := e.Gateway(ctx, loadgen.Burst{
		Requests: []loadgen.Request{e.URL("/")}, Count: max(4, stats.CoverPlan(len(names), answersAlpha)), Connections: 2, Policy: loadgen.Fresh, Timeout: loadTimeout,
	})
	if err != nil {
		return nil, err
	}
	return xs, reached(what, xs, pod, names)
}

// servedWith judges that exactly these pods answer, and with this version.
func (e *Env) servedWith(ctx context.Context, what string, pods []corev1.Pod, want string) error {
	xs, err := e.servedBy(ctx, what, podNames(pods))
	if err != nil {
		return err
	}
	if got := countBy(xs, version); got[want] != len(xs) {
		return mismatch(what+": answers of version "+want+" only", "%s", counts(got))
	}
	return nil
}

// unready is a control whose break may leave pods that never become ready, for which nobody waits: the check is to begin
// when the broken pods run.
func unready(edits, fails string) Control {
	return Control{Break: edits, Fails: fails, Do: func(ctx context.Context, e *Env) error {
		parsed, err := parseBreak(edits)
		if err != nil {
			return err
		}
		for _, one := range parsed {
			target, err := find(e.wanted, one)
			if err != nil {
				return err
			}
			broken := target.DeepCopy()
			if err := fixtures.Edit(broken, one.path, one.value); err != nil {
				return err
			}
			if _, err := e.fx.Apply(ctx, broken); err != nil {
				return err
			}
			if err := e.runsAnew(ctx, broken.GetName()); err != nil {
				return err
			}
		}
		return nil
	}}
}

// probedFor is time for several probes, of one second each, of a container that runs.
const probedFor = 4 * time.Second

// runsAnew waits until the one pod of a Deployment is of its newest template and has run for some probes or been restarted.
func (e *Env) runsAnew(ctx context.Context, name string) error {
	return e.Until(ctx, "the broken pod of "+name+" has been probed", func(ctx context.Context) (bool, error) {
		d, err := e.Kube.AppsV1().Deployments(e.Namespace()).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != 1 {
			return false, errors.New("there is no new pod")
		}
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
		if err != nil || len(list.Items) != 1 {
			return false, errors.Join(err, fmt.Errorf("%d pods are there", len(list.Items)))
		}
		for _, s := range slices.Concat(list.Items[0].Status.InitContainerStatuses, list.Items[0].Status.ContainerStatuses) {
			if s.RestartCount > 0 || s.State.Running != nil && time.Since(s.State.Running.StartedAt.Time) > probedFor {
				return true, nil
			}
		}
		return false, errors.New("its containers have not run")
	})
}
