// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"harness.example/harness/internal/stats"
)

const (
	// warmPicks on one connection, and so in one Envoy worker, give each of three equal pods four turns. A pod with a tenth
	// of the weight has its first one after twenty of the two others'.
	warmPicks, warmFew = 12, 1
	// warmRest is what it may take until the turns of a pod that has warmed up are regular.
	warmRest = 24
	// warmAge is how long the proxies must have known the old pods: far longer than they know a new one.
	warmAge = time.Second
	// warmWindow is what warmup-deprecated.yaml says.
	warmWindow = 6 * time.Second
)

func warmupCases() []Case {
	const lb = "DestinationRule.spec.trafficPolicy.loadBalancer."
	judged := fmt.Sprintf("exact: in Envoy's schedule a pod comes after as many turns of the others as it weighs less than them; of %d requests on one connection a pod of a tenth of their weight or less gets at most %d, one of their own weight %d",
		warmPicks, warmFew, warmPicks/turnEndpoints)
	return []Case{
		{
			Name:     "DestinationRule/Warmup",
			Doc:      "A pod that is new gets a smaller share than those that have been there: by its age, the aggression and a minimum.",
			Fixture:  "destinationrule/warmup.yaml",
			Judged:   judged,
			Workload: Own,
			Covers:   []string{lb + "warmup.duration", lb + "warmup.minimumPercent", lb + "warmup.aggression"},
			Check: func(ctx context.Context, e *Env) error {
				if err := grow(ctx, e, time.Now().Add(warmAge)); err != nil {
					return err
				}
				if err := joins(ctx, e); err != nil {
					return err
				}
				return spared(ctx, e)
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.warmup.duration=0.001s", Fails: "the new pod is not spared"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.warmup.minimumPercent=100", Fails: "the new pod is not spared"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.warmup.aggression=100", Fails: "the new pod is not spared"},
			},
		},
		{
			Name:     "DestinationRule/WarmupDeprecated",
			Doc:      "The field that used to hold the duration still spares a new pod, and when it is over the pod takes its turns.",
			Fixture:  "destinationrule/warmup-deprecated.yaml",
			Judged:   judged + fmt.Sprintf("; after %s any %d picks in a row are distinct, once the turns that were set before are over", warmWindow, turnEndpoints),
			Workload: Own,
			Covers:   []string{lb + "warmupDurationSecs"},
			Check:    checkWarmupOver,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.warmupDurationSecs=", Fails: "the new pod is not spared"},
			},
		},
	}
}

// checkWarmupOver lets the old pods warm up, judges the new one while it warms up, and again afterwards.
func checkWarmupOver(ctx context.Context, e *Env) error {
	if err := grow(ctx, e, time.Now().Add(warmWindow)); err != nil {
		return err
	}
	start := time.Now()
	if err := joins(ctx, e); err != nil {
		return err
	}
	known := time.Now()
	if err := spared(ctx, e); err != nil {
		return err
	}
	if took := time.Since(start); took > warmWindow {
		return fmt.Errorf("took %s: whether a pod is spared for %s cannot be judged", took, warmWindow)
	}
	if err := grow(ctx, e, known.Add(warmWindow)); err != nil {
		return err
	}
	picks, err := picksOn(ctx, e, warmRest+warmPicks)
	if err != nil {
		return err
	}
	if err := stats.Cycle(picks[warmRest:], turnEndpoints, 1); err != nil {
		return &Mismatch{Want: "turns over all pods when the warm-up is over", Got: err.Error(), Distribution: turns(picks[warmRest:])}
	}
	return nil
}

// grow waits until a time: age is what a warm-up goes by.
func grow(ctx context.Context, e *Env, until time.Time) error {
	return e.Until(ctx, "the pods are old enough", func(context.Context) (bool, error) { return !time.Now().Before(until), nil })
}

// joins puts the new pod behind the Service and returns when the proxies know it. It leaves again with the check.
func joins(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "age=new")
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		return fmt.Errorf("%d new pods are ready, want 1", len(pods))
	}
	serve := func(ctx context.Context, value string) error {
		patch := fmt.Appendf(nil, `{"metadata": {"labels": {"serves": %s}}}`, value)
		if _, err := e.Kube.CoreV1().Pods(e.Namespace()).Patch(ctx, pods[0].Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("change the new pod's label: %w", err)
		}
		return nil
	}
	e.Undo(func(ctx context.Context) error { return serve(ctx, "null") })
	if err := serve(ctx, `"yes"`); err != nil {
		return err
	}
	return e.Live(ctx)
}

// spared judges that the new pod gets less than its turns.
func spared(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "age=new")
	if err != nil {
		return err
	}
	picks, err := picksOn(ctx, e, warmPicks)
	if err != nil {
		return err
	}
	got := 0
	for _, name := range picks {
		if len(pods) == 1 && name == pods[0].Name {
			got++
		}
	}
	if got > warmFew {
		return &Mismatch{
			Want: fmt.Sprintf("at most %d of %d answers from the new pod", warmFew, warmPicks), Got: fmt.Sprintf("%d: the new pod is not spared", got),
			Distribution: turns(picks),
		}
	}
	return nil
}
