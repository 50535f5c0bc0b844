// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"

	"harness.example/harness/loadgen"
)

// virtualServiceStreams are routes of TCP and of TLS by server name.
func virtualServiceStreams() []Case {
	return []Case{tcpWeights(), tlsWeights(), tcpMatch(), tlsMatch(), streamSubnets(), streamGateways()}
}

// streamShift is the shift that a split of connections must show; each draw costs a connection.
const streamShift = 0.2

func tcpWeights() Case {
	shares := []share{{"v1", 0.7}, {"v2", 0.3}}
	return Case{
		Name:    "VirtualService/TCPWeights",
		Doc:     "Each TCP connection goes to one of two subsets with the probability that is its weight, and never to one of weight zero.",
		Fixture: "virtualservice/stream-tcp-weights.yaml",
		Needs:   []Capability{Injection},
		Mesh:    true,
		Judged:  judgedBySplit(shares, streamShift),
		Samples: []Sample{splitSample(shares, streamShift)},
		Covers: []string{
			"VirtualService.spec.tcp[].route[].weight", "VirtualService.spec.tcp[].route[].destination.host", "VirtualService.spec.tcp[].route[].destination.subset",
		},
		Check: func(ctx context.Context, e *Env) error {
			client, err := e.Mesh(ctx)
			if err != nil {
				return err
			}
			xs, err := e.Burst(ctx, client, loadgen.Burst{
				Requests: []loadgen.Request{line(e.Name(), 9000)}, Count: splitCount(shares, streamShift), Connections: 4, Policy: loadgen.Fresh,
			})
			if err != nil {
				return err
			}
			return splitsBy(xs, greeted, shares)
		},
		Controls: []Control{
			{Break: "VirtualService spec.tcp[0].route[0].weight=30; VirtualService spec.tcp[0].route[1].weight=70", Fails: "too few of v1, too many of v2"},
			{Break: "VirtualService spec.tcp[0].route[1].destination.subset=v3", Fails: "of v3, which has no part"},
			{Break: "VirtualService spec.tcp[0].route[0].destination.host=nobody.harness.test", Fails: "which has no part"},
		},
	}
}

func tlsWeights() Case {
	shares := []share{{"v2", 0.7}, {"v3", 0.3}}
	return Case{
		Name:    "VirtualService/TLSWeights",
		Doc:     "TLS that a gateway passes on is shared by weight, one draw for each connection, and stays the backend's own.",
		Fixture: "virtualservice/stream-tls-weights.yaml",
		Needs:   []Capability{GatewayTLS},
		Judged:  judgedBySplit(shares, streamShift) + "; certificate and server name of each connection exactly",
		Samples: []Sample{splitSample(shares, streamShift)},
		Covers: []string{
			"VirtualService.spec.tls[].route[].weight", "VirtualService.spec.tls[].route[].destination.host", "VirtualService.spec.tls[].route[].destination.subset",
			"VirtualService.spec.tls[].match[].port", "VirtualService.spec.tls[].match[].sniHosts[]",
		},
		Check: func(ctx context.Context, e *Env) error {
			request := overTLS(e, &loadgen.TLS{InsecureSkipVerify: true})
			xs, err := e.Gateway(ctx, loadgen.Burst{
				Requests: []loadgen.Request{request}, Count: splitCount(shares, streamShift), Connections: 4, Policy: loadgen.Fresh,
			})
			if err != nil {
				return err
			}
			if err := splits(xs, shares); err != nil {
				return err
			}
			for _, x := range xs {
				a, err := answer(x)
				if err != nil {
					return err
				}
				if a.TLS == nil || a.TLS.ServerName != e.Vars["HOST"] || x.PeerCN != a.Pod {
					return &Mismatch{
						Want:      fmt.Sprintf("a handshake for %s with the pod's own certificate", e.Vars["HOST"]),
						Got:       fmt.Sprintf("%+v at the pod, a certificate for %s", a.TLS, x.PeerCN),
						Exchanges: []loadgen.Exchange{x},
					}
				}
			}
			return nil
		},
		Controls: []Control{
			{Break: "VirtualService spec.tls[0].route[0].weight=30; VirtualService spec.tls[0].route[1].weight=70", Fails: "too few of v2, too many of v3"},
			{Break: "VirtualService spec.tls[0].route[1].destination.subset=v1", Fails: "of v1, which has no part"},
			{Break: "VirtualService spec.tls[0].match[0].port=8443", Fails: "200 on each of"},
		},
	}
}

func tcpMatch() Case {
	return streamRoutes(Case{
		Name:    "VirtualService/TCPMatch",
		Doc:     "A connection takes the first rule whose port, client labels and client namespace are its own, and arrives at the port that the rule says.",
		Fixture: "virtualservice/stream-tcp-match.yaml",
		Covers: []string{
			"VirtualService.spec.tcp[].match[].port", "VirtualService.spec.tcp[].match[].sourceLabels{}", "VirtualService.spec.tcp[].match[].sourceNamespace",
			"VirtualService.spec.tcp[].route[].destination.port.number", "VirtualService.spec.tcp[].route[].destination.subset",
		},
		Controls: []Control{
			{Break: "VirtualService spec.tcp[0].match[0].port=9009", Fails: "the port: v3 instead of v1"},
			{Break: "VirtualService spec.tcp[1].match[0].sourceLabels.role=plain", Fails: "the client's label: v3 instead of v2"},
			{Break: "VirtualService spec.tcp[2].match[0].sourceNamespace=elsewhere", Fails: "the client's namespace: v3 instead of v1"},
			{Break: "VirtualService spec.tcp[3].route[0].destination.port=", Fails: "another port: "},
		},
	}, greeted, func(e *Env) []route {
		return []route{
			{"the port", line(e.Name(), 9001), "v1"},
			{"the client's label", line(e.Name(), 9002), "v2"},
			{"the client's namespace", line(e.Name(), 9003), "v1"},
			{"another port", line(e.Name(), 9004), "v2"},
		}
	})
}

func tlsMatch() Case {
	return streamRoutes(Case{
		Name:    "VirtualService/TLSMatch",
		Doc:     "A TLS connection takes the rule of its server name, exact before wildcard, for its port and its client; one that no rule names is passed on to the Service.",
		Fixture: "virtualservice/stream-tls-match.yaml",
		Direct:  true, // a sidecar passes what no rule names on to the ClusterIP itself
		Covers: []string{
			"VirtualService.spec.tls[].match[].sniHosts[]", "VirtualService.spec.tls[].match[].port", "VirtualService.spec.tls[].match[].sourceLabels{}",
			"VirtualService.spec.tls[].match[].sourceNamespace", "VirtualService.spec.tls[].route[].destination.port.number",
			"VirtualService.spec.tls[].route[].destination.subset",
		},
		Controls: []Control{
			{Break: "VirtualService spec.tls[0].match[0].port=8444", Fails: "the exact name: v2 instead of v1"},
			{Break: "VirtualService spec.tls[1].route[0].destination.subset=v3", Fails: "a name two levels below: v3 instead of v2 ×4, another name below: v3 instead of v2 ×4"},
			{Break: "VirtualService spec.tls[3].match[0].sourceLabels.role=plain; VirtualService spec.tls[4].match[0].sourceNamespace=elsewhere", Fails: "the client's label: v3 instead of v1 ×4, the client's namespace: v3 instead of v2 ×4"},
			{Break: "VirtualService spec.tls[6].route[0].destination.port=", Fails: "another port: "},
		},
	}, answerer, func(e *Env) []route {
		host := e.Vars["HOST"]
		return []route{
			{"the exact name", underName(e.Name(), 8443, "a."+host), "v1"},
			{"another name below", underName(e.Name(), 8443, "b."+host), "v2"},
			{"a name two levels below", underName(e.Name(), 8443, "a.a."+host), "v2"},
			{"the wildcard's parent", underName(e.Name(), 8443, host), "v1|v2|v3"},
			{"a foreign name", underName(e.Name(), 8443, "foreign.test"), "v1|v2|v3"},
			{"the name at another port", underName(e.Name(), 8444, "a."+host), "v3"},
			{"the client's label", underName(e.Name(), 8445, "a."+host), "v1"},
			{"the client's namespace", underName(e.Name(), 8445, "b."+host), "v2"},
			{"neither", underName(e.Name(), 8445, "c."+host), "v3"},
			{"another port", underName(e.Name(), 8446, "a."+host), "v1"},
		}
	})
}

func streamSubnets() Case {
	c := streamRoutes(Case{
		Name:    "VirtualService/StreamSubnets",
		Doc:     "TCP and TLS connections take the rule whose subnet holds the address that they were made to.",
		Fixture: "virtualservice/stream-subnets.yaml",
		Covers:  []string{"VirtualService.spec.tcp[].match[].destinationSubnets[]", "VirtualService.spec.tls[].match[].destinationSubnets[]"},
		Controls: []Control{
			{Break: "VirtualService spec.tcp[0].match[0].destinationSubnets=[192.0.2.0/24]", Fails: "got 4 that were not; TCP to the lower half: v2 instead of v1"},
			{Break: "VirtualService spec.tls[0].match[0].destinationSubnets=[192.0.2.0/24]", Fails: "got 4 that were not; TLS to the lower half: v3 instead of v2"},
		},
	}, streamAnswerer, func(e *Env) []route {
		low, high := e.Vars["SUBNET"]+".1", e.Vars["SUBNET"]+".129"
		return []route{
			{"TCP to the lower half", line(low, 9010), "v1"},
			{"TCP to the upper half", line(high, 9010), "v2"},
			{"TLS to the lower half", underName(low, 9443, e.Vars["HOST"]), "v2"},
			{"TLS to the upper half", underName(high, 9443, e.Vars["HOST"]), "v3"},
		}
	})
	// A network for benchmarks (RFC 2544), of which every attempt has its own part.
	c.Prepare = func(e *Env) error {
		e.Vars["SUBNET"] = "198.18." + strconv.Itoa(e.Attempt%256)
		return nil
	}
	return c
}

func streamGateways() Case {
	return Case{
		Name:    "VirtualService/StreamGateways",
		Doc:     "Of one VirtualService's rules, a gateway takes those for gateways and a sidecar those for the mesh.",
		Fixture: "virtualservice/stream-gateways.yaml",
		Needs:   []Capability{Injection, GatewayTLS},
		Mesh:    true,
		Judged:  fmt.Sprintf("exact: each of 2 kinds of connection, %d times from outside and from a sidecar, has one right answerer; no false alarm", routeTries),
		Covers:  []string{"VirtualService.spec.tcp[].match[].gateways[]", "VirtualService.spec.tls[].match[].gateways[]"},
		Prepare: func(e *Env) error {
			ca, err := newAuthority(e.Name())
			if err != nil {
				return err
			}
			leaf, err := ca.issue("tcp." + e.Vars["HOST"])
			if err != nil {
				return err
			}
			e.Vars["TLS_CRT"], e.Vars["TLS_KEY"] = base64.StdEncoding.EncodeToString(leaf.cert), base64.StdEncoding.EncodeToString(leaf.key)
			return nil
		},
		Check: func(ctx context.Context, e *Env) error {
			client, err := e.Mesh(ctx)
			if err != nil {
				return err
			}
			passed := underName(e.Name(), 8443, "tls."+e.Vars["HOST"])
			if err := takesBy(ctx, e, client, []route{
				{"TCP from a sidecar", line(e.Name(), 9000), "v1"},
				{"TLS from a sidecar", passed, "v1"},
			}, streamAnswerer); err != nil {
				return err
			}
			ended := line(e.Name(), 9000)
			ended.URL, ended.Address = "tls://tcp."+e.Vars["HOST"], e.gatewayAddress("https")
			ended.TLS = &loadgen.TLS{InsecureSkipVerify: true}
			passed.Address = e.gatewayAddress("https")
			return takesBy(ctx, e, e.Outside(), []route{
				{"TCP through the gateway", ended, "v2"},
				{"TLS through the gateway", passed, "v2"},
			}, streamAnswerer)
		},
		Controls: []Control{
			{Break: "VirtualService spec.tcp[0].match[0].gateways=[mesh]; VirtualService spec.tls[0].match[0].gateways=[mesh]", Fails: "TCP from a sidecar: v3 instead of v1 ×4, TLS from a sidecar: v3 instead of v1 ×4"},
			{Break: "VirtualService spec.tcp[1].match[0].gateways=; VirtualService spec.tls[1].match[0].gateways=", Fails: "TCP through the gateway: v1 instead of v2 ×4, TLS through the gateway: v1 instead of v2 ×4"},
		},
	}
}

// streamRoutes completes a case that is a table of routes for the client with a sidecar.
func streamRoutes(c Case, key func(loadgen.Exchange) string, table func(e *Env) []route) Case {
	c.Needs, c.Mesh = []Capability{Injection}, true
	c.Judged = judgedExactly(len(table(sampleEnv())))
	c.Check = func(ctx context.Context, e *Env) error {
		client, err := e.Mesh(ctx)
		if err != nil {
			return err
		}
		return takesBy(ctx, e, client, table(e), key)
	}
	return c
}

// line is a TCP connection that sends a line.
func line(host string, port int) loadgen.Request {
	return loadgen.Request{URL: "tcp://" + hostPort(host, port), Protocol: loadgen.TCP, Body: []byte("a line")}
}

// underName is a GET over TLS for the server name; whose certificate comes back is for the check to judge.
func underName(host string, port int, name string) loadgen.Request {
	return loadgen.Request{URL: "https://" + hostPort(host, port) + "/", TLS: &loadgen.TLS{ServerName: name, InsecureSkipVerify: true}}
}

// streamAnswerer is for tables of TCP and HTTP.
func streamAnswerer(x loadgen.Exchange) string {
	if x.Proto == "TCP" {
		return greeted(x)
	}
	return answerer(x)
}
