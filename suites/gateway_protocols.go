// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"fmt"

	"harness.example/harness/loadgen"
)

// gatewayProtocols are the cases about what is spoken inside of a connection.
func gatewayProtocols() []Case {
	return []Case{gatewayHTTP2(), gatewayGRPC(), gatewayWebSocket(), gatewayRedirect()}
}

// inProtocol makes a request in a protocol of its own.
func inProtocol(r loadgen.Request, p loadgen.Protocol) loadgen.Request {
	r.Protocol = p
	return r
}

func gatewayHTTP2() Case {
	return handshakesShow(Case{
		Name:    "Gateway/HTTP2",
		Doc:     "The gateway speaks HTTP/1.1 and HTTP/2, over TLS and in plain text, as the client asks, and to the backend what its port is named.",
		Fixture: "gateway/http2.yaml",
		Covers: []string{
			"Gateway.spec.servers[].port.protocol=HTTP2", "Gateway.spec.servers[].port.protocol=HTTPS", "Service.spec.ports[].name",
		},
		Prepare: certifiedOnly,
		Controls: []Control{
			{Break: "Service spec.ports[1].name=http-onward", Fails: "HTTP/2 in plain text, and on: HTTP/2.0, then http1 instead of HTTP/2.0, then h2c"},
			{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "HTTP/2 in plain text: 404 instead of HTTP/2.0, then http1"},
			{Break: "Gateway spec.servers[1].hosts=[elsewhere.harness.test]", Fails: "instead of HTTP/2.0, then http1"},
		},
	}, func(x loadgen.Exchange) string {
		a, err := answer(x)
		if x.ErrKind != "" || err != nil {
			return answerer(x)
		}
		return x.Proto + ", then " + a.Protocol
	}, func(e *Env) []route {
		host, onward := e.Vars["HOST"], "onward."+e.Vars["HOST"]
		return []route{
			{"HTTP/1.1 in plain text", toHost(e, host, "/"), "HTTP/1.1, then http1"},
			{"HTTP/2 in plain text", inProtocol(toHost(e, host, "/"), loadgen.H2C), "HTTP/2.0, then http1"},
			{"HTTP/1.1 over TLS", secured(e, host, loadgen.TLS{}), "HTTP/1.1, then http1"},
			{"HTTP/2 over TLS", inProtocol(secured(e, host, loadgen.TLS{}), loadgen.HTTP2), "HTTP/2.0, then http1"},
			{"HTTP/1.1 in plain text, and on", toHost(e, onward, "/"), "HTTP/1.1, then h2c"},
			{"HTTP/2 in plain text, and on", inProtocol(toHost(e, onward, "/"), loadgen.H2C), "HTTP/2.0, then h2c"},
			{"HTTP/2 over TLS, and on", inProtocol(secured(e, onward, loadgen.TLS{}), loadgen.HTTP2), "HTTP/2.0, then h2c"},
		}
	})
}

func gatewayGRPC() Case {
	return handshakesShow(Case{
		Name:    "Gateway/GRPC",
		Doc:     "gRPC calls go through the gateway, over TLS and in plain text, with their message, their metadata and the status they come to.",
		Fixture: "gateway/grpc.yaml",
		Covers:  []string{"Gateway.spec.servers[].port.protocol=GRPC", "Gateway.spec.servers[].port.protocol=HTTPS", "Service.spec.ports[].name"},
		Prepare: certifiedOnly,
		Controls: []Control{
			{Break: "Service spec.ports[0].name=http", Fails: "instead of v1 got a message, status 0"},
			{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "a call in plain text: 501 instead of v1"},
			{Break: "Gateway spec.servers[1].hosts=[elsewhere.harness.test]", Fails: "instead of v1 got a message, status 0"},
		},
	}, func(x loadgen.Exchange) string {
		if x.ErrKind != "" || pod(x) == "" {
			return outcomeOf(x)
		}
		said := "nothing"
		if a, err := answer(x); err == nil && a.Protocol == "grpc" && a.Header.Get("X-Said") == "metadata" {
			said = a.Body
		}
		return fmt.Sprintf("%s got %s, status %s", version(x), said, x.Header.Get("Grpc-Status"))
	}, func(e *Env) []route {
		call := func(r loadgen.Request, commands ...string) loadgen.Request {
			r.Method, r.Body = "", []byte("a message")
			r = with(inProtocol(r, loadgen.GRPC), "X-Said", "metadata")
			if len(commands) > 0 {
				r = e.Commanded(r, commands...)
			}
			return r
		}
		host := e.Vars["HOST"]
		return []route{
			{"a call in plain text", call(toHost(e, host, "/")), "v1 got a message, status 0"},
			{"a call over TLS", call(secured(e, host, loadgen.TLS{})), "v1 got a message, status 0"},
			{"a call that is refused", call(toHost(e, host, "/"), "status=7"), "v1 got nothing, status 7"},
			{"a call to another host", call(toHost(e, "wrong."+host, "/")), "501"},
		}
	})
}

func gatewayWebSocket() Case {
	return handshakesShow(Case{
		Name:    "Gateway/WebSocket",
		Doc:     "A WebSocket is opened through the gateway, over TLS and in plain text, and what is sent on it comes back.",
		Fixture: "gateway/websocket.yaml",
		Covers:  []string{"Gateway.spec.servers[].port.protocol=HTTP", "Gateway.spec.servers[].port.protocol=HTTPS"},
		Prepare: certifiedOnly,
		Controls: []Control{
			{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "in plain text: 404 instead of v1 opened"},
			{Break: "Gateway spec.servers[1].hosts=[elsewhere.harness.test]", Fails: "instead of v1 opened"},
			{Break: "Service spec.ports[0].name=http2", Fails: "instead of v1 opened"},
		},
	}, func(x loadgen.Exchange) string {
		a, err := answer(x)
		if x.Status != 101 || x.ErrKind != "" || err != nil {
			return outcomeOf(x)
		}
		return a.Version + " opened"
	}, func(e *Env) []route {
		socket := func(r loadgen.Request) loadgen.Request {
			r.Method, r.Body = "", []byte("a message of "+e.Name())
			return inProtocol(r, loadgen.WebSocket)
		}
		host := e.Vars["HOST"]
		return []route{
			{"in plain text", socket(toHost(e, host, "/")), "v1 opened"},
			{"over TLS", socket(secured(e, host, loadgen.TLS{})), "v1 opened"},
			{"to another host", socket(toHost(e, "wrong."+host, "/")), "404"},
		}
	})
}

func gatewayRedirect() Case {
	c := changesCase(Case{
		Name:    "Gateway/HTTPSRedirect",
		Doc:     "A server with httpsRedirect sends clients of plain HTTP to the same place over HTTPS, and no other host of the port.",
		Fixture: "gateway/https-redirect.yaml",
		Needs:   []Capability{GatewayTLS},
		Covers:  []string{"Gateway.spec.servers[].tls.httpsRedirect", "Gateway.spec.servers[].port.number"},
		Prepare: certifiedOnly,
		Controls: []Control{
			{Break: "Gateway spec.servers[0].tls.httpsRedirect=false", Fails: "a path with a query: v1 instead of 301"},
			{Break: "Gateway spec.servers[1].tls={httpsRedirect: true}", Fails: "a host that is not redirected: 301 instead of v1"},
			{Break: "Gateway spec.servers[2].hosts=[elsewhere.harness.test]", Fails: "instead of v1"},
		},
	}, func(e *Env) []changed {
		host := e.Vars["HOST"]
		there := secured(e, host, loadgen.TLS{})
		there.URL += "a/path?and=query"
		return []changed{
			{name: "a path with a query", request: toHost(e, host, "/a/path?and=query"), want: "301", answer: map[string]string{"Location": "https://" + host + "/a/path?and=query"}},
			{name: "another method", request: method(toHost(e, host, "/"), "PUT"), want: "301", answer: map[string]string{"Location": "https://" + host + "/"}},
			{name: "where it leads to", request: there, want: "v1", arrives: map[string]string{":path": "/a/path?and=query", "X-Forwarded-Proto": "https"}},
			{name: "a host that is not redirected", request: toHost(e, "plain."+host, "/"), want: "v1", arrives: map[string]string{"X-Forwarded-Proto": "http"}},
		}
	})
	return c
}
