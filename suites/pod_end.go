// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// podEnds are the cases about how a container or a pod ends.
func podEnds() []Case {
	return []Case{
		{
			Name:     "Pod/PreStop",
			Doc:      "A preStop hook, a pause or a request, is awaited before a container is told to end: a backend that does not drain loses nothing.",
			Fixture:  "pod/pre-stop.yaml",
			Workload: Own,
			Covers: []string{
				"Pod.spec.containers[].lifecycle.preStop.sleep.seconds", "Pod.spec.containers[].lifecycle.preStop.httpGet.port",
				"Pod.spec.containers[].lifecycle.preStop.httpGet.httpHeaders[].value",
			},
			Judged: fmt.Sprintf("exact: of a pod that is deleted each container, whose hook lasts %s, answers every request of its first %s; of an open-loop load of %d/s to both pods no "+
				"request is lost", hookLasts, hookJudged, endRate),
			Check: checkPreStop,
			Controls: []Control{
				{Break: "Deployment spec.template.spec.containers[0].lifecycle=", Fails: "container paused while its hook runs"},
				{Break: "Deployment spec.template.spec.containers[1].lifecycle=", Fails: "container asked while its hook runs"},
				{Break: "Deployment spec.template.spec.containers[1].lifecycle.preStop.httpGet.httpHeaders[0].value=status=200", Fails: "container asked while its hook runs"},
			},
		},
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
				"Pod.spec.containers[].resources.limits{}", "Pod.status.containerStatuses[].lastState.terminated.exitCode",
			},
			Judged: fmt.Sprintf("exact: the container that is made to take 256 MiB ends with code 137, which is SIGKILL (that it was for its memory the runtime may learn too late to say), and is restarted once, in the same pod, within %s, its "+
				"neighbour never; in the end both answer", restartLimit),
			Samples: []Sample{covers("pods reached in the end", 2, stats.CoverPlan(2, answersAlpha), answersAlpha)},
			Check:   checkOutOfMemory,
			Controls: []Control{
				{Break: "Deployment spec.template.spec.containers[0].resources.limits={memory: 512Mi}", Fails: "is answered"},
			},
		},
	}
}

const (
	// endRate is the load on pods that end: one request every 40 ms for each of two.
	endRate = 50
	// hookLasts is how long a hook of the fixture of Pod/PreStop takes; in the time judged a container without one has ended.
	hookLasts, hookJudged = 6 * time.Second, 4 * time.Second
)

func checkPreStop(ctx context.Context, e *Env) error {
	if err := e.rolledOut(ctx, 0); err != nil {
		return err
	}
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if len(pods) != 2 {
		return fmt.Errorf("%d pods are ready, want 2", len(pods))
	}
	load := e.startLoad(ctx, "while a pod ends", endRate, e.URL("/"))
	defer func() { _, _ = load.stop() }()
	if err := e.reachable(ctx, podNames(pods)); err != nil {
		return err
	}
	old := pods[0]
	answered, err := e.keepAsking(ctx, old, 8080, 18080)
	if err != nil {
		return err
	}
	deleted := time.Now()
	if err := e.Kube.CoreV1().Pods(e.Namespace()).Delete(ctx, old.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &old.UID}}); err != nil {
		return fmt.Errorf("delete pod %s: %w", old.Name, err)
	}
	byPort, err := answered()
	if err != nil {
		return err
	}
	for i, container := range []string{"paused", "asked"} {
		during := slices.DeleteFunc(byPort[i], func(x loadgen.Exchange) bool { return x.Start.After(deleted.Add(hookJudged)) })
		if !slices.ContainsFunc(during, func(x loadgen.Exchange) bool { return x.Start.After(deleted.Add(hookJudged / 2)) }) {
			return fmt.Errorf("no request to the container %s began from %s to %s after the deletion", container, hookJudged/2, hookJudged)
		}
		if err := all("container "+container+" while its hook runs", during, "200"); err != nil {
			return err
		}
	}
	if err := e.within(ctx, deploymentPatience, "pod "+old.Name+" ends", func(ctx context.Context) (bool, error) { return e.gone(ctx, old) }); err != nil {
		return err
	}
	e.Figure("from deletion to the end of the pod", time.Since(deleted).Seconds(), "s")
	result, err := load.stop()
	if err != nil {
		return err
	}
	return lostNone("while a pod ends", result)
}

// keepAsking has the client pod send requests straight to ports of a pod, in turn, over new connections, for some 3.5 s. It returns once the first one is there, and
// what gives the answers by port. It does not go on for longer, as nobody refuses a connection to a pod that is gone: each would have to time out.
func (e *Env) keepAsking(ctx context.Context, p corev1.Pod, ports ...int) (answered func() ([][]loadgen.Exchange, error), err error) {
	const every, lasts = 50 * time.Millisecond, 3500 * time.Millisecond
	from, err := e.Inside(ctx, "")
	if err != nil {
		return nil, err
	}
	burst := loadgen.Burst{Count: int(lasts / every), Interval: every, Policy: loadgen.Fresh, Timeout: loadTimeout, IDPrefix: e.Prefix()}
	for _, port := range ports {
		burst.Requests = append(burst.Requests, loadgen.Request{URL: "http://" + hostPort(p.Status.PodIP, port) + "/"})
	}
	type outcome struct {
		xs  []loadgen.Exchange
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		xs, err := e.Burst(ctx, from, burst)
		done <- outcome{xs, err}
	}()
	err = e.Until(ctx, "the first request is at pod "+p.Name, func(ctx context.Context) (bool, error) {
		seen, err := e.Seen(ctx, []corev1.Pod{p}, burst.IDPrefix)
		return len(seen[p.Name]) > 0, err
	})
	return func() ([][]loadgen.Exchange, error) {
		o := <-done
		byPort := make([][]loadgen.Exchange, len(ports))
		for _, x := range o.xs {
			byPort[x.Seq%len(ports)] = append(byPort[x.Seq%len(ports)], x)
		}
		return byPort, o.err
	}, err
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

// deletePod deletes a pod and waits until it is gone.
func (e *Env) deletePod(ctx context.Context, name string) error {
	grace := int64(1)
	api := e.Kube.CoreV1().Pods(e.Namespace())
	if err := api.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	return e.Until(ctx, "pod "+name+" is gone", func(ctx context.Context) (bool, error) {
		_, err := api.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// remade makes an object anew with one edit, for one whose fields cannot be changed while it lives.
func (e *Env) remade(ctx context.Context, change edit) error {
	target, err := find(e.wanted, change)
	if err != nil {
		return err
	}
	changed := target.DeepCopy()
	if err := fixtures.Edit(changed, change.path, change.value); err != nil {
		return err
	}
	remove := func(ctx context.Context) error {
		if target.GetKind() == "Pod" {
			return e.deletePod(ctx, target.GetName())
		}
		if err := e.fx.Delete(ctx, target); err != nil {
			return err
		}
		return e.Until(ctx, "the pods of "+target.GetName()+" are gone", func(ctx context.Context) (bool, error) {
			list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
			return err == nil && len(list.Items) == 0, err
		})
	}
	if err := remove(ctx); err != nil {
		return err
	}
	e.Undo(remove)
	live, err := e.fx.Apply(ctx, changed)
	if err != nil {
		return err
	}
	return e.fx.WaitReady(ctx, live...)
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
	if t := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; t == nil || t.ExitCode != 137 {
		return mismatch("the container ended with code 137", "%s", ended(p.Status.ContainerStatuses[0]))
	}
	if err := e.turns(ctx, victim.Name, true); err != nil {
		return err
	}
	if err := errors.Join(e.restarted(ctx, other, 0), e.stillServing(ctx, "after the restart", pods)); err != nil {
		return err
	}
	return e.servedWith(ctx, "after the restart", pods, "v1")
}
