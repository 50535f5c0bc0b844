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
)

// restartLimit is how long a container may take to be found dead, to end and to run again.
const restartLimit = 20 * time.Second

// podProbes are the cases about what kubelet and others find out about a container.
func podProbes() []Case {
	return []Case{
		{
			Name:     "Pod/Startup",
			Doc:      "Until the startup probe has succeeded, a slow container is neither asked whether it lives nor whether it is ready.",
			Fixture:  "pod/startup.yaml",
			Workload: Own,
			Covers: []string{
				"Pod.spec.containers[].startupProbe.httpGet.path", "Pod.spec.containers[].startupProbe.failureThreshold",
				"Pod.spec.containers[].startupProbe.httpGet.httpHeaders[].value", "Pod.spec.containers[].livenessProbe.failureThreshold",
				"Pod.status.containerStatuses[].started",
			},
			Judged: "exact: the container fails the first three probes that it is asked, whichever they are, and counts them by kind: the fourth is still a startup probe and the last of them, " +
				"and it was not restarted, though one failed liveness probe would do; then it answers",
			Check: checkStartup,
			Controls: []Control{
				unready("Deployment spec.template.spec.containers[0].startupProbe=", "restarted"),
				unready("Deployment spec.template.spec.containers[0].startupProbe.failureThreshold=2", "restarted"),
			},
		},
	}
}

// restarted waits until the pod's first container runs and has been restarted as often as wanted beyond what it had been.
func (e *Env) restarted(ctx context.Context, before corev1.Pod, times int32) error {
	want := fmt.Sprintf("the container of %s runs, restarted %d times", before.Name, times)
	return e.within(ctx, restartLimit, want, func(ctx context.Context) (bool, error) {
		p, err := e.Kube.CoreV1().Pods(e.Namespace()).Get(ctx, before.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		s := p.Status.ContainerStatuses[0]
		switch got := s.RestartCount - before.Status.ContainerStatuses[0].RestartCount; {
		case p.UID != before.UID:
			return false, mismatch(want, "another pod")
		case got > times:
			return false, mismatch(want, "restarted %d times: %s", got, ended(s))
		case got < times:
			return false, errors.New("it is not restarted")
		}
		return s.State.Running != nil, errors.New("it does not run")
	})
}

// ended is how a container ended last.
func ended(s corev1.ContainerStatus) string {
	if t := s.LastTerminationState.Terminated; t != nil {
		return fmt.Sprintf("%s, code %d", t.Reason, t.ExitCode)
	}
	return "it has not ended"
}

func checkStartup(ctx context.Context, e *Env) error {
	list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
	if err != nil {
		return err
	}
	if len(list.Items) != 1 {
		return fmt.Errorf("%d pods are there, want 1", len(list.Items))
	}
	p := list.Items[0]
	if s := p.Status.ContainerStatuses[0]; s.RestartCount > 0 || s.Started == nil || !*s.Started {
		return mismatch("a container that has started and was never restarted", "restarted %d times (%s)", s.RestartCount, ended(s))
	}
	seen, err := e.Seen(ctx, []corev1.Pod{p}, "startupProbe")
	if err != nil {
		return err
	}
	if got := seen[p.Name]["startupProbe"]; got != 4 {
		return mismatch("4 startup probes, the last of which succeeded, before any other probe", "%d", got)
	}
	// Now that it has started the others are asked.
	err = e.within(ctx, readinessLimit, "liveness and readiness are asked", func(ctx context.Context) (bool, error) {
		seen, err := e.Seen(ctx, []corev1.Pod{p}, "")
		if err != nil {
			return false, err
		}
		asked := seen[p.Name]
		return asked["livenessProbe"] > 0 && asked["readinessProbe"] > 0 && asked["startupProbe"] == 4, fmt.Errorf("asked %s", counts(asked))
	})
	if err != nil {
		return err
	}
	return e.servedWith(ctx, "once it has started", []corev1.Pod{p}, "v1")
}
