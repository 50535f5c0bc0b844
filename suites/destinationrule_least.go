// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"time"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

const (
	leastRate     = 250.0
	leastDuration = 2 * time.Second
	leastRequests = int(leastRate) * int(leastDuration/time.Second)
	// leastDelay has the slow pod hold many requests at a time; the others answer each before the next one comes.
	leastDelay = 400 * time.Millisecond
	leastLag   = 250 * time.Millisecond
)

// leastFew is the most that a slow pod may get: a balancer blind to load gives it fewer with a chance of at most routeAlpha/2.
func leastFew() int {
	low, _ := stats.BinomialRange(leastRequests, 1.0/turnEndpoints, routeAlpha)
	return low - 1
}

// leastSample takes a quarter more than the share that two draws give, for the moments when another pod is as busy.
func leastSample() Sample {
	const share = 1.25 / (turnEndpoints * turnEndpoints)
	_, high := stats.BinomialRange(leastRequests, share, routeAlpha)
	alpha := routeAlpha
	if high > leastFew() {
		alpha = 1
	}
	return Sample{Of: "answers of the slow pod", N: leastRequests, Alpha: alpha, Power: 1 - routeAlpha/2, Shift: 1.0/turnEndpoints - share}
}

func leastRequest() Case {
	return Case{
		Name:    "DestinationRule/LeastRequest",
		Doc:     "LEAST_REQUEST spares an endpoint that is slow.",
		Fixture: "destinationrule/least-request.yaml",
		Judged: fmt.Sprintf("open loop, %d requests at %g/s; one of %d pods takes %s for each. Envoy draws two and takes the less busy, so the slow one gets 1/%d when it is drawn twice and little more; it must get at most %d, which turns never give it and equal draws with a chance under %g",
			leastRequests, leastRate, turnEndpoints, leastDelay, turnEndpoints*turnEndpoints, leastFew(), routeAlpha),
		Samples: []Sample{leastSample()},
		Covers:  []string{"DestinationRule.spec.trafficPolicy.loadBalancer.simple=LEAST_REQUEST"},
		Check:   checkLeastRequest,
		Controls: []Control{
			{Break: "DestinationRule spec.trafficPolicy.loadBalancer.simple=ROUND_ROBIN", Fails: "the slow pod is not spared"},
			{Break: "DestinationRule spec.trafficPolicy.loadBalancer.simple=RANDOM", Fails: "the slow pod is not spared"},
		},
	}
}

func checkLeastRequest(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo,version=v1")
	if err != nil {
		return err
	}
	if len(pods) != turnEndpoints {
		return fmt.Errorf("%d pods of v1 are ready, want %d", len(pods), turnEndpoints)
	}
	slow := pods[0].Name
	request := e.Commanded(e.URL("/"), "delay="+leastDelay.String(), "if-pod="+slow)
	request.Protocol = loadgen.H2C // all on one connection, none waiting for another's answer
	r, err := e.Plan(ctx, "one slow pod of three", e.Outside(), loadgen.Plan{
		Requests: []loadgen.Request{request}, Rate: leastRate, Duration: leastDuration, Connections: 1, MaxLag: leastLag,
	})
	if err != nil {
		return err
	}
	if err := lostNone("with one slow pod", r); err != nil {
		return err
	}
	var bars []Bar
	for _, p := range pods {
		bar := Bar{Name: p.Name, Count: float64(r.Backends[p.Name])}
		if p.Name == slow {
			bar.High, bar.Expected = float64(leastFew()), float64(leastRequests)/(turnEndpoints*turnEndpoints)
		}
		bars = append(bars, bar)
	}
	switch want := fmt.Sprintf("at most %d of %d answers from %s, and some from each pod", leastFew(), leastRequests, slow); {
	case r.Backends[slow] > uint64(max(leastFew(), 0)):
		return &Mismatch{Want: want, Got: fmt.Sprintf("%d: the slow pod is not spared", r.Backends[slow]), Distribution: bars}
	case len(r.Backends) != turnEndpoints:
		return &Mismatch{Want: want, Got: fmt.Sprintf("%d endpoints answered", len(r.Backends)), Distribution: bars}
	}
	return nil
}
