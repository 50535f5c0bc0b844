// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// What the fixture promises. The judgement compares with these, not with the live object: a control changes that one.
const (
	hpaTarget = 50 // % of the CPU request
	hpaMin    = 2
	hpaMax    = 5
	// hpaTolerance is the controller's default: a metric this close to the target changes nothing.
	hpaTolerance = 0.1
	// hpaPatience covers a metrics-server scrape (10 to 60 s), the two of them that a rate takes, and the controller's own
	// period of 15 s.
	hpaPatience = 90 * time.Second
)

// The loads, in milliseconds of CPU per second. A pod requests 50m and is to use 25m of it, so the first load asks for
// three or four pods, which tells the formula from "as many as possible", and both together for more than twice hpaMax.
const (
	hpaSmallRate, hpaSmallBurn = 7, 10 * time.Millisecond
	hpaLargeRate, hpaLargeBurn = 40, 5 * time.Millisecond
)

// hpaShares are the pods' shares of the traffic once all hpaMax are there.
func hpaShares() []float64 {
	out := make([]float64, hpaMax)
	for i := range out {
		out[i] = 1.0 / hpaMax
	}
	return out
}

// hpaShareShift is the smallest deviation that matters: a pod that gets no more than a quarter of its share.
const hpaShareShift = 0.15

func hpaAnswers() int { return stats.MultinomialPlan(hpaShares(), hpaShareShift, 1e-6, 0.99) }

func hpaCases() []Case {
	return []Case{{
		Name:     "HPA/ScaleOutCPU",
		Doc:      "Under a CPU load through the gateway, an autoscaler adds pods by its formula up to its maximum, and they take their share of the traffic.",
		Fixture:  "hpa/scale-out-cpu.yaml",
		Needs:    []Capability{Metrics},
		Workload: Own,
		Timeout:  5 * time.Minute,
		Covers: []string{
			"HorizontalPodAutoscaler.spec.scaleTargetRef.name", "HorizontalPodAutoscaler.spec.minReplicas", "HorizontalPodAutoscaler.spec.maxReplicas",
			"HorizontalPodAutoscaler.spec.metrics[].type=Resource", "HorizontalPodAutoscaler.spec.metrics[].resource.name=cpu",
			"HorizontalPodAutoscaler.spec.metrics[].resource.target.averageUtilization",
			"HorizontalPodAutoscaler.spec.behavior.scaleUp.stabilizationWindowSeconds", "HorizontalPodAutoscaler.spec.behavior.scaleUp.policies[].value",
			"Deployment.spec.template.spec.containers[].resources.requests{}",
		},
		Judged: fmt.Sprintf("Each status that the controller writes has its metric and its decision: with all pods measured, desired is exactly "+
			"ceil(pods × metric / %d %%), unchanged within the tolerance of %g, at least %d and at most %d; while new pods are not measured yet it lies between the "+
			"present number and that. A first load of %d m asks for 3 or 4 pods, a second one for more than twice the maximum, which must hold for one more decision. "+
			"No request is lost. Then n = %d fresh connections: the counts of %d pods lie in their multinomial ranges (α = 1e-6; power 0.99 to see a pod with a quarter "+
			"of its share). The maximum is %d and not ten, because ten pods on a machine of two processors would time the start of pods, not the autoscaler.",
			hpaTarget, hpaTolerance, hpaMin, hpaMax, milli(hpaSmallRate, hpaSmallBurn), hpaAnswers(), hpaMax, hpaMax),
		Samples: []Sample{{Of: "answers of each pod at the maximum", N: hpaAnswers(), Alpha: 1e-6, Power: 0.99, Shift: hpaShareShift}},
		Check:   checkScaleOut,
		Controls: []Control{
			{Break: "HorizontalPodAutoscaler spec.maxReplicas=2", Fails: "did not scale out"},
			{Break: "HorizontalPodAutoscaler spec.metrics[0].resource.target.averageUtilization=10000", Fails: "did not scale out"},
		},
	}}
}

func milli(rate int, burn time.Duration) int { return rate * int(burn.Milliseconds()) }

// scaling is one observed scale-out.
type scaling struct {
	e         *Env
	start     time.Time // of the first load
	decisions <-chan watch.Event
	pods      *ledger
	// settled are the pods whose use is measured in full since before the load: while there are no others, the formula holds
	// exactly.
	settled int32

	desired, use Series
	last         *autoscalingv2.HorizontalPodAutoscaler
}

func checkScaleOut(ctx context.Context, e *Env) error {
	if err := e.settled(ctx); err != nil {
		return err
	}
	api := e.Kube.AutoscalingV2().HorizontalPodAutoscalers(e.Namespace())
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list autoscalers: %w", err)
	}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, selectedWatch(api.Watch))
	if err != nil {
		return fmt.Errorf("watch autoscalers: %w", err)
	}
	defer w.Stop()
	pods, err := e.watchPods(ctx, selector(e))
	if err != nil {
		return err
	}
	defer pods.stop()

	s := &scaling{
		e: e, start: time.Now(), decisions: w.ResultChan(), pods: pods, settled: hpaMin,
		desired: Series{Name: "desired", Unit: "pods", Points: []Point{{0, hpaMin}}}, use: Series{Name: "CPU of request", Unit: "%"},
	}
	small := e.startLoad(ctx, "small", hpaSmallRate, e.Commanded(e.URL("/"), "burn="+hpaSmallBurn.String()))
	defer func() { _, _ = small.stop() }()
	if err := s.firstStep(ctx); err != nil {
		return err
	}
	large := e.startLoad(ctx, "large", hpaLargeRate, e.Commanded(e.URL("/"), "burn="+hpaLargeBurn.String()))
	defer func() { _, _ = large.stop() }()
	if err := s.toMaximum(ctx); err != nil {
		return err
	}
	shareErr := e.shares(ctx)
	holdErr := s.holds(ctx)
	for _, series := range append(pods.series(s.start), s.desired, s.use) {
		e.Series(series)
	}
	for _, load := range []*steadyLoad{small, large} {
		result, err := load.stop()
		if err != nil {
			return err
		}
		e.Series(answered(load.name, result, s.start))
		if err := lostNone("during the scale-out, "+load.name+" load", result); err != nil {
			return err
		}
	}
	return errors.Join(shareErr, holdErr)
}

// answered is a load over time, as it was answered.
func answered(name string, r *loadgen.Result, start time.Time) Series {
	out := Series{Name: name + " load", Unit: "requests/s"}
	from := r.Start.Sub(start).Seconds()
	for _, s := range r.Seconds {
		out.Points = append(out.Points, Point{from + float64(s.At), float64(s.OK)})
	}
	return out
}

// settled waits until exactly the least number of pods runs and each has been measured over a time in which it was ready:
// the controller leaves others out of its sum.
func (e *Env) settled(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, hpaPatience)
	defer cancel()
	return e.Until(limited, "the pods to begin with are measured", func(ctx context.Context) (bool, error) {
		d, err := e.Kube.AppsV1().Deployments(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if n := ptr.Deref(d.Spec.Replicas, 1); n != hpaMin || d.Status.Replicas != hpaMin || d.Status.ReadyReplicas != hpaMin {
			return false, fmt.Errorf("%d pods wanted, %d there, %d ready, want %d", n, d.Status.Replicas, d.Status.ReadyReplicas, hpaMin)
		}
		pods, err := e.Pods(ctx, selector(e))
		if err != nil {
			return false, err
		}
		measured, err := e.measuredSince(ctx)
		if err != nil {
			return false, err
		}
		for _, p := range pods {
			if since, has := measured[p.Name]; !has || since.Before(readySince(&p)) {
				return false, fmt.Errorf("the use of pod %s is not measured yet", p.Name)
			}
		}
		return len(pods) == hpaMin, nil
	})
}

func readySince(p *corev1.Pod) time.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// measuredSince is, for each pod with metrics, the beginning of the time that they cover.
func (e *Env) measuredSince(ctx context.Context) (map[string]time.Time, error) {
	body, err := e.Kube.CoreV1().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/namespaces", e.Namespace(), "pods").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	var list struct {
		Items []struct {
			Metadata  metav1.ObjectMeta `json:"metadata"`
			Timestamp metav1.Time       `json:"timestamp"`
			Window    metav1.Duration   `json:"window"`
		} `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	out := map[string]time.Time{}
	for _, m := range list.Items {
		out[m.Metadata.Name] = m.Timestamp.Add(-m.Window.Duration)
	}
	return out, nil
}

// firstStep waits for the decision to add pods, for them to be ready and for the first answer of one.
func (s *scaling) firstStep(ctx context.Context) error {
	err := s.follow(ctx, "did not scale out", func(h *autoscalingv2.HorizontalPodAutoscaler) bool { return h.Status.DesiredReplicas > hpaMin })
	if err != nil {
		return err
	}
	s.figure("from load to desired")
	want := int(s.last.Status.DesiredReplicas)
	before, err := s.e.Pods(ctx, selector(s.e))
	if err != nil {
		return err
	}
	if err := s.e.within(ctx, deploymentPatience, fmt.Sprintf("%d pods are ready", want), func(context.Context) (bool, error) {
		return s.readyNow() >= want, fmt.Errorf("%d pods are ready", s.readyNow())
	}); err != nil {
		return err
	}
	s.figure("from load to ready")
	if err := s.e.within(ctx, 15*time.Second, "a new pod answers", func(ctx context.Context) (bool, error) {
		xs, err := s.e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{s.e.URL("/")}, Count: want, Policy: loadgen.Fresh, Timeout: loadTimeout})
		if err != nil {
			return false, err
		}
		old := 0
		for _, x := range xs {
			for _, p := range before {
				if pod(x) == p.Name {
					old++
				}
			}
		}
		return old < len(xs), errors.New("only the old pods answer")
	}); err != nil {
		return err
	}
	s.figure("from load to a new pod's first answer")
	return nil
}

// toMaximum waits until there are as many pods as there may be and the gateway sends to all.
func (s *scaling) toMaximum(ctx context.Context) error {
	err := s.follow(ctx, "did not scale out to its maximum", func(h *autoscalingv2.HorizontalPodAutoscaler) bool { return h.Status.DesiredReplicas == hpaMax })
	if err != nil {
		return err
	}
	s.figure("from load to maximum desired")
	if err := s.e.within(ctx, deploymentPatience, fmt.Sprintf("%d pods are ready", hpaMax), func(context.Context) (bool, error) {
		return s.readyNow() == hpaMax, fmt.Errorf("%d pods are ready", s.readyNow())
	}); err != nil {
		return err
	}
	s.figure("from load to maximum ready")
	pods, err := s.e.Pods(ctx, selector(s.e))
	if err != nil {
		return err
	}
	return s.e.reachable(ctx, podNames(pods))
}

// holds waits for a decision with all pods there and a metric that asks for more: there must be no more, and the status
// says why.
func (s *scaling) holds(ctx context.Context) error {
	err := s.follow(ctx, "its maximum is not tested", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		use, has := utilization(h)
		return has && h.Status.CurrentReplicas == hpaMax && float64(use) > hpaTarget*(1+hpaTolerance) && h.Status.DesiredReplicas == hpaMax && limited(h)
	})
	if err != nil {
		return err
	}
	if _, most := s.pods.extremes(); most > hpaMax {
		return mismatch(fmt.Sprintf("never more than %d pods", hpaMax), "%d pods", most)
	}
	return nil
}

// limited says whether the status tells that the maximum is what holds it.
func limited(h *autoscalingv2.HorizontalPodAutoscaler) bool {
	for _, c := range h.Status.Conditions {
		if c.Type == autoscalingv2.ScalingLimited {
			return c.Status == corev1.ConditionTrue && c.Reason == "TooManyReplicas"
		}
	}
	return false
}

func (s *scaling) readyNow() int {
	n := 0
	for _, p := range s.pods.now() {
		if fixtures.PodReady(&p) {
			n++
		}
	}
	return n
}

func (s *scaling) figure(name string) { s.e.Figure(name, time.Since(s.start).Seconds(), "s") }

// follow judges every decision until one is what is waited for.
func (s *scaling) follow(ctx context.Context, otherwise string, done func(*autoscalingv2.HorizontalPodAutoscaler) bool) error {
	timeout := time.NewTimer(hpaPatience)
	defer timeout.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("follow the autoscaler: %w", context.Cause(ctx))
		case <-timeout.C:
			return mismatch("pods to match the load", "%s within %s: %s", otherwise, hpaPatience, said(s.last))
		case event, open := <-s.decisions:
			if !open {
				return errors.New("follow the autoscaler: the watch ended")
			}
			h, ok := event.Object.(*autoscalingv2.HorizontalPodAutoscaler)
			if !ok {
				continue
			}
			s.note(h)
			if err := s.judge(h); err != nil {
				return err
			}
			if done(h) {
				return nil
			}
		}
	}
}

// note keeps a decision for the report.
func (s *scaling) note(h *autoscalingv2.HorizontalPodAutoscaler) {
	s.last = h
	at := time.Since(s.start).Seconds()
	s.desired.Points = append(s.desired.Points, Point{at, float64(h.Status.DesiredReplicas)})
	if use, has := utilization(h); has {
		s.use.Points = append(s.use.Points, Point{at, float64(use)})
	}
}

// judge holds one decision against the formula.
func (s *scaling) judge(h *autoscalingv2.HorizontalPodAutoscaler) error {
	use, has := utilization(h)
	if !has {
		return nil // no metric, no decision
	}
	current, desired := h.Status.CurrentReplicas, h.Status.DesiredReplicas
	low, high := formula(current, use)
	got := fmt.Sprintf("%d pods use %d %% of their request and %d are desired", current, use, desired)
	want := fmt.Sprintf("%d to %d desired: ceil(%d × %d %% / %d %%), from %d to %d", low, high, current, use, hpaTarget, hpaMin, hpaMax)
	switch {
	case current == s.settled && low > current && desired <= current:
		return mismatch(want, "did not scale out: %s", got)
	case current == s.settled && (desired < low || desired > high):
		return mismatch(want, "another number: %s", got)
	case current > s.settled && float64(use) > hpaTarget && (desired < current || desired > high):
		return mismatch(want, "another number: %s", got)
	case desired < hpaMin || desired > hpaMax:
		return mismatch(want, "out of bounds: %s", got)
	}
	return nil
}

// formula is what the autoscaler must desire. At the very edge of the tolerance both answers are right.
func formula(current, use int32) (low, high int32) {
	ratio := float64(use) / hpaTarget
	wanted := min(max(int32(math.Ceil(ratio*float64(current))), hpaMin), hpaMax)
	const edge = 1e-9
	switch off := math.Abs(1 - ratio); {
	case off < hpaTolerance-edge:
		return current, current
	case off > hpaTolerance+edge:
		return wanted, wanted
	default:
		return min(current, wanted), max(current, wanted)
	}
}

// utilization is the metric that a decision was made with.
func utilization(h *autoscalingv2.HorizontalPodAutoscaler) (percent int32, has bool) {
	for _, m := range h.Status.CurrentMetrics {
		if m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Current.AverageUtilization != nil {
			return *m.Resource.Current.AverageUtilization, true
		}
	}
	return 0, false
}

// said is what the autoscaler tells of itself.
func said(h *autoscalingv2.HorizontalPodAutoscaler) string {
	if h == nil {
		return "it decided nothing"
	}
	parts := []string{fmt.Sprintf("current %d, desired %d", h.Status.CurrentReplicas, h.Status.DesiredReplicas)}
	if use, has := utilization(h); has {
		parts = append(parts, fmt.Sprintf("CPU %d %%", use))
	}
	for _, q := range readings(h) {
		parts = append(parts, "metric "+q.String())
	}
	for _, c := range h.Status.Conditions {
		parts = append(parts, fmt.Sprintf("%s %s (%s)", c.Type, c.Status, c.Reason))
	}
	return strings.Join(parts, ", ")
}

// shares judges how fresh connections spread over the pods.
func (e *Env) shares(ctx context.Context) error {
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	n := hpaAnswers()
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: n, Connections: 2, Policy: loadgen.Fresh, Timeout: loadTimeout})
	if err != nil {
		return err
	}
	if err := reached("after the scale-out", xs, pod, podNames(pods)); err != nil {
		return err
	}
	seen := countBy(xs, pod)
	ranges := stats.MultinomialRanges(n, hpaShares(), 1e-6)
	m := mismatch("an even share for each pod", "%s", counts(seen))
	off := false
	for i, name := range sortedKeys(seen) {
		m.Distribution = append(m.Distribution, Bar{
			Name: name, Count: float64(seen[name]), Low: float64(ranges[i].Low), High: float64(ranges[i].High), Expected: float64(n) / hpaMax,
		})
		off = off || !ranges[i].Contains(seen[name])
	}
	if off {
		return m
	}
	return nil
}
