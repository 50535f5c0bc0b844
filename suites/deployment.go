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
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

const (
	deploymentReplicas = 3
	// deploymentRate is enough that a pod which is gone while the gateway still sends to it loses requests at once: every
	// 30 ms one is for it.
	deploymentRate = 100
	// deploymentPatience is how long a pod may take to be replaced or rolled out. The image is on the nodes; the rest is the
	// machine.
	deploymentPatience = 45 * time.Second
)

// deploymentAnswers reach each of the pods, whatever the balancer does with fresh connections.
func deploymentAnswers() int { return stats.CoverPlan(deploymentReplicas, 1e-6) }

func deploymentCases() []Case {
	load := fmt.Sprintf("An open-loop load of %d/s (a pod that is gone while it is still sent to loses a request every %d ms; mesh and client do not "+
		"retry): exactly none may be lost. ", deploymentRate, 1000*deploymentReplicas/deploymentRate)
	cases := []Case{
		{
			Name:     "Deployment/ReplacesKilledPod",
			Doc:      "A Deployment replaces a pod that is deleted, and the traffic through the gateway does not notice.",
			Fixture:  "deployment/replaces-killed-pod.yaml",
			Workload: Own,
			Covers: []string{
				"Deployment.spec.replicas", "Deployment.spec.selector.matchLabels{}", "Deployment.spec.template.spec.terminationGracePeriodSeconds",
				"Service.spec.publishNotReadyAddresses=false",
			},
			Judged: load + fmt.Sprintf("A new pod must be ready within %s. Then %d requests over fresh connections must reach every pod: chance misses one with a "+
				"probability of at most 1e-6.", deploymentPatience, deploymentAnswers()),
			Samples: []Sample{covers("pods reached in the end", deploymentReplicas, deploymentAnswers(), 1e-6)},
			Check:   checkReplacesKilledPod,
			Controls: []Control{
				{Break: "Service spec.publishNotReadyAddresses=true", Fails: "requests lost"},
				{Break: "a ResourceQuota leaves no room for another pod", Fails: "not replaced", Do: allowOnePod},
			},
		},
		{
			Name:     "Deployment/RollingUpdate",
			Doc:      "A rolling update loses no request, never has fewer pods available than maxUnavailable allows nor more pods than maxSurge allows.",
			Fixture:  "deployment/rolling-update.yaml",
			Workload: Own,
			Covers: []string{
				"Deployment.spec.strategy.type=RollingUpdate", "Deployment.spec.strategy.rollingUpdate.maxUnavailable",
				"Deployment.spec.strategy.rollingUpdate.maxSurge", "Deployment.spec.template.spec.containers[].readinessProbe.httpGet.path",
			},
			Judged: load + fmt.Sprintf("A watch gives every state of the set of pods: at each, at least %d are ready and at most %d there, exactly. Then %d requests "+
				"over fresh connections are answered by the new version alone.", deploymentReplicas, deploymentReplicas+1, deploymentAnswers()),
			Check: checkRollingUpdate,
			Controls: []Control{
				{Break: "Deployment spec.strategy={type: Recreate}", Fails: fmt.Sprintf("ready pods fell below %d", deploymentReplicas)},
				{Break: "Deployment spec.strategy.rollingUpdate.maxSurge=2", Fails: fmt.Sprintf("pods rose above %d", deploymentReplicas+1)},
				{Break: "Service spec.publishNotReadyAddresses=true", Fails: "requests lost"},
			},
		},
	}
	return slices.Concat(cases, stuckDeployments(), changedDeployments(), deploymentSets())
}

// selector selects the pods of a case whose Deployment is named after it.
func selector(e *Env) string { return "app=" + e.Name() }

// checkReplacesKilledPod deletes one of the pods under load.
func checkReplacesKilledPod(ctx context.Context, e *Env) error {
	before, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if len(before) != deploymentReplicas {
		return fmt.Errorf("%d pods are ready, want %d to begin with", len(before), deploymentReplicas)
	}
	load := e.startLoad(ctx, "while a pod is replaced", deploymentRate, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	// The load must be under way on every pod, or the deletion would meet nothing.
	if err := e.reachable(ctx, podNames(before)); err != nil {
		return err
	}

	victim := before[0]
	start := time.Now()
	err = e.Kube.CoreV1().Pods(e.Namespace()).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
	if err != nil {
		return fmt.Errorf("delete pod %s: %w", victim.Name, err)
	}
	fresh, err := e.replacement(ctx, before)
	if err != nil {
		return err
	}
	e.Figure("from deletion to a ready replacement", time.Since(start).Seconds(), "s")
	after, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if err := e.reachable(ctx, podNames(after)); err != nil {
		return err
	}
	e.Figure("from deletion to the replacement's first answer", time.Since(start).Seconds(), "s")
	// Only once the deleted pod has ended can nothing more be lost to it.
	if err := e.within(ctx, deploymentPatience, "the deleted pod ends", func(ctx context.Context) (bool, error) {
		return e.gone(ctx, victim)
	}); err != nil {
		return err
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	if err := lostNone("while a pod is replaced", result); err != nil {
		return err
	}
	if d, err := e.Kube.AppsV1().Deployments(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{}); err != nil {
		return fmt.Errorf("read the Deployment: %w", err)
	} else if d.Status.ReadyReplicas != deploymentReplicas {
		return mismatch(fmt.Sprintf("%d ready replicas in the Deployment's status", deploymentReplicas), "%d", d.Status.ReadyReplicas)
	}
	e.Note("pod %s was replaced by %s", victim.Name, fresh)
	return e.answerFrom(ctx, "after the replacement", podNames(after))
}

// answerFrom judges that each of the pods answers through the gateway, and no other.
func (e *Env) answerFrom(ctx context.Context, when string, names []string) error {
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: deploymentAnswers(), Policy: loadgen.Fresh})
	if err != nil {
		return err
	}
	return reached(when, xs, pod, names)
}

// replacement waits for a ready pod that was not among those before, with the full number ready. A controller that says that
// it cannot make one, after the old pod has gone, need not be waited for: it has tried again many times by then.
func (e *Env) replacement(ctx context.Context, before []corev1.Pod) (string, error) {
	var fresh string
	err := e.within(ctx, deploymentPatience, "the deleted pod is replaced", func(ctx context.Context) (bool, error) {
		now, err := e.Pods(ctx, selector(e))
		if err != nil {
			return false, err
		}
		for _, p := range now {
			if !slices.ContainsFunc(before, func(old corev1.Pod) bool { return old.UID == p.UID }) {
				fresh = p.Name
			}
		}
		if len(now) == deploymentReplicas && fresh != "" {
			return true, nil
		}
		status := fmt.Sprintf("not replaced: %d of %d pods are ready", len(now), deploymentReplicas)
		if gone, err := e.gone(ctx, before[0]); err != nil || !gone {
			return false, errors.Join(err, errors.New(status))
		}
		d, err := e.Kube.AppsV1().Deployments(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range d.Status.Conditions {
			if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
				return false, mismatch("the deleted pod is replaced", "%s, and the Deployment says %s: %s", status, c.Reason, c.Message)
			}
		}
		return false, errors.New(status)
	})
	return fresh, err
}

// gone says whether a pod, this very one, is no more.
func (e *Env) gone(ctx context.Context, p corev1.Pod) (bool, error) {
	list, err := e.Kube.CoreV1().Pods(p.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + p.Name})
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(list.Items, func(q corev1.Pod) bool { return q.UID == p.UID }), nil
}

// reachable waits until the gateway has sent to each of the pods: endpoints travel, and are not there at once.
func (e *Env) reachable(ctx context.Context, names []string) error {
	seen := map[string]bool{}
	return e.within(ctx, 15*time.Second, "answers through the gateway from "+strings.Join(names, ", "), func(ctx context.Context) (bool, error) {
		xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: 2 * len(names), Policy: loadgen.Fresh, Timeout: loadTimeout})
		if err != nil {
			return false, err
		}
		for _, x := range xs {
			seen[pod(x)] = true
		}
		for _, n := range names {
			if !seen[n] {
				return false, fmt.Errorf("takes no traffic: %s", n)
			}
		}
		return true, nil
	})
}

// allowOnePod makes every further pod of the namespace one too many; those that run stay.
func allowOnePod(ctx context.Context, e *Env) error {
	api := e.Kube.CoreV1().ResourceQuotas(e.Namespace())
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: e.Name()}}
	quota.Spec.Hard = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}
	if _, err := api.Create(ctx, quota, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create quota: %w", err)
	}
	e.Undo(func(ctx context.Context) error { return api.Delete(ctx, quota.Name, metav1.DeleteOptions{}) })
	return e.Until(ctx, "the quota counts", func(ctx context.Context) (bool, error) {
		live, err := api.Get(ctx, quota.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return len(live.Status.Used) > 0, nil
	})
}

// checkRollingUpdate changes the version of the pods, v1 to v2 or back, under load.
func checkRollingUpdate(ctx context.Context, e *Env) error {
	if err := e.rolledOut(ctx, 0); err != nil {
		return err
	}
	before, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	pods, err := e.watchPods(ctx, selector(e))
	if err != nil {
		return err
	}
	defer pods.stop()
	begin := time.Now()
	load := e.startLoad(ctx, "during the update", deploymentRate, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	if err := e.reachable(ctx, podNames(before)); err != nil {
		return err
	}

	start := time.Now()
	to, generation, err := e.changeVersion(ctx)
	if err != nil {
		return err
	}
	if err := e.rolledOut(ctx, generation); err != nil {
		return err
	}
	e.Figure("from change to rolled out", time.Since(start).Seconds(), "s")
	// The ledger, too, must have come to the end, and the old pods must have ended: until then they can lose a request.
	if err := e.within(ctx, deploymentPatience, "only the new pods are left", func(context.Context) (bool, error) {
		now := pods.now()
		for _, p := range now {
			if echoVersion(p.Spec) != to {
				return false, fmt.Errorf("pod %s is still there", p.Name)
			}
		}
		return len(now) == deploymentReplicas, nil
	}); err != nil {
		return err
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	for _, s := range pods.series(begin) {
		e.Series(s)
	}
	return errors.Join(boundsKept(pods), lostNone("during the update", result), e.onlyVersion(ctx, to))
}

// boundsKept judges the extremes of the update.
func boundsKept(pods *ledger) error {
	fewest, most := pods.extremes()
	var got []string
	if fewest < deploymentReplicas {
		got = append(got, fmt.Sprintf("ready pods fell below %d, to %d", deploymentReplicas, fewest))
	}
	if most > deploymentReplicas+1 {
		got = append(got, fmt.Sprintf("pods rose above %d, to %d", deploymentReplicas+1, most))
	}
	if len(got) > 0 {
		return mismatch(fmt.Sprintf("at every moment at least %d ready pods and at most %d pods", deploymentReplicas, deploymentReplicas+1), "%s", strings.Join(got, " and "))
	}
	return nil
}

func (e *Env) onlyVersion(ctx context.Context, want string) error {
	after, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: deploymentAnswers(), Policy: loadgen.Fresh, Timeout: loadTimeout})
	if err != nil {
		return err
	}
	if err := reached("after the update", xs, pod, podNames(after)); err != nil {
		return err
	}
	if got := countBy(xs, version); got[want] != len(xs) {
		return mismatch("answers of version "+want+" only after the update", "%s", counts(got))
	}
	return nil
}

// changeVersion gives the Deployment's pods the other version, and returns it with the Deployment's new generation.
func (e *Env) changeVersion(ctx context.Context) (to string, generation int64, err error) {
	api := e.Kube.AppsV1().Deployments(e.Namespace())
	err = e.Until(ctx, "the Deployment takes the new version", func(ctx context.Context) (bool, error) {
		d, err := api.Get(ctx, e.Name(), metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		to = "v2"
		if echoVersion(d.Spec.Template.Spec) == to {
			to = "v1"
		}
		env := d.Spec.Template.Spec.Containers[0].Env
		env[slices.IndexFunc(env, isVersion)].Value = to
		d, err = api.Update(ctx, d, metav1.UpdateOptions{FieldManager: "harness-check"}) // a conflict is tried again
		if err != nil {
			return false, err
		}
		generation = d.Generation
		return true, nil
	})
	return to, generation, err
}

func isVersion(v corev1.EnvVar) bool { return v.Name == "ECHO_VERSION" }

// echoVersion is the version that a pod's backend calls itself.
func echoVersion(spec corev1.PodSpec) string {
	for _, c := range spec.Containers {
		if i := slices.IndexFunc(c.Env, isVersion); i >= 0 {
			return c.Env[i].Value
		}
	}
	return ""
}

// rolledOut waits until the Deployment, in the generation given or a later one, consists of new and available pods only.
func (e *Env) rolledOut(ctx context.Context, generation int64) error {
	return e.within(ctx, deploymentPatience, "the Deployment is rolled out", func(ctx context.Context) (bool, error) {
		d, err := e.Kube.AppsV1().Deployments(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		s, n := d.Status, ptr.Deref(d.Spec.Replicas, 1)
		if s.ObservedGeneration < max(generation, d.Generation) || s.UpdatedReplicas != n || s.Replicas != n || s.AvailableReplicas != n {
			return false, fmt.Errorf("%d of %d pods are updated, %d available, %d there", s.UpdatedReplicas, n, s.AvailableReplicas, s.Replicas)
		}
		return true, nil
	})
}
