// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"

	"harness.example/harness/loadgen"
)

// meshIdentities are who may speak to a pod with a sidecar, and as whom.
func meshIdentities() []Case {
	return []Case{
		{
			Name:      "Mesh/StrictMTLS",
			Doc:       "STRICT refuses plain text and tells the server who a client of the mesh is; a port may be PERMISSIVE or have it off.",
			Fixture:   "mesh/strict-mtls.yaml",
			Needs:     []Capability{Injection},
			Workload:  Own,
			Injection: true,
			Mesh:      true,
			Judged:    judgedFromBoth(3),
			Covers: []string{
				"PeerAuthentication.spec.mtls.mode=STRICT", "PeerAuthentication.spec.mtls.mode=PERMISSIVE", "PeerAuthentication.spec.selector.matchLabels{}",
				"PeerAuthentication.spec.portLevelMtls{}.mode=PERMISSIVE", "PeerAuthentication.spec.portLevelMtls{}.mode=DISABLE",
				"PeerAuthentication.spec.portLevelMtls{}.mode=STRICT",
			},
			Check: checkStrictMTLS,
			Controls: []Control{
				{Break: "PeerAuthentication spec.mtls.mode=PERMISSIVE", Fails: "got 4 that were not; plain HTTP: plain instead of eof or reset"},
				{Break: "PeerAuthentication spec.selector.matchLabels.app=nobody", Fails: "got 4 that were not; plain HTTP: plain instead of eof or reset"},
				{Break: `PeerAuthentication spec.portLevelMtls["9000"].mode=STRICT`, Fails: "got 4 that were not; plain TCP: "},
				{Break: `PeerAuthentication spec.portLevelMtls["9090"].mode=STRICT`, Fails: "got 4 that were not; plain gRPC: "},
			},
		},
		{
			Name:      "Mesh/ClientTLS",
			Doc:       "A client's sidecar shows its identity when told to, or when nobody says, and speaks plain text when told to; PERMISSIVE takes both.",
			Fixture:   "mesh/client-tls.yaml",
			Needs:     []Capability{Injection},
			Workload:  Own,
			Injection: true,
			Mesh:      true,
			Judged:    judgedFromBoth(3),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.tls.mode=ISTIO_MUTUAL", "DestinationRule.spec.trafficPolicy.tls.mode=DISABLE",
				"PeerAuthentication.spec.mtls.mode=PERMISSIVE", "PeerAuthentication.spec.mtls.mode=DISABLE",
			},
			Check: checkClientTLS,
			Controls: []Control{
				{Break: "DestinationRule/-plain spec.trafficPolicy.tls.mode=ISTIO_MUTUAL", Fails: "told to speak plain text: /ns/"},
				{Break: "DestinationRule/-mutual spec.trafficPolicy.tls.mode=DISABLE", Fails: "told to show its identity: plain instead of /ns/"},
				{Break: "PeerAuthentication spec.mtls.mode=DISABLE", Fails: "not told: plain instead of /ns/"},
				{Break: "PeerAuthentication spec.mtls.mode=STRICT", Fails: "a client without a sidecar: "},
			},
		},
	}
}

// judgedFromBoth says how tables of a client with a sidecar and of one without are judged.
func judgedFromBoth(n int) string {
	return fmt.Sprintf("exact: each of %d kinds of connection, %d times from a client with a sidecar and from one without, ends in one way; whom the server takes the client for is its sidecar's word", n, routeTries)
}

func checkStrictMTLS(ctx context.Context, e *Env) error {
	server, err := e.onePod(ctx, selector(e))
	if err != nil {
		return err
	}
	mesh, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	name := e.fromPool(e.Name())
	if err := takesBy(ctx, e, mesh, []route{
		{"HTTP in the mesh", loadgen.Request{URL: "http://" + name + "/"}, e.clientIdentity()},
		{"gRPC in the mesh", call(name, 9090), e.clientIdentity()},
		{"TCP in the mesh", line(name, 9000), "v1"},
	}, streamCaller); err != nil {
		return err
	}
	outsider, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	ip := server.Status.PodIP
	return takesBy(ctx, e, outsider, []route{
		{"plain HTTP", loadgen.Request{URL: "http://" + hostPort(ip, 8080) + "/"}, "eof|reset"},
		{"plain gRPC", call(ip, 9090), plain},
		{"plain TCP", line(ip, 9000), "v1"},
	}, streamCaller)
}

// checkClientTLS begins with the client without a sidecar: what it meets does not depend on connections that a sidecar has kept.
func checkClientTLS(ctx context.Context, e *Env) error {
	server, err := e.onePod(ctx, selector(e))
	if err != nil {
		return err
	}
	outsider, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	if err := takesBy(ctx, e, outsider, []route{
		{"a client without a sidecar", loadgen.Request{URL: "http://" + hostPort(server.Status.PodIP, 8080) + "/"}, plain},
	}, caller); err != nil {
		return err
	}
	mesh, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	get := func(suffix string) loadgen.Request {
		return loadgen.Request{URL: "http://" + e.fromPool(e.Name()+suffix) + "/"}
	}
	return takesBy(ctx, e, mesh, []route{
		{"not told", get("-auto"), e.clientIdentity()},
		{"told to show its identity", get("-mutual"), e.clientIdentity()},
		{"told to speak plain text", get("-plain"), plain},
	}, caller)
}

// call is a gRPC call.
func call(host string, port int) loadgen.Request {
	return loadgen.Request{URL: "grpc://" + hostPort(host, port), Protocol: loadgen.GRPC}
}

// streamCaller is caller, and for TCP, which has no header to say it in, the greeted.
func streamCaller(x loadgen.Exchange) string {
	if x.Proto == "TCP" {
		return greeted(x)
	}
	return caller(x)
}
