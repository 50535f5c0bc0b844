// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// meshCases are clients and servers with sidecars.
func meshCases() []Case {
	return slices.Concat(meshClients(), meshIdentities(), meshPods())
}

// meshClients are what a sidecar does for the requests of its own pod.
func meshClients() []Case {
	return []Case{
		{
			Name:    "Mesh/RoundRobin",
			Doc:     "A sidecar gives every endpoint its turn, for a client that knows one name only.",
			Fixture: "mesh/round-robin.yaml",
			Needs:   []Capability{Injection},
			Mesh:    true,
			Judged: fmt.Sprintf("exact: a kept connection is one worker of the sidecar with turns of its own, so any %d picks in a row are distinct; %d connections of %d requests; random picks look so with probability %.1g",
				turnEndpoints, turnConnections, turnPicks, stats.CycleChance(turnPicks, turnEndpoints)),
			Covers: []string{"DestinationRule.spec.trafficPolicy.loadBalancer.simple=ROUND_ROBIN", "VirtualService.spec.gateways[]=mesh"},
			Check:  checkMeshTurns,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.simple=RANDOM", Fails: "not a cycle"},
				{Break: "DestinationRule spec.subsets[0].labels.version=v2", Fails: "not a cycle"},
			},
		},
		{
			Name:    "Mesh/RetriesAndTimeout",
			Doc:     "A sidecar tries again and gives up on behalf of a client that does neither.",
			Fixture: "mesh/retries.yaml",
			Needs:   []Capability{Injection},
			Mesh:    true,
			Judged:  fmt.Sprintf("exact: what each of two requests ends in and how often the one backend receives it; the answer that is given up on would take %s, the timeout is 300ms", meshSlow),
			Covers: []string{
				"VirtualService.spec.http[].retries.attempts", "VirtualService.spec.http[].retries.retryOn", "VirtualService.spec.http[].timeout",
			},
			Check: checkMeshRetries,
			Controls: []Control{
				{Break: "VirtualService spec.http[1].retries={attempts: 0}", Fails: "two failures: 503 after 1 tries"},
				{Break: `VirtualService spec.http[1].retries.retryOn="500"`, Fails: "two failures: 503 after 1 tries"},
				{Break: "VirtualService spec.http[0].timeout=10s", Fails: "a slow answer: 200 after 1 tries"},
			},
		},
		{
			Name:      "Mesh/SidecarEgress",
			Doc:       "A Sidecar's pods reach the hosts that it lists, and nothing else under REGISTRY_ONLY.",
			Fixture:   "mesh/sidecar-egress.yaml",
			Needs:     []Capability{Injection},
			Workload:  Own,
			Injection: true,
			Judged:    judgedExactly(len(egressTable(sampleEnv()))),
			Covers: []string{
				"Sidecar.spec.egress[].hosts[]", "Sidecar.spec.outboundTrafficPolicy.mode=REGISTRY_ONLY", "Sidecar.spec.outboundTrafficPolicy.mode=ALLOW_ANY",
				"Sidecar.spec.workloadSelector.labels{}",
			},
			Check: func(ctx context.Context, e *Env) error {
				client, err := e.onePod(ctx, "app="+e.Name()+"-client")
				if err != nil {
					return err
				}
				from := loadgen.Pod{Config: e.Config, Namespace: client.Namespace, Name: client.Name, Container: "echo"}
				return takes(ctx, e, from, egressTable(e))
			},
			Controls: []Control{
				{Break: `Sidecar spec.egress[0].hosts=["./*", "*/*.live.harness.test"]`, Fails: "got 4 that were not; a Service that is not listed: v1 instead of 502"},
				{Break: "Sidecar spec.outboundTrafficPolicy.mode=ALLOW_ANY", Fails: "an unknown host: v1 instead of 502"},
				{Break: "Sidecar spec.workloadSelector.labels.app=nobody", Fails: "a Service that is not listed: v1 instead of 502"},
			},
		},
	}
}

// meshSlow is how long a backend takes that nobody waits for.
const meshSlow = 3 * time.Second

func checkMeshTurns(ctx context.Context, e *Env) error {
	client, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	for c := range turnConnections {
		xs, err := e.Burst(ctx, client, loadgen.Burst{Requests: []loadgen.Request{{URL: "http://" + e.Name() + "/"}}, Count: turnPicks})
		if err != nil {
			return err
		}
		if err := all("one connection", xs, "200"); err != nil {
			return err
		}
		var picks []string
		for i, x := range xs {
			if x.Conn != xs[0].Conn {
				return fmt.Errorf("request %d went over another connection: turns cannot be judged", i)
			}
			picks = append(picks, pod(x))
		}
		if err := stats.Cycle(picks, turnEndpoints, 1); err != nil {
			return &Mismatch{
				Want: fmt.Sprintf("a cycle over %d endpoints on connection %d", turnEndpoints, c+1), Got: err.Error(), Distribution: turns(picks),
			}
		}
	}
	return nil
}

func checkMeshRetries(ctx context.Context, e *Env) error {
	client, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	prefix := e.Prefix()
	get := func(path string, commands ...string) loadgen.Request {
		return e.Commanded(loadgen.Request{URL: "http://" + e.Name() + path}, commands...)
	}
	table := []struct {
		name    string
		request loadgen.Request
		status  int
		tries   int
	}{
		{"two failures", get("/", "first=2", "key="+prefix, "status=503"), http.StatusOK, 3},
		{"a slow answer", get("/slow", "delay="+meshSlow.String()), http.StatusGatewayTimeout, 1},
	}
	b := loadgen.Burst{Count: len(table), Connections: len(table), IDPrefix: prefix}
	for _, t := range table {
		b.Requests = append(b.Requests, t.request)
	}
	xs, err := e.Burst(ctx, client, b)
	if err != nil {
		return err
	}
	seen, err := received(ctx, e, prefix)
	if err != nil {
		return err
	}
	for i, t := range table {
		got, tries := outcomeOf(xs[i]), sum(seen[prefix+"-"+strconv.Itoa(i)])
		if got != strconv.Itoa(t.status) || tries != t.tries {
			return &Mismatch{
				Want: fmt.Sprintf("%s: %d after %d tries", t.name, t.status, t.tries), Got: fmt.Sprintf("%s: %s after %d tries", t.name, got, tries),
				Exchanges: xs[i : i+1],
			}
		}
	}
	return nil
}

// egressTable dials the listed Service for a host that nobody has: without a registry that knows it, that is where it ends.
func egressTable(e *Env) []route {
	unknown := loadgen.Request{URL: "http://" + e.Vars["HOST"] + "/", Address: e.Name() + ":80"}
	return []route{
		{"the listed Service", loadgen.Request{URL: "http://" + e.Name() + "/"}, "v1"},
		{"a Service that is not listed", loadgen.Request{URL: "http://" + e.Name() + "-other/"}, "502"},
		{"an unknown host", unknown, "502"},
	}
}

// onePod is the one ready pod that the selector finds.
func (e *Env) onePod(ctx context.Context, selector string) (*corev1.Pod, error) {
	pods, err := e.Pods(ctx, selector)
	if err != nil {
		return nil, err
	}
	if len(pods) != 1 {
		return nil, fmt.Errorf("%d pods %q are ready, want 1", len(pods), selector)
	}
	return &pods[0], nil
}

// plain is what a server hears of a client without an identity.
const plain = "plain"

// forwarded is the client's identity in the header that the server's sidecar writes.
var forwarded = regexp.MustCompile(`URI=spiffe://[^/;]+(/ns/[^;]+)`)

// caller names the client as the server knows it: by its identity without the trust domain, as plain, or by the outcome.
func caller(x loadgen.Exchange) string {
	if x.ErrKind != "" || pod(x) == "" {
		return outcomeOf(x)
	}
	a, err := answer(x)
	if err != nil {
		return "no answer"
	}
	if m := forwarded.FindStringSubmatch(a.Header.Get("X-Forwarded-Client-Cert")); m != nil {
		return m[1]
	}
	return plain
}

// clientIdentity is that of the run's own clients.
func (e *Env) clientIdentity() string { return "/ns/" + e.pool + "/sa/default" }

// fromPool addresses a Service of the case's namespace from the run's clients.
func (e *Env) fromPool(service string) string { return service + "." + e.Namespace() }
