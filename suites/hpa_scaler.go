// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"
)

// decisionLimit covers two of the controller's own periods of 15 s: from Kubernetes 1.37 on a change of the spec asks for a
// decision at once, before only the period does.
const decisionLimit = 40 * time.Second

// unscheduled is the scheduler of pods that need not run: there is none of the name.
const unscheduled = "nobody"

// scaler follows one autoscaler whose metric the case sets.
type scaler struct {
	e      *Env
	name   string // of the autoscaler
	target string // of the Deployment that it scales
	source string // of the pod that tells the metric
	// whole says that the target is for the metric as it is, not for each pod's part of it.
	whole  bool
	perPod float64 // the target
	// period is that of its policies: what was scaled this long ago limits nothing any more.
	period time.Duration

	events <-chan watch.Event
	last   *autoscalingv2.HorizontalPodAutoscaler
	scaled time.Time // when it was last seen to have scaled
	asked  int64     // generation of its spec since the metric was set

	told        float64   // the metric as it was set last
	calm, moved time.Time // of the last step: before the calm at its begin, and before the metric was moved
}

// scaleStep sets the metric while so many pods are there and judges what the autoscaler then decides.
type scaleStep struct {
	what   string
	from   int32
	metric float64
	want   int32
	reason string // of one of its conditions; "" = any
}

// scaler follows the autoscaler of the suffix, which scales the Deployment of the same name, with the metric of a pod that is
// no part of it.
func (e *Env) scaler(ctx context.Context, suffix string) (*scaler, error) {
	s, err := e.scalerBy(ctx, suffix, selector(e)+"-source,part!=other")
	if err == nil {
		e.Undo(s.rest)
	}
	return s, err
}

// rest has the autoscaler leave its Deployment without pods, as the manifests have it where pods need not run: one that
// it still wants would be waited for in vain.
func (s *scaler) rest(ctx context.Context) error {
	d, err := s.e.Kube.AppsV1().Deployments(s.e.Namespace()).Get(ctx, s.target, metav1.GetOptions{})
	if err != nil || d.Spec.Template.Spec.SchedulerName != unscheduled {
		return err
	}
	if err := s.set(ctx, 0); err != nil {
		return err
	}
	release, err := s.place(ctx, 0)
	if err != nil {
		return err
	}
	_, err = release(ctx)
	return err
}

// scalerBy is scaler with the metric of a pod that a selector chooses. Should that be one of those that are scaled, it
// is the last to go.
func (e *Env) scalerBy(ctx context.Context, suffix, source string) (*scaler, error) {
	pods, err := e.Pods(ctx, source)
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, errors.New("no pod tells the metric")
	}
	// One that an earlier check chose stays the source.
	chosen := max(0, slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Annotations[corev1.PodDeletionCost] != "" }))
	source = pods[chosen].Name
	if err := e.annotate(ctx, source, corev1.PodDeletionCost, "100"); err != nil {
		return nil, err
	}
	s := &scaler{e: e, name: e.Name() + suffix, target: e.Name() + suffix, source: source, perPod: 10, period: time.Second}
	api := e.Kube.AutoscalingV2().HorizontalPodAutoscalers(e.Namespace())
	only := fields.OneTermEqualSelector("metadata.name", s.name).String()
	list, err := api.List(ctx, metav1.ListOptions{FieldSelector: only})
	if err != nil {
		return nil, fmt.Errorf("list autoscalers: %w", err)
	}
	if len(list.Items) == 1 {
		s.last = &list.Items[0]
		if at := s.last.Status.LastScaleTime; at != nil {
			s.scaled = at.Add(time.Second) // it is cut to whole seconds
		}
	}
	// Undoing goes on when the check's own time is over.
	w, err := watchtools.NewRetryWatcherWithContext(context.WithoutCancel(ctx), list.ResourceVersion, selectedWatch(func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = only
		return api.Watch(ctx, o)
	}))
	if err != nil {
		return nil, fmt.Errorf("watch autoscalers: %w", err)
	}
	s.events = w.ResultChan()
	e.Undo(func(context.Context) error { w.Stop(); return nil })
	return s, nil
}

// steps are judged one after another on one autoscaler.
func (e *Env) steps(ctx context.Context, suffix string, steps ...scaleStep) error {
	s, err := e.scaler(ctx, suffix)
	if err != nil {
		return err
	}
	for _, step := range steps {
		if err := s.step(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func (e *Env) annotate(ctx context.Context, pod, key, value string) error {
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value)
	if _, err := e.Kube.CoreV1().Pods(e.Namespace()).Patch(ctx, pod, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("annotate pod %s: %w", pod, err)
	}
	return nil
}

// misread is how often a step is begun again because the decision was made with another metric than the one set: a pod that
// does not answer its scrape in time is left out. After that it is the autoscaler that reads another.
const misread = 2

// step begins again where a decision was made but not told: the controller's own write of its status can meet a change of the
// spec and is dropped then.
func (s *scaler) step(ctx context.Context, step scaleStep) error {
	for others := 0; ; {
		s.calm = time.Now()
		err := s.begin(ctx, step.what, step.from)
		if err == nil {
			s.moved = time.Now()
			err = s.judged(ctx, step)
		}
		switch {
		case errors.Is(err, errUntold):
		case asMismatch(err) != nil && s.last != nil && !s.shows(s.last, step.from) && others < misread:
			others++
		default:
			return err
		}
	}
}

var errUntold = errors.New("the autoscaler has decided, and not told what")

// judged is a step from where the pods are.
func (s *scaler) judged(ctx context.Context, step scaleStep) error {
	want := fmt.Sprintf("%s: %d pods become %d", step.what, step.from, step.want)
	if err := s.set(ctx, step.metric); err != nil {
		return err
	}
	if err := s.decides(ctx, want, func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return s.reads(h, step.from)
	}); err != nil {
		return err
	}
	if s.last.Status.CurrentReplicas != step.from {
		return errUntold
	}
	return s.judge(ctx, want, step)
}

// judge holds the last decision against the step.
func (s *scaler) judge(ctx context.Context, want string, step scaleStep) error {
	if got := s.last.Status.DesiredReplicas; got != step.want {
		return mismatch(want, "%s: %d desired (%s)", step.what, got, said(s.last))
	}
	if step.reason != "" && !has(s.last, step.reason) {
		return mismatch(want+", for the reason "+step.reason, "%s: %s", step.what, said(s.last))
	}
	if step.want == step.from {
		return nil
	}
	if !has(s.last, "SucceededRescale") {
		return mismatch(want, "%s: decided, not done (%s)", step.what, said(s.last))
	}
	// A limited step may have been followed by the next one already.
	return s.e.within(ctx, controllerLimit, want, func(ctx context.Context) (bool, error) {
		d, err := s.e.Kube.AppsV1().Deployments(s.e.Namespace()).Get(ctx, s.target, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		now := d.Status.Replicas
		return step.want > step.from && now >= step.want || step.want < step.from && now <= step.want, fmt.Errorf("%s: the Deployment has %d", step.what, now)
	})
}

// begin brings the Deployment to so many pods, and the metric to what so many are for, until the autoscaler agrees.
func (s *scaler) begin(ctx context.Context, what string, pods int32) error {
	for {
		if err := s.begun(ctx, what, pods); !errors.Is(err, errUntold) {
			return err
		}
	}
}

func (s *scaler) begun(ctx context.Context, what string, pods int32) error {
	calm := s.perPod * float64(pods)
	if s.whole {
		calm = s.perPod
	}
	if err := s.set(ctx, calm); err != nil {
		return err
	}
	release, err := s.place(ctx, pods)
	if err != nil {
		return err
	}
	want := fmt.Sprintf("%s: at first %d pods at their target", what, pods)
	if err := s.decidesOn(ctx, release, want, func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return s.reads(h, pods)
	}); err != nil {
		return err
	}
	if s.last.Status.CurrentReplicas != pods {
		return errUntold
	}
	if got := s.last.Status.DesiredReplicas; got != pods {
		return mismatch(want, "%s: at first %d desired (%s)", what, got, said(s.last))
	}
	return s.e.Until(ctx, "the policies' period has passed", func(context.Context) (bool, error) {
		return time.Since(s.scaled) > s.period+100*time.Millisecond, nil
	})
}

// place brings the Deployment to so many pods, which the autoscaler cannot change until it is released.
func (s *scaler) place(ctx context.Context, pods int32) (release func(context.Context) (int64, error), err error) {
	h, err := s.e.Kube.AutoscalingV2().HorizontalPodAutoscalers(s.e.Namespace()).Get(ctx, s.name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the autoscaler: %w", err)
	}
	bounds := [2]int32{ptr.Deref(h.Spec.MinReplicas, 1), h.Spec.MaxReplicas}
	held := max(pods, 1) // none is no bound, but one by hand stays
	if _, err := s.bound(ctx, held, held); err != nil {
		return nil, err
	}
	release = func(ctx context.Context) (int64, error) { return s.bound(ctx, bounds[0], bounds[1]) }
	// It may have been about to scale.
	for _, now := range []int32{held, pods} {
		if err := s.scaleTo(ctx, now); err != nil {
			return nil, err
		}
	}
	return release, nil
}

// bound sets the autoscaler's least and most pods and returns the generation.
func (s *scaler) bound(ctx context.Context, least, most int32) (int64, error) {
	patch := fmt.Sprintf(`{"spec":{"minReplicas":%d,"maxReplicas":%d}}`, least, most)
	h, err := s.e.Kube.AutoscalingV2().HorizontalPodAutoscalers(s.e.Namespace()).
		Patch(ctx, s.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "harness-check"})
	if err != nil {
		return 0, fmt.Errorf("set the autoscaler's bounds: %w", err)
	}
	return h.Generation, nil
}

// scaleTo sets the replicas by hand, and waits until there are as many: an autoscaler counts those that are.
func (s *scaler) scaleTo(ctx context.Context, pods int32) error {
	api := s.e.Kube.AppsV1().Deployments(s.e.Namespace())
	return s.e.within(ctx, decisionLimit, fmt.Sprintf("%d pods after scaling by hand", pods), func(ctx context.Context) (bool, error) {
		d, err := api.Get(ctx, s.target, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		// A decision under way is written over what it meets.
		if ptr.Deref(d.Spec.Replicas, 1) != pods {
			scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: s.target, Namespace: s.e.Namespace()}, Spec: autoscalingv1.ScaleSpec{Replicas: pods}}
			if _, err := api.UpdateScale(ctx, s.target, scale, metav1.UpdateOptions{FieldManager: "harness-check"}); err != nil {
				return false, fmt.Errorf("scale to %d: %w", pods, err)
			}
			return false, errors.New("it is being scaled")
		}
		if s.whole && d.Status.ReadyReplicas != pods { // ready pods are what is counted then
			return false, fmt.Errorf("%d ready", d.Status.ReadyReplicas)
		}
		return d.Status.Replicas == pods && d.Status.ObservedGeneration >= d.Generation, fmt.Errorf("%d", d.Status.Replicas)
	})
}

// set has the source tell another value.
func (s *scaler) set(ctx context.Context, v float64) error {
	s.told = v
	return s.e.tell(ctx, s.source, v)
}

// tell sets the metric echo_custom of a pod.
func (e *Env) tell(ctx context.Context, pod string, v float64) error {
	_, err := e.Control(ctx, http.MethodPost, pod, "/control", url.Values{"custom": {strconv.FormatFloat(v, 'f', -1, 64)}})
	return err
}

// decides asks for decisions until one counts.
func (s *scaler) decides(ctx context.Context, want string, counts func(*autoscalingv2.HorizontalPodAutoscaler) bool) error {
	return s.decidesOn(ctx, s.ask, want, counts)
}

// decidesOn asks in another way at first.
func (s *scaler) decidesOn(ctx context.Context, ask func(context.Context) (int64, error), want string, counts func(*autoscalingv2.HorizontalPodAutoscaler) bool) (err error) {
	limit, again := time.NewTimer(decisionLimit), time.NewTicker(time.Second)
	defer limit.Stop()
	defer again.Stop()
	if s.asked, err = ask(ctx); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("follow the autoscaler: %w", context.Cause(ctx))
		case <-limit.C:
			return mismatch(want, "no such decision within %s: %s", decisionLimit, said(s.last))
		case <-again.C:
			if _, err := s.ask(ctx); err != nil {
				return err
			}
		case event, open := <-s.events:
			if !open {
				return errors.New("follow the autoscaler: the watch ended")
			}
			h, ok := event.Object.(*autoscalingv2.HorizontalPodAutoscaler)
			if !ok || event.Type == watch.Deleted {
				continue
			}
			if has(h, "SucceededRescale") { // its own time has whole seconds
				s.scaled = time.Now()
			}
			s.last = h
			if counts(h) {
				return nil
			}
		}
	}
}

// ask makes a change of the spec that means nothing, for which the autoscaler decides at once, and returns the generation.
func (s *scaler) ask(ctx context.Context) (int64, error) {
	api := s.e.Kube.AutoscalingV2().HorizontalPodAutoscalers(s.e.Namespace())
	h, err := api.Get(ctx, s.name, metav1.GetOptions{})
	if err != nil {
		return 0, fmt.Errorf("read the autoscaler: %w", err)
	}
	const far = 20 // a maximum that no step comes near
	path, value := "/spec/maxReplicas", 2*far+1-h.Spec.MaxReplicas
	if h.Spec.MaxReplicas < far {
		path, value = "/spec/behavior/scaleUp/policies/0/periodSeconds", 3-h.Spec.Behavior.ScaleUp.Policies[0].PeriodSeconds
	}
	patch := fmt.Sprintf(`[{"op": "replace", "path": %q, "value": %d}]`, path, value)
	h, err = api.Patch(ctx, s.name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{FieldManager: "harness-check"})
	if err != nil {
		return 0, fmt.Errorf("ask the autoscaler: %w", err)
	}
	return h.Generation, nil
}

// reads says whether a decision was made with the metric as it was set last: it was asked for since, or, with so many pods, has
// it in its status.
func (s *scaler) reads(h *autoscalingv2.HorizontalPodAutoscaler, pods int32) bool {
	return s.since(h) || h.Status.CurrentReplicas == pods && s.shows(h, pods)
}

// shows says whether a decision's status has the metric as it was set last.
func (s *scaler) shows(h *autoscalingv2.HorizontalPodAutoscaler, pods int32) bool {
	parts := int64(pods)
	if s.whole {
		parts = 1
	}
	return slices.ContainsFunc(readings(h), func(q resource.Quantity) bool {
		off := q.MilliValue() - int64(s.told*1000)/parts
		return off == 0 || off == 1 // the controller rounds up
	})
}

// since says whether a decision was made after it was asked for.
func (s *scaler) since(h *autoscalingv2.HorizontalPodAutoscaler) bool {
	return h.Status.ObservedGeneration != nil && *h.Status.ObservedGeneration >= s.asked
}

// readings are the metrics that a decision was made with, but for parts of requests.
func readings(h *autoscalingv2.HorizontalPodAutoscaler) []resource.Quantity {
	var out []resource.Quantity
	for _, m := range h.Status.CurrentMetrics {
		switch v := current(m); {
		case v.AverageValue != nil:
			out = append(out, *v.AverageValue)
		case v.Value != nil:
			out = append(out, *v.Value)
		}
	}
	return out
}

// current is a metric's value, wherever it comes from.
func current(m autoscalingv2.MetricStatus) autoscalingv2.MetricValueStatus {
	switch {
	case m.External != nil:
		return m.External.Current
	case m.Object != nil:
		return m.Object.Current
	case m.Pods != nil:
		return m.Pods.Current
	case m.Resource != nil:
		return m.Resource.Current
	case m.ContainerResource != nil:
		return m.ContainerResource.Current
	default:
		return autoscalingv2.MetricValueStatus{}
	}
}

// has says whether one of the conditions has the reason.
func has(h *autoscalingv2.HorizontalPodAutoscaler, reason string) bool {
	return slices.ContainsFunc(h.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Reason == reason })
}
