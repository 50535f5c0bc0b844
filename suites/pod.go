// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

const (
	readinessPods = 3
	// readinessLimit bounds how long kubelet may take to notice: its probe runs every second and one answer is enough.
	readinessLimit = 10 * time.Second
)

// readinessAnswers is how many requests a pod that is still in the rotation would stay silent for, with a chance of 1e-6.
func readinessAnswers() int { return stats.CoverPlan(readinessPods, 1e-6/2) }

func podCases() []Case {
	return slices.Concat(podReadiness(), podProbes(), podEnds(), podStarts(), podPlaces())
}

func podReadiness() []Case {
	return []Case{{
		Name:     "Pod/Readiness",
		Doc:      "A pod that says it is not ready gets no traffic, through the gateway or the Service, until it says it is.",
		Fixture:  "pod/readiness.yaml",
		Workload: Own,
		Direct:   true,
		Judged: fmt.Sprintf("exact: none of %d answers each by gateway and by cluster address is the pod's (one still among %d would be missed with a chance of 1e-6); then every pod answers; kubelet has %s for each change",
			readinessAnswers(), readinessPods, readinessLimit),
		Covers:  []string{"Pod.spec.containers[].readinessProbe.httpGet.path", "Pod.spec.containers[].readinessProbe.failureThreshold", "Pod.status.conditions[].status"},
		Samples: []Sample{covers("pods reached in the end, by gateway and by cluster address", readinessPods, readinessAnswers(), 1e-6)},
		Check:   checkReadiness,
		Controls: []Control{
			{Break: "Deployment spec.template.spec.containers[0].readinessProbe=", Fails: "is not ready within"},
			{Break: "Deployment spec.template.spec.containers[0].readinessProbe.httpGet.path=/healthz", Fails: "is not ready within"},
		},
	}}
}

func checkReadiness(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if len(pods) != readinessPods {
		return fmt.Errorf("%d pods are ready, want %d", len(pods), readinessPods)
	}
	names := podNames(pods)
	victim := names[0]
	say := func(ctx context.Context, ready string) error {
		_, err := e.Control(ctx, "POST", victim, "/control", url.Values{"ready": {ready}})
		return err
	}
	if err := say(ctx, "false"); err != nil {
		return err
	}
	if err := e.turns(ctx, victim, false); err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == victim })
	if err := answeredBy(ctx, e, "with "+victim+" not ready", others); err != nil {
		return err
	}
	if err := say(ctx, "true"); err != nil {
		return err
	}
	if err := e.turns(ctx, victim, true); err != nil {
		return err
	}
	return answeredBy(ctx, e, "with all pods ready", names)
}

// turns waits until kubelet has noticed the pod's readiness and everybody has learnt of it.
func (e *Env) turns(ctx context.Context, name string, ready bool) error {
	want := name + " is ready"
	if !ready {
		want = name + " is not ready"
	}
	err := e.within(ctx, readinessLimit, want, func(ctx context.Context) (bool, error) {
		p, err := e.Kube.CoreV1().Pods(e.Namespace()).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if fixtures.PodReady(p) != ready {
			return false, fmt.Errorf("its condition Ready is %s", readyStatus(p))
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return e.Live(ctx)
}

func readyStatus(p *corev1.Pod) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// answeredBy judges that exactly these pods answer, through the gateway and at the Service's own address.
func answeredBy(ctx context.Context, e *Env, what string, names []string) error {
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: readinessAnswers(), Policy: loadgen.Fresh, Connections: 4})
	if err != nil {
		return err
	}
	if err := reached(what+", through the gateway", xs, pod, names); err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	xs, err = e.Burst(ctx, from, loadgen.Burst{
		Requests: []loadgen.Request{{URL: "http://" + s.Spec.ClusterIP + "/"}}, Count: readinessAnswers(), Policy: loadgen.Fresh, Connections: 4,
	})
	if err != nil {
		return err
	}
	return reached(what+", at the cluster address", xs, pod, names)
}
