// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"harness.example/harness/loadgen"
	"harness.example/harness/suites/envoy"
)

const (
	booksRate     = 200.0
	booksDuration = 3 * time.Second
)

// threeBooks has a load counted by the client, by the backends and by Envoy.
func threeBooks() Case {
	return Case{
		Name:    "Path/ThreeBooks",
		Doc:     "Client, backends and the gateway's Envoy count the same requests, pod by pod.",
		Fixture: "path/three-books.yaml",
		Judged: fmt.Sprintf("exact: an open-loop load of %g requests; for each pod the answers that the client has of it, the requests that it has itself received, each number once, and those that Envoy "+
			"has sent to it are one figure", booksRate*booksDuration.Seconds()),
		Covers: []string{"VirtualService.spec.http[].route[].destination.subset"},
		Check:  checkThreeBooks,
		Controls: []Control{
			{Break: "copies to v3", Fails: "of version v3: client 0, backend ", Do: mirrorToThird},
			{Break: "VirtualService spec.http[0].fault={abort: {httpStatus: 418, percentage: {value: 20}}}", Fails: "sent 600"},
		},
	}
}

// mirrorToThird has copies sent to pods that never answer the client.
func mirrorToThird(ctx context.Context, e *Env) error {
	return e.change(ctx, fmt.Sprintf("VirtualService spec.http[0].mirror={host: %s, subset: v3}", e.Name()))
}

func checkThreeBooks(ctx context.Context, e *Env) error {
	prefix := e.Prefix()
	gateways, err := e.gatewayPods(ctx)
	if err != nil {
		return err
	}
	before, err := e.envoyBook(ctx, gateways...)
	if err != nil {
		return err
	}
	result, err := e.Plan(ctx, "three books", e.Outside(), loadgen.Plan{
		Requests: []loadgen.Request{e.URL("/")}, Rate: booksRate, Duration: booksDuration, Connections: 8, IDPrefix: prefix, MaxLag: loadMaxLag,
	})
	if err != nil {
		return err
	}
	pods, err := e.Pods(ctx, "app=echo")
	if err != nil {
		return err
	}
	// A copy may arrive after the answer: what is compared has to have come to rest.
	book, err := e.backendBook(ctx, pods, prefix)
	if err != nil {
		return err
	}
	after, err := e.envoyBook(ctx, gateways...)
	if err != nil {
		return err
	}
	var wrong []string
	var bars []Bar
	for _, p := range pods {
		client, backend, envoy := int(result.Backends[p.Name]), book[p.Name], after[p.Status.PodIP]-before[p.Status.PodIP]
		bars = append(bars, Bar{Name: p.Name, Count: float64(envoy), Low: float64(client), High: float64(client), Expected: float64(client)})
		if client != backend || client != envoy {
			wrong = append(wrong, fmt.Sprintf("pod %s of version %s: client %d, backend %d, Envoy %d", p.Name, p.Labels["version"], client, backend, envoy))
		}
	}
	answered := 0
	for _, n := range result.Backends {
		answered += int(n)
	}
	if sent := int(result.Sent); answered != sent {
		wrong = append(wrong, fmt.Sprintf("the client has sent %d and has %d answers of backends", sent, answered))
	}
	if len(wrong) > 0 {
		return &Mismatch{Want: "three books that agree", Got: strings.Join(wrong, "; "), Distribution: bars}
	}
	e.Figure("requests in each of three books", float64(answered), "requests")
	return nil
}

// backendBook is how many different requests with the prefix each pod has received; one that arrived twice anywhere is a
// mismatch.
func (e *Env) backendBook(ctx context.Context, pods []corev1.Pod, prefix string) (map[string]int, error) {
	var out map[string]int
	last := -1
	err := e.Until(ctx, "the backends' books have come to rest", func(ctx context.Context) (bool, error) {
		seen, err := e.Seen(ctx, pods, prefix+"-")
		if err != nil {
			return false, err
		}
		out = map[string]int{}
		total := 0
		for name, ids := range seen {
			out[name] = sum(ids)
			total += out[name]
		}
		rest := total == last
		last = total
		return rest, nil
	})
	return out, err
}

// envoyBook is how many requests the gateway pods have sent to each address, in all clusters of the case's Service.
func (e *Env) envoyBook(ctx context.Context, gateways ...corev1.Pod) (map[string]int, error) {
	out := map[string]int{}
	for _, p := range gateways {
		body, err := e.admin(ctx, &p, "/clusters?format=json")
		if err != nil {
			return nil, fmt.Errorf("read the clusters of %s: %w", p.Name, err)
		}
		clusters, err := envoy.Clusters(body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		for _, c := range clusters {
			if !strings.Contains(c.Name, "|"+e.Name()+"."+e.Namespace()+".svc.") {
				continue
			}
			for _, h := range c.Hosts {
				out[h.Address.Socket.Address] += int(h.Requests()) //nolint:gosec // a count of requests
			}
		}
	}
	return out, nil
}
