// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/loadgen"
)

// hpaMetrics are where an autoscaler's metrics come from.
func hpaMetrics() []Case {
	return []Case{
		decisionCase("ExternalMetric", "external-metric", "An external metric, of the series that a selector chooses, is shared by the pods (averageValue) or multiplies them (value).",
			checkForeignMetric,
			[]string{
				"metrics[].type=External", "metrics[].external.metric.name", "metrics[].external.metric.selector.matchLabels{}", "metrics[].external.metric.selector.matchExpressions[].operator", "metrics[].external.target.type",
				"metrics[].external.target.averageValue", "metrics[].external.target.value",
			},
			Control{Break: `HorizontalPodAutoscaler/-average spec.metrics[0].external.metric.selector.matchExpressions=`, Fails: "TooManyReplicas"},
			Control{Break: `HorizontalPodAutoscaler/-average spec.metrics[0].external.target.averageValue="14"; HorizontalPodAutoscaler/-value spec.metrics[0].external.target.value="100"`, Fails: "each pod's part: 3 desired"},
			Control{Break: `HorizontalPodAutoscaler/-value spec.metrics[0].external.target={type: AverageValue, averageValue: "10"}`, Fails: "the whole: at first 1 desired"},
			Control{Break: `HorizontalPodAutoscaler/-value spec.metrics[0].external.metric.name=echo_held_bytes`, Fails: "the whole: at first 1 desired"},
		),
		decisionCase("ObjectMetric", "object-metric", "A metric of an object of the cluster, of the series that a selector chooses, is shared by the pods (averageValue) or multiplies them (value).",
			checkForeignMetric,
			[]string{
				"metrics[].type=Object", "metrics[].object.metric.name", "metrics[].object.metric.selector.matchLabels{}", "metrics[].object.target.type", "metrics[].object.target.averageValue",
				"metrics[].object.target.value", "metrics[].object.describedObject.kind", "metrics[].object.describedObject.name", "metrics[].object.describedObject.apiVersion",
			},
			Control{Break: `HorizontalPodAutoscaler/-average spec.metrics[0].object.metric.selector=`, Fails: "TooManyReplicas"},
			Control{Break: `HorizontalPodAutoscaler/-average spec.metrics[0].object.describedObject.kind=Pod; HorizontalPodAutoscaler/-value spec.metrics[0].object.target.value="100"`, Fails: "FailedGetObjectMetric"},
			Control{Break: `HorizontalPodAutoscaler/-value spec.metrics[0].object.target={type: AverageValue, averageValue: "10"}`, Fails: "the whole: at first 1 desired"},
			Control{Break: `HorizontalPodAutoscaler/-average spec.metrics[0].object.describedObject.name=nobody; HorizontalPodAutoscaler/-value spec.metrics[0].object.describedObject.apiVersion=apps/v1`, Fails: "FailedGetObjectMetric"},
			Control{Break: `HorizontalPodAutoscaler/-average spec.metrics[0].object.metric.name=echo_held_bytes`, Fails: "each pod's part: at first 1 desired"},
		),
		func() Case {
			c := decisionCase("PodsMetric", "pods-metric", "A metric that each pod tells of itself is kept at its average: pods are added, and take traffic.", checkPodsMetric,
				[]string{"metrics[].type=Pods", "metrics[].pods.metric.name", "metrics[].pods.metric.selector.matchExpressions[].operator", "metrics[].pods.target.averageValue", "metrics[].pods.target.type"},
				Control{Break: `HorizontalPodAutoscaler spec.metrics[0].pods.target.averageValue="20"`, Fails: "the pods' average: 2 desired"},
				Control{Break: `HorizontalPodAutoscaler spec.metrics[0].pods.metric.selector.matchExpressions[0].operator=DoesNotExist`, Fails: "FailedGetPodsMetric"},
				Control{Break: `HorizontalPodAutoscaler spec.metrics[0].pods.metric.name=echo_held_bytes`, Fails: "the pods' average: 1 desired"},
			)
			c.Judged = "exact: from one pod that tells 35, a target of 10 makes four, which stay at 8.75 and all answer through the gateway"
			return c
		}(),
		decisionCase("SeveralMetrics", "several-metrics", "Of several metrics the one that asks for most pods counts; with one that nobody tells, pods are still added, but none is taken away.",
			func(ctx context.Context, e *Env) error {
				s, err := e.scaler(ctx, "-both")
				if err != nil {
					return err
				}
				s.perPod = 5
				return errors.Join(s.step(ctx, scaleStep{"two", 2, 20, 4, ""}),
					e.steps(ctx, "-half", scaleStep{"one of two, up", 2, 40, 4, "ValidMetricFound"}, scaleStep{"one of two, down", 4, 20, 4, "FailedGetExternalMetric"}))
			},
			[]string{"metrics[].type=External"},
			Control{Break: `HorizontalPodAutoscaler/-both spec.metrics[1].external.target.averageValue="10"`, Fails: "two: at first 1 desired"},
			Control{Break: `HorizontalPodAutoscaler/-half spec.metrics[1].external.metric.name=echo_custom`, Fails: "one of two, down: 2 desired"},
		),
		decisionCase("MissingMetrics", "missing-metrics", "Without its metric or what it scales an autoscaler changes nothing, and says which of them is missing.", checkMissingMetrics,
			[]string{"scaleTargetRef.name", "scaleTargetRef.kind", "scaleTargetRef.apiVersion"},
			Control{Break: `HorizontalPodAutoscaler/-external spec.metrics[0].external.metric.name=echo_custom`, Fails: "an external metric: "},
			Control{Break: `HorizontalPodAutoscaler/-object spec.metrics[0].object.metric.name=echo_custom`, Fails: "an object's metric: "},
			Control{Break: `the Deployment is there under the name that the autoscaler has`, Fails: "the Deployment: ", Do: nameTarget},
			Control{Break: `HorizontalPodAutoscaler/-kind spec.scaleTargetRef.kind=Deployment`, Fails: "the kind: "},
			Control{Break: `HorizontalPodAutoscaler/-version spec.scaleTargetRef.apiVersion=apps/v1`, Fails: "the API: "},
		),
		scaleIn(),
	}
}

// checkForeignMetric is about two autoscalers of one metric that is not the pods' own: for one each pod has its part, for the other
// the whole counts. What another pod tells is none of theirs.
func checkForeignMetric(ctx context.Context, e *Env) error {
	others, err := e.Pods(ctx, "part=other")
	if err != nil {
		return err
	}
	for _, p := range others {
		if err := e.tell(ctx, p.Name, 500); err != nil {
			return err
		}
	}
	if err := e.steps(ctx, "-average", scaleStep{"each pod's part", 2, 35, 4, ""}); err != nil {
		return err
	}
	s, err := e.scaler(ctx, "-value")
	if err != nil {
		return err
	}
	s.whole = true
	if err := s.step(ctx, scaleStep{"the whole", 2, 15, 3, ""}); err != nil {
		return err
	}
	return s.set(ctx, s.perPod) // it would go on
}

func checkPodsMetric(ctx context.Context, e *Env) error {
	s, err := e.scalerBy(ctx, "", selector(e))
	if err != nil {
		return err
	}
	if err := s.step(ctx, scaleStep{"the pods' average", 1, 35, 4, ""}); err != nil {
		return err
	}
	e.Figure("from need to desired", time.Since(s.moved).Seconds(), "s")
	if err := s.decides(ctx, "four pods, all running, stay", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return h.Status.CurrentReplicas == 4 && h.Status.DesiredReplicas == 4 && s.reads(h, 4)
	}); err != nil {
		return err
	}
	pods, err := e.ready(ctx, 4)
	if err != nil {
		return err
	}
	e.Figure("from need to ready", time.Since(s.moved).Seconds(), "s")
	err = e.reachable(ctx, podNames(pods))
	e.Figure("from need to answers from all", time.Since(s.moved).Seconds(), "s")
	return err
}

// ready waits until exactly so many pods of the case are ready.
func (e *Env) ready(ctx context.Context, n int) (pods []corev1.Pod, err error) {
	err = e.within(ctx, deploymentPatience, fmt.Sprintf("%d pods are ready", n), func(ctx context.Context) (bool, error) {
		pods, err = e.Pods(ctx, selector(e))
		if err != nil {
			return false, err
		}
		return len(pods) == n, fmt.Errorf("%d pods are ready", len(pods))
	})
	return pods, err
}

// checkMissingMetrics waits for what each of the autoscalers says, and judges that the number of pods stayed.
func checkMissingMetrics(ctx context.Context, e *Env) error {
	const pods = 2
	for _, missing := range []struct{ what, suffix, reason string }{
		{"an external metric", "-external", "FailedGetExternalMetric"},
		{"an object's metric", "-object", "FailedGetObjectMetric"},
		{"the pods' metric", "-pods", "FailedGetPodsMetric"},
		{"the Deployment", "-target", "FailedGetScale"},
		{"the kind", "-kind", "FailedGetScale"},
		{"the API", "-version", "FailedGetScale"},
	} {
		s, err := e.scaler(ctx, missing.suffix)
		if err != nil {
			return err
		}
		release, err := s.place(ctx, pods)
		if err != nil {
			return err
		}
		want := missing.what + " is missing, it says " + missing.reason + ", and the pods are left alone"
		if err := s.decidesOn(ctx, release, want, func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
			return has(h, missing.reason) || h.Status.CurrentReplicas == pods || s.since(h)
		}); err != nil {
			return err
		}
		d, err := e.Kube.AppsV1().Deployments(e.Namespace()).Get(ctx, s.target, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read what is scaled: %w", err)
		}
		if !has(s.last, missing.reason) || d.Status.Replicas != pods {
			return mismatch(want, "%s: %d pods, %s", missing.what, d.Status.Replicas, said(s.last))
		}
	}
	return nil
}

// nameTarget has the autoscaler scale what is there.
func nameTarget(ctx context.Context, e *Env) error {
	return e.change(ctx, fmt.Sprintf("HorizontalPodAutoscaler/-target spec.scaleTargetRef.name=%s-target", e.Name()))
}

// scaleIn is under load, because what it costs is what matters.
func scaleIn() Case {
	c := decisionCase("ScaleIn", "scale-in", "When the need is over pods are taken away again, and no request is lost with them.", checkScaleIn,
		[]string{"minReplicas", "metrics[].pods.target.averageValue"},
		Control{Break: "Deployment spec.template.spec.terminationGracePeriodSeconds=0", Fails: "under way at pods that are taken away"},
		Control{Break: "HorizontalPodAutoscaler spec.minReplicas=4", Fails: "the need is over: 4 desired"},
	)
	c.Judged = fmt.Sprintf("exact: four pods become one by the formula, while of an open-loop load of %d/s and of %d requests under way, which take %s, none is lost", scaleInRate, scaleInLong, scaleInDelay)
	return c
}

// The load while pods are taken away, and the requests that are under way at them: they outlast the 2 s that kubelet gives a pod
// without grace.
const (
	scaleInRate  = 30
	scaleInLong  = 12
	scaleInDelay = 6 * time.Second
)

func checkScaleIn(ctx context.Context, e *Env) error {
	s, err := e.scalerBy(ctx, "", selector(e))
	if err != nil {
		return err
	}
	if err := s.begin(ctx, "four", 4); err != nil {
		return err
	}
	pods, err := e.ready(ctx, 4)
	if err != nil {
		return err
	}
	ledger, err := e.watchPods(ctx, selector(e))
	if err != nil {
		return err
	}
	defer ledger.stop()
	load := e.startLoad(ctx, "while pods are taken away", scaleInRate, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	if err := e.reachable(ctx, podNames(pods)); err != nil {
		return err
	}
	long, err := e.manyUnderWay(ctx, pods)
	if err != nil {
		return err
	}
	if err := s.step(ctx, scaleStep{"the need is over", 4, 10, 1, ""}); err != nil {
		return err
	}
	if err := e.within(ctx, deploymentPatience, "only one pod is there", func(context.Context) (bool, error) {
		return len(ledger.now()) == 1, fmt.Errorf("%d pods are there", len(ledger.now()))
	}); err != nil {
		return err
	}
	e.Figure("from the end of the need to one pod", time.Since(s.moved).Seconds(), "s")
	result, err := load.stop()
	if err != nil {
		return err
	}
	if err := errors.Join(lostNone("while pods are taken away", result), long()); err != nil {
		return err
	}
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: routeTries, Policy: loadgen.Fresh})
	if err != nil {
		return err
	}
	return reached("after the scale-in", xs, pod, []string{s.source})
}

// manyUnderWay sends requests that take a while and returns once they are all at the pods, with what waits for their answers and
// judges them.
func (e *Env) manyUnderWay(ctx context.Context, pods []corev1.Pod) (judge func() error, err error) {
	prefix := e.Prefix()
	var sending sync.WaitGroup
	var xs []loadgen.Exchange
	var sendErr error
	sending.Go(func() {
		xs, sendErr = e.Gateway(ctx, loadgen.Burst{
			Requests: []loadgen.Request{e.Commanded(e.URL("/"), "delay="+scaleInDelay.String())}, Count: scaleInLong, Connections: scaleInLong,
			Policy: loadgen.Fresh, Timeout: time.Minute, IDPrefix: prefix,
		})
	})
	err = e.Until(ctx, "the long requests are at the pods", func(ctx context.Context) (bool, error) {
		seen, err := e.Seen(ctx, pods, prefix)
		total := 0
		for _, ids := range seen {
			total += len(ids)
		}
		return total == scaleInLong, err
	})
	return func() error {
		sending.Wait()
		if sendErr != nil {
			return sendErr
		}
		return all("requests under way at pods that are taken away", xs, "200")
	}, err
}
