// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"harness.example/harness/fixtures/echo"
	"harness.example/harness/loadgen"
)

func gatewayCases() []Case {
	return slices.Concat(gatewayFirst(), gatewayMutual(), gatewayParameters(), gatewayPassthrough(), gatewayCredentials(), gatewayProtocols(), gatewayMerged())
}

// gatewayFirst are one case for each protocol of a port.
func gatewayFirst() []Case {
	return []Case{
		{
			Name:    "Gateway/HTTP",
			Doc:     "A host on the HTTP port is answered by the Service's pods, and any other host by 404.",
			Fixture: "gateway/http.yaml",
			Judged: fmt.Sprintf("exact: %d requests to the host, each answered by a ready pod that names itself; then %s",
				gatewayHTTPCount, judgedExactly(len(otherHosts(sampleEnv())))),
			Covers: []string{
				"Gateway.spec.selector{}", "Gateway.spec.servers[].hosts[]", "Gateway.spec.servers[].port.number", "Gateway.spec.servers[].port.protocol=HTTP",
				"VirtualService.spec.gateways[]", "VirtualService.spec.hosts[]",
			},
			Check: checkGatewayHTTP,
			Controls: []Control{
				{Break: "Gateway/-http spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "got 404 ×"},
				{Break: "VirtualService spec.gateways=[elsewhere]", Fails: "got 404 ×"},
				{Break: `Gateway/-unselected spec.selector["harness.example/nothing"]=`, Fails: "a name below the host: v"},
				{Break: "Service spec.selector={app: nobody}", Fails: "got 503 ×"},
			},
		},
		routesCase(Case{
			Name:    "Gateway/Wildcard",
			Doc:     "A wildcard host takes every name below it but the one that another route names exactly.",
			Fixture: "gateway/wildcard.yaml",
			Covers:  []string{"Gateway.spec.servers[].hosts[]", "VirtualService.spec.hosts[]"},
			Controls: []Control{
				{Break: "delete VirtualService/-exact", Fails: "the exact name: v1 instead of v2"},
				{Break: "VirtualService/-wildcard spec.hosts=[elsewhere.harness.test]", Fails: "a name below: 404 instead of v1"},
				{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "the exact name: 404 instead of v2"},
			},
		}, func(e *Env) []route {
			host := e.Vars["HOST"]
			return []route{
				{"the exact name", toHost(e, "exact."+host, "/"), "v2"},
				{"a name below", toHost(e, "a."+host, "/"), "v1"},
				{"a name two levels below", toHost(e, "a.b."+host, "/"), "v1"},
				{"a name below the exact one", toHost(e, "a.exact."+host, "/"), "v1"},
				{"the wildcard's parent", toHost(e, host, "/"), "404"},
				{"a name that only ends alike", toHost(e, "a"+host, "/"), "404"},
			}
		}),
		gatewayHTTPS(),
		{
			Name:    "Gateway/TCP",
			Doc:     "A connection to the TCP port reaches the pods that the tcp route names, and bytes come back unchanged.",
			Fixture: "gateway/tcp.yaml",
			Needs:   []Capability{GatewayTCP},
			Serial:  true,
			Judged:  fmt.Sprintf("exact: each of %d connections is greeted by a pod of the right version and gets back the line it sent; no false alarm", gatewayTCPCount),
			Covers: []string{
				"Gateway.spec.servers[].port.number", "Gateway.spec.servers[].port.protocol=TCP", "VirtualService.spec.tcp[].match[].port",
				"VirtualService.spec.tcp[].route[].destination.subset", "VirtualService.spec.tcp[].route[].destination.port.number",
			},
			Check: checkGatewayTCP,
			Controls: []Control{
				{Break: "VirtualService spec.tcp[0].route[0].destination.subset=v2", Fails: "got v2 ×"},
				{Break: "VirtualService spec.tcp[0].match[0].port=31401", Fails: "got dial-refused ×"},
				{Break: "Gateway spec.servers[0].port.number=31401", Fails: "got dial-refused ×"},
			},
		},
	}
}

const (
	gatewayHTTPCount = 8
	gatewayTCPCount  = 8
	// gatewayTCPTimeout is for a connection that is taken and then left without an answer.
	gatewayTCPTimeout = 3 * time.Second
)

// otherHosts are hosts that nobody asked for, and spellings of the one that somebody did.
func otherHosts(e *Env) []route {
	host := e.Vars["HOST"]
	return []route{
		{"the host in capitals", toHost(e, strings.ToUpper(host), "/"), "v1|v2|v3"},
		{"the host with its port", toHost(e, host+":80", "/"), "v1|v2|v3"},
		{"a name below the host", toHost(e, "wrong."+host, "/"), "404"},
		{"a name that only ends alike", toHost(e, "wrong"+host, "/"), "404"},
	}
}

func checkGatewayHTTP(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo")
	if err != nil {
		return err
	}
	xs, err := e.Gateway(ctx, loadgen.Burst{
		Requests: []loadgen.Request{e.URL("/path?query")}, Count: gatewayHTTPCount, Connections: 2, Policy: loadgen.Fresh,
	})
	if err != nil {
		return err
	}
	if err := all("the host", xs, "200"); err != nil {
		return err
	}
	for _, x := range xs {
		a, err := answer(x)
		if err != nil {
			return err
		}
		if !slices.Contains(podNames(pods), a.Pod) || a.Pod != pod(x) {
			return &Mismatch{Want: "answers from " + strings.Join(podNames(pods), ", "), Got: a.Pod, Exchanges: []loadgen.Exchange{x}}
		}
		if got, want := a.Host+" "+a.Path+" "+a.Query, e.Vars["HOST"]+" /path query"; got != want {
			return &Mismatch{Want: "a request that arrives as " + want, Got: got, Exchanges: []loadgen.Exchange{x}}
		}
	}
	return takes(ctx, e, e.Outside(), otherHosts(e))
}

func checkGatewayTCP(ctx context.Context, e *Env) error {
	xs, err := e.Gateway(ctx, loadgen.Burst{
		Requests: []loadgen.Request{{
			URL: "tcp://" + e.gatewayAddress("tcp"), Protocol: loadgen.TCP, Body: []byte("a line of " + e.Name()),
		}},
		Count: gatewayTCPCount, Connections: 2, Policy: loadgen.Fresh, Timeout: gatewayTCPTimeout,
	})
	if err != nil {
		return err
	}
	for _, x := range xs {
		if greeted(x) != "v1" {
			return &Mismatch{
				Want: fmt.Sprintf("each of %d connections greeted by v1 and echoed to", len(xs)), Got: tally(xs, greeted),
				Exchanges: []loadgen.Exchange{x}, Detail: describe(x),
			}
		}
	}
	return nil
}

// greeted is the version that has greeted a TCP connection and echoed to it, or how it ended.
func greeted(x loadgen.Exchange) string {
	if x.ErrKind != "" {
		return x.ErrKind
	}
	a, err := answer(x)
	if err != nil || a.Protocol != echo.ProtocolTCP {
		return "no greeting"
	}
	return a.Version
}

// routesCase completes a case that is a table of routes.
func routesCase(c Case, table func(e *Env) []route) Case {
	c.Judged = judgedExactly(len(table(sampleEnv())))
	c.Check = func(ctx context.Context, e *Env) error { return takes(ctx, e, e.Outside(), table(e)) }
	return c
}

// sampleEnv is for what only depends on the number of a table's rows.
func sampleEnv() *Env { return &Env{Vars: sampleVars()} }

// toHost is a GET through the gateway's HTTP port to any host.
func toHost(e *Env, host, path string) loadgen.Request {
	r := e.URL(path)
	r.Host = host
	return r
}

// with adds a header to the request.
func with(r loadgen.Request, name, value string) loadgen.Request {
	header := map[string][]string{name: {value}}
	for k, v := range r.Header {
		header[k] = v
	}
	r.Header = header
	return r
}

// method changes the request's method.
func method(r loadgen.Request, name string) loadgen.Request {
	r.Method = name
	return r
}
