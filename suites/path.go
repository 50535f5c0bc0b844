// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"harness.example/harness/fixtures/echo"
	"harness.example/harness/loadgen"
)

func pathCases() []Case {
	return []Case{
		{
			Name: "Path/WholePath",
			Doc: "One request from outside passes Gateway, VirtualService, DestinationRule subset and Service to a pod of the Deployment that the " +
				"autoscaler scales, and each hop shows in its answer.",
			Fixture:  "path/whole-path.yaml",
			Workload: Own,
			Covers: []string{
				"Gateway.spec.servers[].hosts[]", "Gateway.spec.selector{}", "VirtualService.spec.gateways[]", "VirtualService.spec.http[].route[].destination.subset",
				"VirtualService.spec.http[].route[].headers.response.set{}", "DestinationRule.spec.subsets[].labels{}", "Service.spec.selector{}",
				"HorizontalPodAutoscaler.spec.scaleTargetRef.name", "HorizontalPodAutoscaler.spec.minReplicas",
			},
			Judged: "Exactly, one request (n = 1, nothing is random): the gateway's pod as the peer, its route, cluster and upstream address as it wrote them into the " +
				"answer, the address in the Service's EndpointSlice, the pod's own account of itself, its labels, its owners by UID up to the Deployment, and the " +
				"autoscaler, which must have given the Deployment a number of pods that its manifest does not.",
			Check: checkWholePath,
			Controls: []Control{
				{Break: "Gateway spec.servers[0].hosts=[other.harness.test]", Fails: "404"},
				{Break: "VirtualService spec.http[0].route[0].destination.subset=v2", Fails: "subset v1 of the Service"},
				{Break: "DestinationRule spec.subsets[0].labels.version=v2", Fails: "version=v1"},
				{Break: "Service spec.selector.app=nobody", Fails: "503"},
				{Break: "HorizontalPodAutoscaler spec.scaleTargetRef.name=other", Fails: "no autoscaler scales"},
			},
		},
		seedCase(),
	}
}

// trail is one request's way, hop by hop.
type trail struct {
	e        *Env
	exchange loadgen.Exchange
	answer   echo.Answer
	pod      *corev1.Pod
	hops     []string
}

func (t *trail) hop(format string, a ...any) { t.hops = append(t.hops, fmt.Sprintf(format, a...)) }

func checkWholePath(ctx context.Context, e *Env) error {
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/whole/path")}, Count: 1})
	if err != nil {
		return err
	}
	if err := all("through the whole path", xs, "200"); err != nil {
		return err
	}
	t := &trail{e: e, exchange: xs[0]}
	if t.answer, err = answer(xs[0]); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{t.gateway, t.routing, t.backend, t.service, t.owners} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	e.Note("%s", strings.Join(t.hops, " → "))
	return nil
}

// gateway judges whom the pod saw as its peer: one of the gateway's pods, with the host that was asked for.
func (t *trail) gateway(ctx context.Context) error {
	g := t.e.Target.Gateway
	pods, err := t.e.Kube.CoreV1().Pods(g.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(g.Selector).String()})
	if err != nil {
		return fmt.Errorf("find the gateway's pods: %w", err)
	}
	peer, _, err := net.SplitHostPort(t.answer.Remote)
	if err != nil {
		return fmt.Errorf("the peer that the pod saw: %w", err)
	}
	i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return p.Status.PodIP == peer })
	if i < 0 {
		return mismatch("a pod of the gateway as the peer of the pod", "%s", peer)
	}
	if t.answer.Host != t.e.Vars["HOST"] {
		return mismatch("host "+t.e.Vars["HOST"]+" at the pod", "%s", t.answer.Host)
	}
	t.hop("Gateway pod %s", pods.Items[i].Name)
	return nil
}

// routing judges what the gateway says that it chose.
func (t *trail) routing(context.Context) error {
	h := t.exchange.Header
	if got := h.Get("X-Path-Route"); got != t.e.Name() {
		return mismatch("the VirtualService's route "+t.e.Name(), "%q", got)
	}
	want := fmt.Sprintf("outbound|80|v1|%s.%s.svc.", t.e.Name(), t.e.Namespace())
	cluster := h.Get("X-Path-Cluster")
	if !strings.HasPrefix(cluster, want) {
		return mismatch("subset v1 of the Service, cluster "+want+"…", "%q", cluster)
	}
	upstream := net.JoinHostPort(t.answer.IP, "8080")
	if got := h.Get("X-Path-Upstream"); got != upstream {
		return mismatch("the gateway to have sent to the pod that answered, "+upstream, "%q", got)
	}
	t.hop("VirtualService route %s", h.Get("X-Path-Route"))
	t.hop("DestinationRule and Service as cluster %s", cluster)
	return nil
}

// backend judges the pod's account of itself against the API server's, and its labels against the subset.
func (t *trail) backend(ctx context.Context) error {
	p, err := t.e.Kube.CoreV1().Pods(t.e.Namespace()).Get(ctx, t.answer.Pod, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the pod that answered: %w", err)
	}
	t.pod = p
	for _, fact := range []struct{ name, said, is string }{
		{"namespace", t.answer.Namespace, p.Namespace}, {"node", t.answer.Node, p.Spec.NodeName}, {"address", t.answer.IP, p.Status.PodIP},
	} {
		if fact.said != fact.is {
			return mismatch(fmt.Sprintf("pod %s to know its %s, %s", p.Name, fact.name, fact.is), "%q", fact.said)
		}
	}
	if t.answer.Version != "v1" || p.Labels["version"] != "v1" {
		return mismatch("a pod of the subset, labelled version=v1 and calling itself v1", "pod %s, labelled %q, calling itself %q", p.Name, p.Labels["version"], t.answer.Version)
	}
	return nil
}

// service judges that the Service's EndpointSlices have the pod as a ready endpoint.
func (t *trail) service(ctx context.Context) error {
	list, err := t.e.Kube.DiscoveryV1().EndpointSlices(t.e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + t.e.Name()})
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	var have []string
	for _, slice := range list.Items {
		for _, ep := range slice.Endpoints {
			have = append(have, ep.Addresses...)
			if ptr.Deref(ep.Conditions.Ready, true) && ep.TargetRef != nil && ep.TargetRef.UID == t.pod.UID && slices.Contains(ep.Addresses, t.answer.IP) {
				t.hop("EndpointSlice %s", slice.Name)
				t.hop("Pod %s on %s", t.pod.Name, t.pod.Spec.NodeName)
				return nil
			}
		}
	}
	return mismatch(fmt.Sprintf("pod %s as a ready endpoint %s of the Service", t.pod.Name, t.answer.IP), "%s", strings.Join(have, ", "))
}

// owners judges who made the pod: ReplicaSet, Deployment, autoscaler.
func (t *trail) owners(ctx context.Context) error {
	d, set, err := t.e.deploymentOf(ctx, t.pod)
	if err != nil {
		return err
	}
	t.hop("ReplicaSet %s", set)
	t.hop("Deployment %s", d.Name)
	if want := t.e.Name() + "-v1"; d.Name != want {
		return mismatch("Deployment "+want, "%s", d.Name)
	}
	h, err := t.e.scalerOf(ctx, d)
	if err != nil {
		return err
	}
	t.hop("HorizontalPodAutoscaler %s", h.Name)
	return nil
}

// deploymentOf follows a pod's controllers, by UID, since a name may have been used before.
func (e *Env) deploymentOf(ctx context.Context, p *corev1.Pod) (d *appsv1.Deployment, replicaSet string, err error) {
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return nil, "", mismatch("pod "+p.Name+" to be owned by a ReplicaSet", "%v", ref)
	}
	set, err := e.Kube.AppsV1().ReplicaSets(p.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("read the pod's ReplicaSet: %w", err)
	}
	up := metav1.GetControllerOf(set)
	if set.UID != ref.UID || up == nil || up.Kind != "Deployment" {
		return nil, "", mismatch("ReplicaSet "+set.Name+" to be the pod's and owned by a Deployment", "UID %s, the pod's owner %s, owned by %v", set.UID, ref.UID, up)
	}
	d, err = e.Kube.AppsV1().Deployments(p.Namespace).Get(ctx, up.Name, metav1.GetOptions{})
	if err != nil {
		return nil, "", fmt.Errorf("read the pod's Deployment: %w", err)
	}
	if d.UID != up.UID {
		return nil, "", mismatch("Deployment "+d.Name+" to be the ReplicaSet's", "UID %s, the ReplicaSet's owner %s", d.UID, up.UID)
	}
	return d, set.Name, nil
}

// scalerOf finds the autoscaler of a Deployment and waits until it has acted: its first look comes up to 15 s after it was
// made.
func (e *Env) scalerOf(ctx context.Context, d *appsv1.Deployment) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	api := e.Kube.AutoscalingV2().HorizontalPodAutoscalers(d.Namespace)
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list autoscalers: %w", err)
	}
	scales := map[string]string{}
	for _, h := range list.Items {
		scales[h.Name] = h.Spec.ScaleTargetRef.Kind + " " + h.Spec.ScaleTargetRef.Name
		if h.Spec.ScaleTargetRef != (autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name}) {
			continue
		}
		return &h, e.within(ctx, deploymentPatience, "the autoscaler scales the Deployment", func(ctx context.Context) (bool, error) {
			d, err := e.Kube.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if replicas, least := ptr.Deref(d.Spec.Replicas, 1), ptr.Deref(h.Spec.MinReplicas, 1); replicas < least {
				return false, fmt.Errorf("the Deployment has %d pods, the autoscaler's least is %d", replicas, least)
			}
			live, err := api.Get(ctx, h.Name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			able := slices.ContainsFunc(live.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
				return c.Type == autoscalingv2.AbleToScale && c.Status == corev1.ConditionTrue
			})
			return able, errors.New(said(live))
		})
	}
	return nil, mismatch("an autoscaler for Deployment "+d.Name, "no autoscaler scales it; there are %v", scales)
}
