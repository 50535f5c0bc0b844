// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"harness.example/harness/loadgen"
)

const (
	// outlierPatience is how many requests are sent while Envoy's main thread may still be about to leave a pod out.
	outlierPatience = 60
	outlierSettled  = "%d requests in a row on one connection, in turns over %d pods; exact, but for Envoy's main thread, which has %s to leave a pod out"

	localFailures = 3
	localSpacing  = 200 * time.Millisecond
	// localRequests: half of them meet the pod that refuses, until it is left out, which has a second's time.
	localRequests = 2*localFailures + outlierSilence + int(time.Second/localSpacing)

	// mostEjected of the pods may be left out, by the fixture.
	mostEjected = 2

	growthBase, growthInterval = 1600 * time.Millisecond, 800 * time.Millisecond
	growthSpacing              = 25 * time.Millisecond
	// growthRequests go on until the pod must be back for the second time.
	growthRequests = int((3*growthBase + 2*growthInterval + outlierSlack) / growthSpacing)
)

func outlierJudged(requests int) string {
	return fmt.Sprintf(outlierSettled, requests, turnEndpoints, outlierPatience*outlierSpacing)
}

// turnScript is how a pod answers its turns: with a status, or well (0).
type turnScript struct {
	path     string
	before   []int // none of them has it left out
	decisive []int // these in a row do; none = it is never left out
}

func (s turnScript) length() int {
	return turnEndpoints*(len(s.before)+len(s.decisive)) + 2*outlierPatience
}

// outlierCases are what counts as a failure, and how many pods are left out for how long.
func outlierCases() []Case {
	gateway := turnScript{"/", []int{500, 500, 500, 500, 503, 503, 500, 504, 502}, []int{502, 503, 504}}
	counted := turnScript{"/counted", []int{404, 429, 404, 500, 404, 500}, []int{500, 501}}
	off := turnScript{"/off", []int{500, 503, 500, 503, 500, 503, 500, 503}, nil}
	return []Case{
		{
			Name:    "DestinationRule/OutlierGatewayErrors",
			Doc:     "A pod is left out after so many gateway errors (502, 503, 504) in a row, and other errors neither count nor let the row go on.",
			Fixture: "destinationrule/outlier-gateway-errors.yaml",
			Judged:  outlierJudged(gateway.length()),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.outlierDetection.consecutiveGatewayErrors", "DestinationRule.spec.trafficPolicy.outlierDetection.consecutive5xxErrors",
			},
			Check: func(ctx context.Context, e *Env) error { return checkScript(ctx, e, gateway) },
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutiveGatewayErrors=2", Fails: "left out too soon"},
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutiveGatewayErrors=4", Fails: "never left out"},
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutive5xxErrors=4", Fails: "left out too soon"},
			},
		},
		{
			Name:    "DestinationRule/OutlierErrors",
			Doc:     "Only errors from 500 on count towards leaving a pod out, a good answer begins the row anew, and zero of them turns it off.",
			Fixture: "destinationrule/outlier-statuses.yaml",
			Judged:  outlierJudged(counted.length()) + "; the same on the port where it is off",
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.outlierDetection.consecutive5xxErrors",
				"DestinationRule.spec.trafficPolicy.portLevelSettings[].outlierDetection.consecutive5xxErrors",
			},
			Check: func(ctx context.Context, e *Env) error {
				group, groupCtx := errgroup.WithContext(ctx)
				for _, s := range []turnScript{counted, off} {
					group.Go(func() error { return checkScript(groupCtx, e, s) })
				}
				return group.Wait()
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutive5xxErrors=1", Fails: "/counted: left out too soon"},
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutive5xxErrors=3", Fails: "/counted: never left out"},
				{Break: "DestinationRule spec.trafficPolicy.portLevelSettings[0].outlierDetection.consecutive5xxErrors=", Fails: "/off: left out too soon"},
			},
		},
		{
			Name:     "DestinationRule/OutlierLocalOrigin",
			Doc:      "A pod that refuses connections is left out after so many refusals in a row, by a count of their own.",
			Fixture:  "destinationrule/outlier-local-origin.yaml",
			Workload: Own,
			Judged: fmt.Sprintf("exact: of %d requests in turns over two pods, %s apart, %d fail because one refuses (more only until Envoy's main thread has left it out, which has a second), and the last %d are answered",
				localRequests, localSpacing, localFailures, outlierSilence),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.outlierDetection.splitExternalLocalOriginErrors",
				"DestinationRule.spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
			},
			Check: checkLocalOrigin,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.splitExternalLocalOriginErrors=false", Fails: "never left out"},
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures=1000", Fails: "never left out"},
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures=1", Fails: "left out too soon"},
			},
		},
		{
			Name:    "DestinationRule/OutlierMaxEjection",
			Doc:     "However many pods fail, no more of them are left out than the percentage allows.",
			Fixture: "destinationrule/outlier-max-ejection.yaml",
			Judged:  outlierJudged(4*turnEndpoints+2*outlierPatience) + fmt.Sprintf("; %d of %d are left out", mostEjected, turnEndpoints),
			Covers:  []string{"DestinationRule.spec.trafficPolicy.outlierDetection.maxEjectionPercent"},
			Check:   checkMaxEjection,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.maxEjectionPercent=34", Fails: "got 1 left out"},
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.maxEjectionPercent=100", Fails: "got 3 left out"},
			},
		},
		{
			Name:    "DestinationRule/OutlierMinHealth",
			Doc:     "With fewer pods left than the least healthy percentage, those that were left out serve again.",
			Fixture: "destinationrule/outlier-min-health.yaml",
			Judged:  outlierJudged(2*(2*turnEndpoints+outlierPatience)) + "; after one pod has failed it answers none of the last requests, after a second has, all pods answer them",
			Covers:  []string{"DestinationRule.spec.trafficPolicy.outlierDetection.minHealthPercent"},
			Check:   checkMinHealth,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.minHealthPercent=0", Fails: "got 1 after two have failed"},
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.minHealthPercent=70", Fails: "got 3 after one has failed"},
			},
		},
		{
			Name:    "DestinationRule/OutlierGrowth",
			Doc:     "A pod that fails again as soon as it is back is left out for twice as long.",
			Fixture: "destinationrule/outlier-growth.yaml",
			Judged: fmt.Sprintf("%d requests in a row on one connection, in turns over %d pods of which one always fails. By the clocks of the client, from before it is left out until after it is back, it is out for %s, then for %s, no less; and no more than the interval of %s at which Envoy looks and %s, what a busy machine adds, over that",
				growthRequests, turnEndpoints, growthBase, 2*growthBase, growthInterval, outlierSlack),
			Covers: []string{"DestinationRule.spec.trafficPolicy.outlierDetection.baseEjectionTime"},
			Check:  checkGrowth,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.outlierDetection.baseEjectionTime=6s", Fails: "time 1, got too late"},
			},
		},
	}
}

// turnsFailing are the requests of one turn of every pod, in which the failing one answers with the status.
func turnsFailing(e *Env, path, failing string, status int) []loadgen.Request {
	request := e.URL(path)
	if status != 0 {
		request = e.Commanded(request, fmt.Sprintf("status=%d", status), "if-pod="+failing)
	}
	return slices.Repeat([]loadgen.Request{request}, turnEndpoints)
}

// checkScript has a pod answer its turns by the script, with patience before the decisive ones and at the end.
func checkScript(ctx context.Context, e *Env, s turnScript) error {
	pods, err := turnPods(ctx, e)
	if err != nil {
		return err
	}
	failing := pods[0]
	statuses := slices.Concat(s.before, make([]int, outlierPatience/turnEndpoints), s.decisive)
	var requests []loadgen.Request
	for _, status := range statuses {
		requests = append(requests, turnsFailing(e, s.path, failing, status)...)
	}
	requests = append(requests, slices.Repeat([]loadgen.Request{e.URL(s.path)}, outlierPatience)...)
	xs, err := inTurns(ctx, e, requests, outlierSpacing)
	if err != nil {
		return err
	}
	want := fmt.Sprintf("%s%s: %s left out after %v and not before", e.Vars["HOST"], s.path, failing, s.decisive)
	for turn, status := range statuses {
		answers := xs[turn*turnEndpoints : (turn+1)*turnEndpoints]
		i := slices.IndexFunc(answers, func(x loadgen.Exchange) bool { return pod(x) == failing })
		if i < 0 {
			return mismatch(want, "%s: left out too soon, by its turn %d of %v", s.path, turn+1, statuses)
		}
		if got := answers[i].Status; got != status && !(status == 0 && got == 200) {
			return &Mismatch{Want: fmt.Sprintf("%d at turn %d", status, turn+1), Got: describe(answers[i]), Exchanges: answers[i : i+1]}
		}
	}
	switch _, out := servers(xs)[failing]; {
	case len(s.decisive) > 0 && out:
		return mismatch(want, "%s: never left out", s.path)
	case len(s.decisive) == 0 && !out:
		return mismatch(want, "%s: left out too soon, in the end", s.path)
	}
	return nil
}

// servers are the pods that answer the last requests, with how many of those.
func servers(xs []loadgen.Exchange) map[string]int {
	out := countBy(xs[len(xs)-outlierSilence:], pod)
	delete(out, "") // no pod: the proxy itself
	return out
}

func checkLocalOrigin(ctx context.Context, e *Env) error {
	xs, err := inTurns(ctx, e, slices.Repeat([]loadgen.Request{e.URL("/")}, localRequests), localSpacing)
	if err != nil {
		return err
	}
	failed := 0
	for _, x := range xs {
		switch {
		case x.Status == 503 && pod(x) == "" && strings.Contains(string(x.Body), "connection failure"):
			failed++
		case x.Status != 200:
			return &Mismatch{Want: "200, or the proxy's 503 for a connection failure", Got: describe(x), Exchanges: []loadgen.Exchange{x}}
		}
	}
	want := fmt.Sprintf("the pod that refuses left out after %d refusals", localFailures)
	if tally := countBy(xs[len(xs)-outlierSilence:], outcomeOf); tally["200"] != outlierSilence {
		return mismatch(want, "%d refusals: never left out", failed)
	}
	if failed < localFailures {
		return mismatch(want, "left out too soon, after %d refusals", failed)
	}
	return nil
}

func checkMaxEjection(ctx context.Context, e *Env) error {
	requests := slices.Repeat([]loadgen.Request{e.Commanded(e.URL("/"), "status=503")}, 4*turnEndpoints)
	// Twice, because the first ejection holds up the others for a second: Envoy tells its workers of changes that are closer
	// together than that at once.
	requests = append(requests, slices.Repeat([]loadgen.Request{e.URL("/")}, 2*outlierPatience)...)
	xs, err := inTurns(ctx, e, requests, outlierSpacing)
	if err != nil {
		return err
	}
	if out := turnEndpoints - len(servers(xs)); out != mostEjected {
		return mismatch(fmt.Sprintf("%d of %d failing pods left out", mostEjected, turnEndpoints), "%d left out", out)
	}
	return nil
}

func checkMinHealth(ctx context.Context, e *Env) error {
	pods, err := turnPods(ctx, e)
	if err != nil {
		return err
	}
	var requests []loadgen.Request
	for _, failing := range pods[:2] {
		requests = append(requests, slices.Repeat(turnsFailing(e, "/", failing, 503), 2)...)
		requests = append(requests, slices.Repeat([]loadgen.Request{e.URL("/")}, outlierPatience)...)
	}
	xs, err := inTurns(ctx, e, requests, outlierSpacing)
	if err != nil {
		return err
	}
	first, then := servers(xs[:len(xs)/2]), servers(xs)
	if _, serves := first[pods[0]]; serves || len(first) != turnEndpoints-1 {
		return mismatch(fmt.Sprintf("%d pods serve, without the one that failed", turnEndpoints-1), "%d after one has failed: %s", len(first), counts(first))
	}
	if len(then) != turnEndpoints {
		return mismatch(fmt.Sprintf("%d pods serve", turnEndpoints), "%d after two have failed: %s", len(then), counts(then))
	}
	return nil
}

func checkGrowth(ctx context.Context, e *Env) error {
	pods, err := turnPods(ctx, e)
	if err != nil {
		return err
	}
	failing := pods[0]
	xs, err := inTurns(ctx, e, slices.Repeat(turnsFailing(e, "/", failing, 503), growthRequests/turnEndpoints), growthSpacing)
	if err != nil {
		return err
	}
	absences := absencesOf(xs, failing)
	for i, base := range []time.Duration{growthBase, 2 * growthBase} {
		want := fmt.Sprintf("%s out from %s to %s, time %d", failing, base, base+growthInterval+outlierSlack, i+1)
		switch {
		case i < len(absences) && absences[i] < base:
			return mismatch(want, "too soon, back after %s", absences[i])
		case i < len(absences) && absences[i] > base+growthInterval+outlierSlack:
			return mismatch(want, "too late, back after %s", absences[i])
		case i < len(absences):
			e.Figure(fmt.Sprintf("out, time %d", i+1), absences[i].Seconds(), "s")
		case servers(xs)[failing] > 0:
			return mismatch(want, "never left out")
		default:
			return mismatch(want, "not back in the end")
		}
	}
	return nil
}

// absencesOf are how long a pod was left out, each time from before the first failure of a row until after its return. It may
// go on to take its turns for a second after that failure: Envoy tells its workers of changes that are closer together at once.
func absencesOf(xs []loadgen.Exchange, name string) []time.Duration {
	var out []time.Duration
	silent := 0
	var failed loadgen.Exchange // the first of the row
	for _, x := range xs {
		switch {
		case pod(x) != name:
			silent++
			continue
		case failed.Header == nil:
			failed = x
		case silent >= outlierSilence:
			out = append(out, x.Start.Add(x.Latency).Sub(failed.Start))
			failed = x
		}
		silent = 0
	}
	return out
}
