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

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// sidecarName is the proxy's container.
const sidecarName = "istio-proxy"

// meshPods are what a sidecar changes in the life of its pod.
func meshPods() []Case {
	return []Case{
		{
			Name:      "Mesh/Injection",
			Doc:       "A pod of a labelled namespace gets a sidecar that starts before its own container; one that declines, or whose namespace has no label, gets none.",
			Fixture:   "mesh/injection.yaml",
			Needs:     []Capability{Injection},
			Workload:  Own,
			Injection: true,
			Mesh:      true,
			Judged:    "exact: the pods' containers as they are, and whom each server takes the client for; no false alarm",
			Covers: []string{
				"Pod.metadata.labels{}", "Pod.spec.initContainers[].name", "Pod.spec.initContainers[].restartPolicy",
				"Pod.status.initContainerStatuses[].started", "Pod.status.initContainerStatuses[].state.running.startedAt",
			},
			Check: checkInjection,
			Controls: []Control{
				{Break: `Deployment/-in spec.template.metadata.labels["sidecar.istio.io/inject"]="false"`, Fails: "the pod of the labelled namespace: no sidecar"},
				{Break: `Deployment/-out spec.template.metadata.labels["sidecar.istio.io/inject"]="true"`, Fails: "the pod that declines: a sidecar"},
			},
		},
		{
			Name:      "Mesh/ProbeRewrite",
			Doc:       "Kubelet's HTTP probe reaches a container whose port takes mutual TLS only.",
			Fixture:   "mesh/probe-rewrite.yaml",
			Needs:     []Capability{Injection},
			Workload:  Own,
			Injection: true,
			Mesh:      true,
			Judged:    fmt.Sprintf("exact: the pod is ready within %s, while plain text to the probed port is refused; %d refused probes end the wait", probeLimit, refusedProbes),
			Covers:    []string{"Pod.metadata.annotations{}", "Pod.spec.containers[].readinessProbe.httpGet.port", "PeerAuthentication.spec.mtls.mode=STRICT"},
			Check:     checkProbeRewrite,
			Controls: []Control{
				{Break: "PeerAuthentication spec.mtls.mode=PERMISSIVE", Fails: "plain text to the probed port: plain instead of eof or reset"},
				{Break: "the probe is left as it is written", Fails: "refused probes", Do: leaveProbes},
			},
		},
	}
}

const (
	// probeLimit is how long a pod may take to be ready; its probe runs every second.
	probeLimit = 20 * time.Second
	// unhealthyOf are more than a pod that is just starting has.
	refusedProbes = 4
	drainWork     = 4 * time.Second
)

// sidecarOf finds the native sidecar: the init container that does not end.
func sidecarOf(p *corev1.Pod) *corev1.Container {
	for i, c := range p.Spec.InitContainers {
		if c.Name == sidecarName && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			return &p.Spec.InitContainers[i]
		}
	}
	return nil
}

func checkInjection(ctx context.Context, e *Env) error {
	in, err := e.onePod(ctx, selector(e)+"-in")
	if err != nil {
		return err
	}
	if sidecarOf(in) == nil {
		return mismatch("the pod of the labelled namespace: a native sidecar", "the pod of the labelled namespace: no sidecar among %s", containers(in))
	}
	if err := startedFirst(in); err != nil {
		return err
	}
	out, err := e.onePod(ctx, selector(e)+"-out")
	if err != nil {
		return err
	}
	without := map[string]*corev1.Pod{"the pod that declines": out}
	unlabelled, err := e.Kube.CoreV1().Pods(e.pool).List(ctx, metav1.ListOptions{LabelSelector: "app=echo"})
	if err != nil {
		return fmt.Errorf("list the run's own backends: %w", err)
	}
	for _, p := range unlabelled.Items {
		without["pod "+p.Name+" of a namespace without label"] = &p
	}
	for what, p := range without {
		if hasProxy(p) {
			return mismatch(what+": no sidecar", "%s: a sidecar among %s", what, containers(p))
		}
	}
	client, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	return takesBy(ctx, e, client, []route{
		{"a server with a sidecar", loadgen.Request{URL: "http://" + e.fromPool(e.Name()+"-in") + "/"}, e.clientIdentity()},
		{"a server without", loadgen.Request{URL: "http://" + e.fromPool(e.Name()+"-out") + "/"}, plain},
	}, caller)
}

// startedFirst judges that the sidecar was started before the pod's own containers. Kubernetes tells whole seconds.
func startedFirst(p *corev1.Pod) error {
	i := slices.IndexFunc(p.Status.InitContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == sidecarName })
	if i < 0 {
		return mismatch("a state of the sidecar", "none")
	}
	s := p.Status.InitContainerStatuses[i]
	if s.Started == nil || !*s.Started || s.State.Running == nil {
		return mismatch("a sidecar that has started and runs on", "%+v", s.State)
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running == nil || c.State.Running.StartedAt.Before(&s.State.Running.StartedAt) {
			return mismatch("a container that runs, started after the sidecar at "+s.State.Running.StartedAt.String(), "%s: %+v", c.Name, c.State.Running)
		}
	}
	return nil
}

func containers(p *corev1.Pod) string {
	var out []string
	for _, c := range append(slices.Clone(p.Spec.InitContainers), p.Spec.Containers...) {
		out = append(out, c.Name)
	}
	return strings.Join(out, ", ")
}

func checkProbeRewrite(ctx context.Context, e *Env) error {
	var ready corev1.Pod
	if err := e.within(ctx, probeLimit, "the probed pod is ready", func(ctx context.Context) (bool, error) {
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
		if err != nil {
			return false, err
		}
		for _, p := range list.Items {
			if fixtures.PodReady(&p) {
				ready = p
				return true, nil
			}
			if p.DeletionTimestamp == nil {
				return false, unhealthyOf(ctx, e, p.Name)
			}
		}
		return false, errors.New("there is no pod")
	}); err != nil {
		return err
	}
	outsider, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	return takesBy(ctx, e, outsider, []route{
		{"plain text to the probed port", loadgen.Request{URL: "http://" + hostPort(ready.Status.PodIP, 8080) + "/probe"}, "eof|reset"},
	}, caller)
}

// unhealthyOf says that a pod is not ready, and, once kubelet has told of enough failed probes, that it will not be.
func unhealthyOf(ctx context.Context, e *Env, name string) error {
	events, err := e.Kube.CoreV1().Events(e.Namespace()).List(ctx, metav1.ListOptions{FieldSelector: "reason=Unhealthy,involvedObject.name=" + name})
	if err != nil {
		return err
	}
	count, last := 0, ""
	for _, event := range events.Items {
		count, last = count+max(1, int(event.Count)), event.Message
	}
	if count >= refusedProbes {
		return mismatch("the probed pod is ready", "%d refused probes: %s", count, last)
	}
	return fmt.Errorf("%s is not ready, %d probes failed", name, count)
}

// leaveProbes has the injector keep the probe as it is written. Applying the fixture again takes it back.
func leaveProbes(ctx context.Context, e *Env) error {
	_, err := e.Kube.AppsV1().Deployments(e.Namespace()).Patch(ctx, e.Name(), types.MergePatchType,
		[]byte(`{"spec":{"template":{"metadata":{"annotations":{"sidecar.istio.io/rewriteAppHTTPProbers":"false"}}}}}`), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("leave the probe: %w", err)
	}
	return e.Until(ctx, "the old pod is gone", func(ctx context.Context) (bool, error) {
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
		if err != nil {
			return false, err
		}
		for _, p := range list.Items {
			if p.Annotations["sidecar.istio.io/rewriteAppHTTPProbers"] != "false" {
				return false, nil
			}
		}
		return len(list.Items) > 0, nil
	})
}
