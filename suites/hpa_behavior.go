// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// The windows and the period of the fixtures.
const (
	upWindow, downWindow = 4 * time.Second, 6 * time.Second
	slowPeriod           = 6 * time.Second
)

const judgedByDecision = "exact: the metric is set while a known number of pods is there, and the first decision made with that value is what the formula and the behaviour say; " +
	"pods that need not run are not started"

// hpaBehavior are how far, how often and how readily an autoscaler scales.
func hpaBehavior() []Case {
	return []Case{
		decisionCase("Policies", "policies", "Of several policies the largest change, the smallest or none at all is what one period allows, up and down.",
			func(ctx context.Context, e *Env) error {
				up := func(what string, want int32) scaleStep { return scaleStep{what + " up", 2, 100, want, ""} }
				down := func(what string, want int32) scaleStep { return scaleStep{what + " down", 4, 10, want, ""} }
				return errors.Join(
					e.steps(ctx, "-max", up("the largest", 4), down("the largest", 2)),
					e.steps(ctx, "-min", up("the smallest", 3), down("the smallest", 3)),
					e.steps(ctx, "-off", up("none", 2), down("none", 4)),
				)
			},
			[]string{
				"behavior.scaleUp.selectPolicy", "behavior.scaleUp.policies[].type", "behavior.scaleUp.policies[].value",
				"behavior.scaleDown.selectPolicy", "behavior.scaleDown.policies[].type", "behavior.scaleDown.policies[].value",
			},
			Control{Break: "HorizontalPodAutoscaler/-max spec.behavior.scaleUp.selectPolicy=Min; HorizontalPodAutoscaler/-min spec.behavior.scaleDown.policies[0].value=2", Fails: "the largest up: 3 desired"},
			Control{Break: "HorizontalPodAutoscaler/-off spec.behavior.scaleUp.selectPolicy=Max", Fails: "none up: 4 desired"},
			Control{Break: "HorizontalPodAutoscaler/-min spec.behavior.scaleDown.selectPolicy=Max; HorizontalPodAutoscaler/-off spec.behavior.scaleDown.selectPolicy=Max", Fails: "the smallest down: 2 desired"},
			Control{Break: "HorizontalPodAutoscaler/-max spec.behavior.scaleUp.policies[1].type=Pods; HorizontalPodAutoscaler/-max spec.behavior.scaleDown.policies[1].value=100", Fails: "the largest up: 10 desired"},
		),
		decisionCase("PolicyPeriod", "policy-period", fmt.Sprintf("What a policy allows, up or down, it allows once in its period of %s.", slowPeriod), checkPolicyPeriod,
			[]string{"behavior.scaleUp.policies[].periodSeconds", "behavior.scaleDown.policies[].periodSeconds"},
			Control{Break: "HorizontalPodAutoscaler spec.behavior.scaleUp.policies[0].periodSeconds=1", Fails: "after the step before"},
			Control{Break: "HorizontalPodAutoscaler spec.behavior.scaleDown.policies[0].periodSeconds=1", Fails: "down: the next"},
		),
		decisionCase("StabilizationWindow", "stabilization", fmt.Sprintf("Before it adds pods an autoscaler waits until the need has lasted for %s, and before it takes some away, %s.", upWindow, downWindow), checkStabilization,
			[]string{"behavior.scaleUp.stabilizationWindowSeconds", "behavior.scaleDown.stabilizationWindowSeconds"},
			Control{Break: "HorizontalPodAutoscaler spec.behavior.scaleUp.stabilizationWindowSeconds=0", Fails: "up: 4 desired"},
			Control{Break: "HorizontalPodAutoscaler spec.behavior.scaleDown.stabilizationWindowSeconds=0", Fails: "down: 2 desired"},
			Control{Break: "HorizontalPodAutoscaler spec.behavior.scaleDown.stabilizationWindowSeconds=2", Fails: "down: after "},
		),
		func() Case {
			c := decisionCase("Tolerance", "tolerance", "An autoscaler leaves the pods alone while the metric is off by less than its tolerance, which up and down have each their own.",
				func(ctx context.Context, e *Env) error {
					return e.steps(ctx, "",
						scaleStep{"25 % above", 4, 50, 4, ""}, scaleStep{"50 % above", 4, 60, 6, ""},
						scaleStep{"35 % below", 4, 26, 4, ""}, scaleStep{"50 % below", 4, 20, 2, ""})
				},
				[]string{"behavior.scaleUp.tolerance", "behavior.scaleDown.tolerance"},
				Control{Break: "HorizontalPodAutoscaler spec.behavior.scaleUp.tolerance=0.1", Fails: "25 % above: 5 desired"},
				Control{Break: "HorizontalPodAutoscaler spec.behavior.scaleDown.tolerance=0.1", Fails: "35 % below: 3 desired"},
				Control{Break: "HorizontalPodAutoscaler spec.behavior.scaleUp.tolerance=0.6", Fails: "50 % above: 4 desired"},
			)
			c.Needs = append(c.Needs, ScaleTolerance)
			return c
		}(),
		decisionCase("Bounds", "bounds", "There are never fewer pods than minReplicas nor more than maxReplicas, and the status says which of them holds.",
			func(ctx context.Context, e *Env) error {
				return e.steps(ctx, "", scaleStep{"the minimum", 2, 5, 2, "TooFewReplicas"}, scaleStep{"the maximum", 3, 100, 4, "TooManyReplicas"})
			},
			[]string{"minReplicas", "maxReplicas"},
			Control{Break: "HorizontalPodAutoscaler spec.minReplicas=1", Fails: "the minimum: 1 desired"},
			Control{Break: "HorizontalPodAutoscaler spec.maxReplicas=10", Fails: "the maximum: 10 desired"},
		),
		func() Case {
			c := decisionCase("ScaleToZero", "scale-to-zero", "An autoscaler whose minimum is zero leaves no pod when nothing is to be done and begins again when something is; one whose minimum is one keeps it, and leaves alone what somebody else has scaled to zero.",
				checkScalesToZero, []string{"minReplicas"},
				Control{Break: "HorizontalPodAutoscaler/-zero spec.minReplicas=1", Fails: "no work: 1 desired"},
				Control{Break: "HorizontalPodAutoscaler/-one spec.minReplicas=0", Fails: "one at least: 0 desired"},
			)
			c.Needs = append(c.Needs, ScaleToZero)
			return c
		}(),
	}
}

// decisionCase completes a case about autoscalers that count pods which need not run. Covers are fields of its spec.
func decisionCase(name, fixture, doc string, check func(context.Context, *Env) error, covers []string, controls ...Control) Case {
	for i, field := range covers {
		covers[i] = "HorizontalPodAutoscaler.spec." + field
	}
	return Case{
		Name: "HPA/" + name, Doc: doc, Fixture: "hpa/" + fixture + ".yaml", Needs: []Capability{CustomMetrics}, Workload: Own,
		Judged: judgedByDecision, Timeout: 3 * time.Minute, Covers: covers, Check: check, Controls: controls,
	}
}

// checkPolicyPeriod lets one pod be added and one taken away, twice each. The time is taken from before the first step was
// asked for to when the second one was seen, so that it is never less than what lies between them.
func checkPolicyPeriod(ctx context.Context, e *Env) error {
	s, err := e.scaler(ctx, "")
	if err != nil {
		return err
	}
	s.period = slowPeriod
	for _, way := range []struct {
		what         string
		from         int32
		metric       float64
		first, later int32
	}{{"up", 2, 100, 3, 4}, {"down", 5, 10, 4, 3}} {
		if err := s.step(ctx, scaleStep{way.what, way.from, way.metric, way.first, ""}); err != nil {
			return err
		}
		want := fmt.Sprintf("%s: the next pod %s after the step before", way.what, slowPeriod)
		if err := s.decides(ctx, want, func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
			return h.Status.DesiredReplicas == way.later
		}); err != nil {
			return err
		}
		if passed := time.Since(s.moved); passed < slowPeriod {
			return mismatch(want, "%s: the next %s after the step before", way.what, passed.Round(time.Millisecond))
		}
	}
	return nil
}

// checkStabilization sets the metric to what asks for a change, twice: at first nothing may happen. The time is taken from
// before the last decision that did not want the change was asked for.
func checkStabilization(ctx context.Context, e *Env) error {
	s, err := e.scaler(ctx, "")
	if err != nil {
		return err
	}
	for _, way := range []struct {
		step   scaleStep
		window time.Duration
		then   int32
	}{
		{scaleStep{"up", 2, 40, 2, "ScaleUpStabilized"}, upWindow, 4},
		{scaleStep{"down", 4, 20, 4, "ScaleDownStabilized"}, downWindow, 2},
	} {
		err := s.step(ctx, way.step)
		for asMismatch(err) != nil && time.Since(s.moved) > way.window { // the decision came when the window was over
			err = s.step(ctx, way.step)
		}
		if err != nil {
			return err
		}
		want := fmt.Sprintf("%s: %d pods become %d after %s", way.step.what, way.step.from, way.then, way.window)
		if err := s.decides(ctx, want, func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
			return h.Status.DesiredReplicas != way.step.from
		}); err != nil {
			return err
		}
		passed := time.Since(s.calm)
		e.Figure(way.step.what+": from need to change", passed.Seconds(), "s")
		if got := s.last.Status.DesiredReplicas; got != way.then || passed < way.window {
			return mismatch(want, "%s: after %s %d desired (%s)", way.step.what, passed.Round(time.Millisecond), got, said(s.last))
		}
	}
	return nil
}

func checkScalesToZero(ctx context.Context, e *Env) error {
	s, err := e.scaler(ctx, "-zero")
	if err != nil {
		return err
	}
	if err := s.step(ctx, scaleStep{"no work", 2, 0, 0, "ScaledToZero"}); err != nil {
		return err
	}
	if err := s.set(ctx, 30); err != nil {
		return err
	}
	const want = "work again: 0 pods become 3"
	if err := s.decides(ctx, want, func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return h.Status.CurrentReplicas > 0 && s.since(h) || h.Status.CurrentReplicas == 0 && h.Status.DesiredReplicas > 0
	}); err != nil {
		return err
	}
	// Where the decision itself was not told its work is seen.
	if now := s.last.Status; max(now.CurrentReplicas, now.DesiredReplicas) != 3 {
		return mismatch(want, "work again: %s", said(s.last))
	}
	if s, err = e.scaler(ctx, "-one"); err != nil {
		return err
	}
	if err := s.step(ctx, scaleStep{"one at least", 2, 0, 1, "TooFewReplicas"}); err != nil {
		return err
	}
	if err := s.scaleTo(ctx, 0); err != nil {
		return err
	}
	return s.decides(ctx, "what somebody has scaled to zero is left alone, for the reason ScalingDisabled", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return h.Status.CurrentReplicas == 0 && has(h, "ScalingDisabled")
	})
}
