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

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// podStarts are the cases about what a pod consists of, in which order, and what it is told about itself.
func podStarts() []Case {
	return []Case{
		{
			Name:     "Pod/Identity",
			Doc:      "What a pod's answers say of its name, namespace, node, address, service account and label is what the API says.",
			Fixture:  "pod/identity.yaml",
			Workload: Own,
			Covers: []string{
				"Pod.spec.containers[].env[].valueFrom.fieldRef.fieldPath", "Pod.spec.serviceAccountName", "Pod.spec.nodeName", "Pod.status.podIP",
				"Pod.metadata.name", "Pod.metadata.namespace", "Pod.metadata.labels{}",
			},
			Judged:  "exact: every answer's identity against the pod of that name",
			Samples: []Sample{covers("pods reached", 2, stats.CoverPlan(2, answersAlpha), answersAlpha)},
			Check:   checkIdentity,
			Controls: []Control{
				{Break: "Deployment spec.template.spec.containers[0].env[2].valueFrom.fieldRef.fieldPath=status.hostIP", Fails: "node"},
				{
					Break: `Deployment spec.template.spec.containers[0].env[4].valueFrom.fieldRef.fieldPath=metadata.namespace; ` +
						`Deployment spec.template.spec.containers[0].env[3].valueFrom.fieldRef.fieldPath=status.hostIP`,
					Fails: "serviceAccount",
				},
			},
		},
		{
			Name:     "Pod/InitContainers",
			Doc:      "Init containers run to their good end, one after the other, before the app is started and takes traffic.",
			Fixture:  "pod/init-containers.yaml",
			Workload: Own,
			Covers:   []string{"Pod.spec.initContainers[].args[]", "Pod.status.initContainerStatuses[].state.terminated.exitCode", "Pod.status.conditions[].type"},
			Judged:   "exact, by the API's own times: each has ended with code 0 no later than the next was started; the pod answers alone",
			Check:    checkInitContainers,
			Controls: []Control{
				unready("Deployment spec.template.spec.initContainers[1].args=[nonsense]", "second ended with code"),
			},
		},
		{
			Name:     "Pod/NativeSidecar",
			Doc:      "An init container that restarts always is a sidecar: it serves before the next one runs and until the app has ended.",
			Fixture:  "pod/native-sidecar.yaml",
			Workload: Own,
			Covers: []string{
				"Pod.spec.initContainers[].restartPolicy", "Pod.spec.initContainers[].startupProbe.httpGet.path", "Pod.spec.initContainers[].ports[].containerPort",
				"Pod.status.initContainerStatuses[].started",
			},
			Judged: "exact: the init container after it has ended well, which it can only if the sidecar answers it; when the pod is deleted amid a request of 5 s to the app, which is answered, " +
				"every request to the sidecar in 3 s of them is answered too",
			Timeout: 4 * time.Minute, // kubelet tries an init container that failed again after a pause that grows
			Check:   checkNativeSidecar,
			Controls: []Control{
				{Break: "the sidecar is an ordinary container", Fails: "answered by the sidecar", Do: ordinarySidecar},
			},
		},
	}
}

func checkIdentity(ctx context.Context, e *Env) error {
	pods, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	xs, err := e.servedBy(ctx, "the pods", podNames(pods))
	if err != nil {
		return err
	}
	for _, x := range xs {
		a, err := answer(x)
		if err != nil {
			return err
		}
		p := pods[slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == a.Pod })]
		var wrong []string
		for _, f := range []struct{ name, got, want string }{
			{"namespace", a.Namespace, p.Namespace},
			{"node", a.Node, p.Spec.NodeName},
			{"ip", a.IP, p.Status.PodIP},
			{"serviceAccount", a.ServiceAccount, e.Name()},
			{"serviceAccount of the API", p.Spec.ServiceAccountName, e.Name()},
			{"label", a.Version, p.Labels["release"]},
		} {
			if f.got != f.want {
				wrong = append(wrong, fmt.Sprintf("%s %q instead of %q", f.name, f.got, f.want))
			}
		}
		if len(wrong) > 0 {
			return &Mismatch{Want: "what the API says of pod " + a.Pod, Got: strings.Join(wrong, ", "), Exchanges: []loadgen.Exchange{x}}
		}
	}
	return nil
}

// newestPod is the one pod of the case, whatever its state.
func (e *Env) newestPod(ctx context.Context) (corev1.Pod, error) {
	list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
	if err != nil {
		return corev1.Pod{}, fmt.Errorf("find the pod: %w", err)
	}
	if len(list.Items) != 1 {
		return corev1.Pod{}, fmt.Errorf("%d pods are there, want 1", len(list.Items))
	}
	return list.Items[0], nil
}

func checkInitContainers(ctx context.Context, e *Env) error {
	p, err := e.newestPod(ctx)
	if err != nil {
		return err
	}
	const want = "every init container ended well before the next container was started"
	var last metav1.Time
	for _, s := range p.Status.InitContainerStatuses {
		t := s.State.Terminated
		if t == nil {
			t = s.LastTerminationState.Terminated
		}
		switch {
		case t == nil:
			return mismatch(want, "%s has not ended", s.Name)
		case t.ExitCode != 0:
			return mismatch(want, "%s ended with code %d", s.Name, t.ExitCode)
		case t.StartedAt.Before(&last):
			return mismatch(want, "%s was started before the one before it had ended", s.Name)
		}
		last = t.FinishedAt
	}
	if r := p.Status.ContainerStatuses[0].State.Running; r == nil || r.StartedAt.Before(&last) {
		return mismatch(want, "the app runs: %+v, the last init container ended at %s", r, last)
	}
	return e.servedWith(ctx, "the pod", []corev1.Pod{p}, "v1")
}

func checkNativeSidecar(ctx context.Context, e *Env) error {
	pods, err := e.atRest(ctx)
	if err != nil {
		return err
	}
	p := pods[0]
	for _, s := range p.Status.InitContainerStatuses {
		t := s.State.Terminated
		switch {
		case s.Name == "side" && (s.Started == nil || !*s.Started || s.State.Running == nil):
			return mismatch("the sidecar has started and runs on", "%+v", s.State)
		case s.Name == "needs-side" && (t == nil || t.ExitCode != 0):
			return mismatch("the init container that needs the sidecar ended well", "%+v", s.State)
		}
	}
	if err := e.servedWith(ctx, "the pod", []corev1.Pod{p}, "v1"); err != nil {
		return err
	}
	_, answered, err := e.underWay(ctx, []corev1.Pod{p}, "5s")
	if err != nil {
		return err
	}
	asked, err := e.keepAsking(ctx, p, 8080, 18080)
	if err != nil {
		return err
	}
	if err := e.replacePod(ctx, selector(e)); err != nil {
		return err
	}
	xs, err := answered()
	byPort, askedErr := asked()
	if err := errors.Join(err, askedErr); err != nil {
		return err
	}
	if err := reached("the request under way at the app", xs, pod, []string{p.Name}); err != nil {
		return err
	}
	end := xs[0].Start.Add(xs[0].Latency)
	during := slices.DeleteFunc(byPort[1], func(x loadgen.Exchange) bool { return x.Start.After(end) })
	if len(during) == 0 {
		return errors.New("no request to the sidecar began before the app's answer came")
	}
	e.Figure("requests to the sidecar until the app's answer", float64(len(during)), "requests")
	return all("answered by the sidecar until the app has ended", during, "200")
}

// ordinarySidecar gives the pod the sidecar as a container beside the app, which ends when the app is told to end.
func ordinarySidecar(ctx context.Context, e *Env) error {
	target, err := find(e.wanted, edit{kind: "Deployment"})
	if err != nil {
		return err
	}
	broken := target.DeepCopy()
	spec, err := podSpec(broken)
	if err != nil {
		return err
	}
	inits, _ := spec["initContainers"].([]any)
	containers, _ := spec["containers"].([]any)
	side, ok := inits[0].(map[string]any)
	if !ok {
		return errors.New("the fixture has no sidecar")
	}
	delete(side, "restartPolicy")
	delete(spec, "initContainers")
	spec["containers"] = append(containers, side)
	live, err := e.fx.Apply(ctx, broken)
	if err != nil {
		return err
	}
	return e.fx.WaitReady(ctx, live...)
}
