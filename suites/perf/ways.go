// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// The ways that are compared. Direct is what the others are held against.
const (
	direct  = "direct"
	planted = "planted"
)

// A way leads from a client pod to a backend pod.
type way struct {
	name, path string // path names what is passed
	client     loadgen.Pod
	request    loadgen.Request
	backend    corev1.Pod
	hops       []Hop
	// proxied and mutual are what the backend must see of the way: the marks of an Envoy, and a client's certificate.
	proxied, mutual bool
	from            []string // addresses that may be the backend's peer, nil = any
}

// site is where the pods of a measurement are.
type site struct {
	lab      *Lab
	kube     kubernetes.Interface
	pods     map[string]corev1.Pod
	gateways []corev1.Pod
	nodes    Nodes
}

// Nodes are where a measurement took place. All ways have the same two ends.
type Nodes struct {
	Client   string   `json:"client"`
	Server   string   `json:"server"`
	Gateways []string `json:"gateways"`
}

// gatewayPods are the gateway's ready pods.
func gatewayPods(ctx context.Context, kube kubernetes.Interface, g Gateway) ([]corev1.Pod, error) {
	if g.Service == "" || g.Namespace == "" || g.Selector["istio"] == "" {
		return nil, errors.New("there is no ingress gateway to measure")
	}
	out, err := fixtures.ReadyPods(ctx, kube, g.Namespace, labels.SelectorFromSet(g.Selector).String())
	if err != nil {
		return nil, fmt.Errorf("the gateway: %w", err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no pod of the gateway %s/%s is ready", g.Namespace, g.Service)
	}
	return out, nil
}

// place chooses the nodes: the backends beside the first gateway pod, the clients on another node. Every way then crosses
// between nodes once, and what differs is the proxies. With one node for workloads everything is on it.
func place(ctx context.Context, kube kubernetes.Interface, gateways []corev1.Pod) (Nodes, error) {
	n := Nodes{Server: gateways[0].Spec.NodeName, Client: gateways[0].Spec.NodeName}
	for _, p := range gateways {
		n.Gateways = append(n.Gateways, p.Spec.NodeName)
	}
	list, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return n, fmt.Errorf("list nodes: %w", err)
	}
	for _, node := range list.Items {
		closed := node.Spec.Unschedulable || slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule })
		if !closed && !slices.Contains(n.Gateways, node.Name) {
			n.Client = node.Name
			break
		}
	}
	return n, nil
}

// ways are all there are, direct first. plant adds the one with a delay.
func (s *site) ways(ctx context.Context, c Cluster, plant bool) ([]way, error) {
	plain, err := s.service(ctx, s.lab.Namespace, "plain")
	if err != nil {
		return nil, err
	}
	mesh, err := s.service(ctx, s.lab.Namespace, "mesh")
	if err != nil {
		return nil, err
	}
	gateway, err := s.service(ctx, c.Gateway.Namespace, c.Gateway.Service)
	if err != nil {
		return nil, err
	}
	client := func(pod string) loadgen.Pod {
		return loadgen.Pod{Config: c.Config, Namespace: s.lab.Namespace, Name: pod, Container: "echo"}
	}
	to := func(host, address string) loadgen.Request {
		return loadgen.Request{URL: "http://" + host + "/", Address: address}
	}
	outbound := func(pod, service string) Hop {
		return Hop{Name: pod, Pods: []corev1.Pod{s.pods[pod]}, Cluster: "outbound|80||" + service + "." + s.lab.Namespace + ".svc."}
	}
	atGateway := Hop{Name: "gateway", Pods: s.gateways, Cluster: outbound("", "plain").Cluster}
	var gatewayIPs []string
	for _, p := range s.gateways {
		gatewayIPs = append(gatewayIPs, p.Status.PodIP)
	}
	host := func(service string) string { return service + "." + s.lab.Namespace + ".svc.cluster.local" }
	out := []way{
		{
			name: direct, path: "client → pod", client: client("client"), backend: s.pods["plain"],
			request: to("plain", net.JoinHostPort(s.pods["plain"].Status.PodIP, "8080")),
		},
		{name: "service", path: "client → ClusterIP → pod", client: client("client"), backend: s.pods["plain"], request: to(host("plain"), plain)},
		{
			name: "gateway", path: "client → gateway → pod", client: client("client"), backend: s.pods["plain"],
			request: to("gateway."+s.lab.Namespace+".test", gateway), hops: []Hop{atGateway}, proxied: true, from: gatewayIPs,
		},
		{
			name: "sidecar", path: "client → its sidecar → pod", client: client("client-sidecar"), backend: s.pods["plain"],
			request: to(host("plain"), plain), hops: []Hop{outbound("client-sidecar", "plain")}, proxied: true, from: []string{s.pods["client-sidecar"].Status.PodIP},
		},
		{
			name: "mtls", path: "client → its sidecar → mutual TLS → the pod's sidecar → pod", client: client("client-mtls"), backend: s.pods["mesh"],
			request: to(host("mesh"), mesh), proxied: true, mutual: true,
			hops: []Hop{outbound("client-mtls", "mesh"), {Name: "mesh", Pods: []corev1.Pod{s.pods["mesh"]}, Cluster: "inbound|8080|"}},
		},
	}
	if plant {
		out = append(out, way{
			name: planted, path: "client → gateway with a delay → pod", client: client("client"), backend: s.pods["plain"],
			request: to("planted."+s.lab.Namespace+".test", gateway), hops: []Hop{atGateway}, proxied: true, from: gatewayIPs,
		})
	}
	return out, nil
}

// service is the address of a Service's port 80 inside the cluster.
func (s *site) service(ctx context.Context, namespace, name string) (string, error) {
	service, err := s.kube.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("find Service %s/%s: %w", namespace, name, err)
	}
	if !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == 80 }) || net.ParseIP(service.Spec.ClusterIP) == nil {
		return "", fmt.Errorf("the Service %s/%s has no port 80 at an address inside the cluster", namespace, name)
	}
	return net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(80)), nil
}

const (
	proofRequests = 10
	proofWithin   = 2 * time.Minute
)

// prove waits until the way is the one it is meant to be: some requests in a row, each over a connection of its own, are
// answered by its backend, which has seen on them what the way adds and nothing else.
func (w *way) prove(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, proofWithin, fmt.Errorf("it did not within %s", proofWithin))
	defer cancel()
	job := loadgen.Job{Burst: &loadgen.Burst{
		Count: proofRequests, Policy: loadgen.Fresh, Timeout: 5 * time.Second, Requests: []loadgen.Request{w.request},
	}}
	return waitFor(ctx, "the way "+w.name+" leads where it should", func(ctx context.Context) error {
		out, err := w.client.Do(ctx, job)
		if err != nil {
			return err
		}
		for _, x := range out.Exchanges {
			if err := w.shows(x); err != nil {
				return err
			}
		}
		return nil
	})
}

// shows says what an answer lacks, or has too much, to have come this way.
func (w *way) shows(x loadgen.Exchange) error {
	if x.Err != "" || x.Status != http.StatusOK {
		return fmt.Errorf("answered with %d %s", x.Status, x.Err)
	}
	var saw struct {
		Pod    string
		Header http.Header
		Remote string
	}
	if err := json.Unmarshal(x.Body, &saw); err != nil {
		return fmt.Errorf("the backend's answer: %w", err)
	}
	peer, _, _ := net.SplitHostPort(saw.Remote)
	_, proxied := saw.Header["X-Request-Id"]
	_, mutual := saw.Header["X-Forwarded-Client-Cert"]
	switch {
	case saw.Pod != w.backend.Name:
		return fmt.Errorf("pod %q answers, not %s", saw.Pod, w.backend.Name)
	case proxied != w.proxied:
		return fmt.Errorf("passed a proxy: %t, should: %t", proxied, w.proxied)
	case mutual != w.mutual:
		return fmt.Errorf("had a client's certificate: %t, should: %t", mutual, w.mutual)
	case w.from != nil && !slices.Contains(w.from, peer):
		return fmt.Errorf("came to the backend from %s, not from %v", peer, w.from)
	}
	return nil
}
