// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// podEnds are the cases about how a container or a pod ends.
func podEnds() []Case {
	return []Case{
		{
			Name:     "Pod/GracePeriod",
			Doc:      "A pod told to end may end the request under way, for as long as terminationGracePeriodSeconds.",
			Fixture:  "pod/grace-period.yaml",
			Workload: Own,
			Covers:   []string{"Pod.spec.terminationGracePeriodSeconds"},
			Judged:   "exact: a request that takes 4 s, and is known to be at the pod when that is deleted, is answered by it",
			Check:    checkGracePeriod,
			Controls: []Control{{Break: "Deployment spec.template.spec.terminationGracePeriodSeconds=1", Fails: "under way"}},
		},
		{
			Name:     "Pod/OutOfMemory",
			Doc:      "A container that takes more memory than its limit is killed and restarted, its neighbour is not, and it takes traffic again.",
			Fixture:  "pod/out-of-memory.yaml",
			Workload: Own,
			Covers: []string{
				"Pod.spec.containers[].resources.limits{}", "Pod.status.containerStatuses[].lastState.terminated.reason",
				"Pod.status.containerStatuses[].lastState.terminated.exitCode",
			},
			Judged: fmt.Sprintf("exact: the container that is made to take 256 MiB ends with OOMKilled and code 137 and is restarted once, in the same pod, within %s, its "+
				"neighbour never; in the end both answer", restartLimit),
			Samples: []Sample{covers("pods reached in the end", 2, stats.CoverPlan(2, answersAlpha), answersAlpha)},
			Check:   checkOutOfMemory,
			Controls: []Control{
				{Break: "Deployment spec.template.spec.containers[0].resources.limits={memory: 512Mi}", Fails: "is answered"},
			},
		},
	}
}

// replacePod deletes the one pod that is selected, and waits until it has ended and another one is ready.
func (e *Env) replacePod(ctx context.Context, selector string) error {
	pods, err := e.Pods(ctx, selector)
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		return fmt.Errorf("%d pods %s are ready, want 1", len(pods), selector)
	}
	old := pods[0]
	start := time.Now()
	if err := e.Kube.CoreV1().Pods(e.Namespace()).Delete(ctx, old.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &old.UID}}); err != nil {
		return fmt.Errorf("delete pod %s: %w", old.Name, err)
	}
	err = e.within(ctx, deploymentPatience, "pod "+old.Name+" ends", func(ctx context.Context) (bool, error) { return e.gone(ctx, old) })
	if err != nil {
		return err
	}
	e.Figure("from deletion to the end of "+old.Name, time.Since(start).Seconds(), "s")
	err = e.within(ctx, deploymentPatience, "pod "+old.Name+" is replaced", func(ctx context.Context) (bool, error) {
		now, err := e.Pods(ctx, selector)
		return len(now) == 1, err
	})
	if err != nil {
		return err
	}
	return e.Live(ctx)
}

// underWay sends one request through the gateway that takes a while, and returns once it is at one of the pods: which one,
// and what gives its answer.
func (e *Env) underWay(ctx context.Context, pods []corev1.Pod, lasts string) (at string, answered func() ([]loadgen.Exchange, error), err error) {
	prefix := e.Prefix()
	type outcome struct {
		xs  []loadgen.Exchange
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		xs, err := e.Gateway(ctx, loadgen.Burst{
			Requests: []loadgen.Request{e.Commanded(e.URL("/"), "delay="+lasts)}, Count: 1, Timeout: time.Minute, Policy: loadgen.Fresh, IDPrefix: prefix,
		})
		done <- outcome{xs, err}
	}()
	answered = func() ([]loadgen.Exchange, error) {
		o := <-done
		return o.xs, o.err
	}
	err = e.Until(ctx, "the request is at a pod", func(ctx context.Context) (bool, error) {
		seen, err := e.Seen(ctx, pods, prefix)
		if err != nil {
			return false, err
		}
		for name, ids := range seen {
			if len(ids) > 0 {
				at = name
			}
		}
		return at != "", nil
	})
	return at, answered, err
}

func checkGracePeriod(ctx context.Context, e *Env) error {
	pods, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	at, answered, err := e.underWay(ctx, pods, "4s")
	if err != nil {
		return err
	}
	if err := e.replacePod(ctx, selector(e)); err != nil {
		return err
	}
	xs, err := answered()
	if err != nil {
		return err
	}
	return reached("the request under way at a pod that ends", xs, pod, []string{at})
}

func checkOutOfMemory(ctx context.Context, e *Env) error {
	pods, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	victim, other := pods[0], pods[1]
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{
		Requests: []loadgen.Request{e.Commanded(loadgen.Request{URL: "http://" + hostPort(victim.Status.PodIP, 8080) + "/"}, "hold=256Mi")}, Count: 1, Policy: loadgen.Fresh,
	})
	if err != nil {
		return err
	}
	if outcomeOf(xs[0]) == "200" {
		return mismatch("a container that is killed amid the request", "%s is answered", victim.Name)
	}
	if err := e.restarted(ctx, victim, 1); err != nil {
		return err
	}
	p, err := e.Kube.CoreV1().Pods(e.Namespace()).Get(ctx, victim.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if t := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; t == nil || t.Reason != "OOMKilled" || t.ExitCode != 137 {
		return mismatch("the container ended with OOMKilled and code 137", "%s", ended(p.Status.ContainerStatuses[0]))
	}
	if err := e.turns(ctx, victim.Name, true); err != nil {
		return err
	}
	if err := errors.Join(e.restarted(ctx, other, 0), e.stillServing(ctx, "after the restart", pods)); err != nil {
		return err
	}
	return e.servedWith(ctx, "after the restart", pods, "v1")
}
