// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"harness.example/harness/internal/stats"
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
		{
			Name:     "Pod/ProbeKinds",
			Doc:      "A pod is ready if a TCP port takes connections, a command ends well, or an HTTPS request with a header gets a 2xx or 3xx: else it gets no traffic.",
			Fixture:  "pod/probe-kinds.yaml",
			Workload: Own,
			Covers: []string{
				"Pod.spec.containers[].readinessProbe.tcpSocket.port", "Pod.spec.containers[].readinessProbe.exec.command[]",
				"Pod.spec.containers[].readinessProbe.httpGet.scheme", "Pod.spec.containers[].readinessProbe.httpGet.port",
				"Pod.spec.containers[].readinessProbe.httpGet.httpHeaders[].name", "Pod.spec.containers[].readinessProbe.httpGet.httpHeaders[].value",
			},
			Judged:  "exact: all three pods, of which each has its kind of probe, are reached",
			Samples: []Sample{covers("pods reached", 3, stats.CoverPlan(3, answersAlpha), answersAlpha)},
			Check:   checkProbeKinds,
			Controls: []Control{
				unready("Deployment/tcp spec.template.spec.containers[0].readinessProbe.tcpSocket.port=9999", "never answered: tcp"),
				unready("Deployment/exec spec.template.spec.containers[0].readinessProbe.exec.command=[/harness, nonsense]", "never answered: exec"),
				unready("Deployment/https spec.template.spec.containers[0].readinessProbe.httpGet.httpHeaders[1].value=status=400", "never answered: https"),
			},
		},
		{
			Name:     "Pod/ReadinessGates",
			Doc:      "A pod with a readiness gate gets traffic only while somebody holds its condition true.",
			Fixture:  "pod/readiness-gates.yaml",
			Workload: Own,
			Direct:   true,
			Covers:   []string{"Pod.spec.readinessGates[].conditionType", "Pod.status.conditions[].type", "Pod.status.conditions[].status"},
			Judged: fmt.Sprintf("exact: with its containers ready and the condition not there, or false, nothing answers, by gateway and by cluster address; with the condition true the pod does; "+
				"kubelet has %s for each change", readinessLimit),
			Check: checkReadinessGates,
			Controls: []Control{
				{Break: "the pod is made anew without the gate", Fails: "200", Do: ungated("[]")},
				{Break: "the pod is made anew with another gate", Fails: "is ready within", Do: ungated("[{conditionType: harness.example/other}]")},
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

func checkProbeKinds(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	xs, err := e.servedBy(ctx, "the ready pods", podNames(pods))
	if err != nil {
		return err
	}
	if err := reached("every kind of probe", xs, version, []string{"tcp", "exec", "https"}); err != nil {
		return err
	}
	// The probe has gone where it was sent: to the port of TLS, with its header.
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return strings.Contains(p.Name, "-https-") })
	seen, err := e.Seen(ctx, pods[i:i+1], "probe")
	if err != nil {
		return err
	}
	if seen[pods[i].Name]["probe"] == 0 {
		return mismatch("the HTTPS probe arrives with its header", "the pod has not seen it")
	}
	return nil
}

const gate = "harness.example/open"

func checkReadinessGates(ctx context.Context, e *Env) error {
	var p corev1.Pod
	err := e.within(ctx, deploymentPatience, "the pod's containers are ready", func(ctx context.Context) (bool, error) {
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
		if err != nil || len(list.Items) != 1 {
			return false, errors.Join(err, fmt.Errorf("%d pods are there", len(list.Items)))
		}
		p = list.Items[0]
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.ContainersReady && c.Status == corev1.ConditionTrue
		}), errors.New("they are not")
	})
	if err != nil {
		return err
	}
	if err := e.Live(ctx); err != nil {
		return err
	}
	if err := e.nobodyAnswers(ctx, "before the gate is opened"); err != nil {
		return err
	}
	for _, open := range []bool{true, false} {
		status := map[bool]string{true: "True", false: "False"}[open]
		patch := fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":%q}]}}`, gate, status)
		if _, err := e.Kube.CoreV1().Pods(e.Namespace()).Patch(ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			return fmt.Errorf("set the gate's condition to %s: %w", status, err)
		}
		if err := e.turns(ctx, p.Name, open); err != nil {
			return err
		}
		if !open {
			return e.nobodyAnswers(ctx, "once the gate is closed")
		}
		if err := answeredBy(ctx, e, "while the gate is open", []string{p.Name}); err != nil {
			return err
		}
	}
	return nil
}

// ungated makes the ReplicaSet's pod anew with other gates.
func ungated(gates string) func(context.Context, *Env) error {
	return func(ctx context.Context, e *Env) error {
		return e.remade(ctx, edit{kind: "ReplicaSet", path: "spec.template.spec.readinessGates", value: gates})
	}
}
