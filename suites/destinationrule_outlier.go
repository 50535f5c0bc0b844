// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"time"

	"harness.example/harness/loadgen"
)

// What the fixture says.
const (
	outlierErrors   = 5
	outlierBase     = 2 * time.Second
	outlierInterval = 200 * time.Millisecond
)

const (
	// outlierFaults requests tell the failing pod to fail: three times as many turns as it takes to leave it out.
	outlierFaults  = 3 * outlierErrors * turnEndpoints
	outlierSpacing = 20 * time.Millisecond
	// outlierMore: a worker counts the failures, but Envoy's main thread, which has other work too, leaves the endpoint out; so
	// some requests may still be on their way to it.
	outlierMore = outlierErrors
	// outlierSilence turns in a row without the pod are an ejection: in turns, it would have answered one of three.
	outlierSilence = 3 * turnEndpoints
	// outlierSlack is how late Envoy may be to let the pod back in.
	outlierSlack = 1500 * time.Millisecond
	// outlierRequests go on until the pod must be back.
	outlierRequests = outlierFaults + int((outlierBase+outlierInterval+outlierSlack)/outlierSpacing)
)

func outlierEjection() Case {
	return Case{
		Name:    "DestinationRule/OutlierEjection",
		Doc:     "An endpoint that fails a number of times in a row is left out, and comes back after its time.",
		Fixture: "destinationrule/outlier-detection.yaml",
		Judged: fmt.Sprintf("%d requests in a row on one connection, in turns over %d pods. Exact: %d reach the failing pod, and at most %d more until Envoy's main thread has left it out; it is back no sooner than %s after. It is back within %s more, the interval at which Envoy looks and what a busy machine adds",
			outlierRequests, turnEndpoints, outlierErrors, outlierMore, outlierBase, outlierInterval+outlierSlack),
		Covers: []string{
			"DestinationRule.spec.trafficPolicy.outlierDetection.consecutive5xxErrors", "DestinationRule.spec.trafficPolicy.outlierDetection.baseEjectionTime",
			"DestinationRule.spec.trafficPolicy.outlierDetection.interval", "DestinationRule.spec.trafficPolicy.outlierDetection.maxEjectionPercent",
		},
		Check: checkOutlier,
		Controls: []Control{
			{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutive5xxErrors=1000", Fails: "it was never left out"},
			{Break: "DestinationRule spec.trafficPolicy.outlierDetection.maxEjectionPercent=10", Fails: "it was never left out"},
			{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutive5xxErrors=1", Fails: "left out too soon, after 1 failure"},
			{Break: "DestinationRule spec.trafficPolicy.outlierDetection.baseEjectionTime=1.1s", Fails: "back too soon"},
			{Break: "DestinationRule spec.trafficPolicy.outlierDetection.interval=600s", Fails: "it did not come back"},
		},
	}
}

// turnPods are the names of the pods that take turns.
func turnPods(ctx context.Context, e *Env) ([]string, error) {
	pods, err := e.Pods(ctx, "app=echo,version=v1")
	if err != nil {
		return nil, err
	}
	if len(pods) != turnEndpoints {
		return nil, fmt.Errorf("%d pods of v1 are ready, want %d", len(pods), turnEndpoints)
	}
	return podNames(pods), nil
}

// inTurns sends everything over one connection: another worker has turns of its own, and another gateway pod would not know
// of an ejection.
func inTurns(ctx context.Context, e *Env, requests []loadgen.Request, spacing time.Duration) ([]loadgen.Exchange, error) {
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: requests, Count: len(requests), Interval: spacing})
	if err != nil {
		return nil, err
	}
	for _, x := range xs {
		if x.Conn != xs[0].Conn {
			return nil, fmt.Errorf("request %d went over another connection: an ejection cannot be judged", x.Seq)
		}
	}
	return xs, nil
}

func checkOutlier(ctx context.Context, e *Env) error {
	pods, err := turnPods(ctx, e)
	if err != nil {
		return err
	}
	failing := pods[0]
	requests := make([]loadgen.Request, outlierRequests)
	for i := range requests {
		requests[i] = e.URL("/")
		if i < outlierFaults {
			requests[i] = e.Commanded(requests[i], "status=503", "if-pod="+failing)
		}
	}
	xs, err := inTurns(ctx, e, requests, outlierSpacing)
	if err != nil {
		return err
	}
	for _, x := range xs {
		if x.Status != 200 && (x.Status != 503 || pod(x) != failing) {
			return &Mismatch{Want: "200 from every other pod", Got: describe(x), Exchanges: []loadgen.Exchange{x}}
		}
	}
	back, err := ejected(xs, failing)
	if err != nil {
		return err
	}
	e.Figure("from the ejection to the next answer", back.Seconds(), "s")
	return nil
}

// ejected judges the requests in order: the pod fails, is left out, and comes back. It returns how long it was out.
func ejected(xs []loadgen.Exchange, failing string) (time.Duration, error) {
	failed, silent := 0, 0
	var decisive, returned loadgen.Exchange // the failure that leaves it out, the first request it takes again
	for _, x := range xs {
		switch {
		case pod(x) != failing:
			silent++
			continue
		case silent >= outlierSilence && failed > 0:
			returned = x
		case x.Status == 503:
			if failed++; failed == outlierErrors {
				decisive = x
			}
		}
		if returned.Header != nil {
			break
		}
		silent = 0
	}
	want := fmt.Sprintf("%s left out after %d to %d failures in a row, back after %s", failing, outlierErrors, outlierErrors+outlierMore, outlierBase)
	switch {
	case returned.Header == nil && silent < outlierSilence:
		return 0, mismatch(want, "%d failures: it was never left out", failed)
	case failed < outlierErrors:
		return 0, mismatch(want, "left out too soon, after %d failure(s)", failed)
	case failed > outlierErrors+outlierMore:
		return 0, mismatch(want, "left out too late, after %d failures", failed)
	case returned.Header == nil:
		return 0, mismatch(want, "it did not come back within %.1f s", xs[len(xs)-1].Start.Sub(decisive.Start).Seconds())
	}
	// From before it can have been left out until after it was let in again: never less than the real time.
	out := returned.Start.Add(returned.Latency).Sub(decisive.Start)
	if out < outlierBase {
		return 0, mismatch(want, "back too soon, after %.2f s", out.Seconds())
	}
	return out, nil
}
