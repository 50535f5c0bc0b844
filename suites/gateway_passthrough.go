// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"harness.example/harness/loadgen"
)

// gatewayPassthrough are the cases of TLS that is not HTTPS with a certificate of the gateway's own.
func gatewayPassthrough() []Case {
	return []Case{gatewayPassedThrough(), gatewayTLSToTCP(), gatewayIstioMutual()}
}

func gatewayPassedThrough() Case {
	return handshakesShow(Case{
		Name:    "Gateway/Passthrough",
		Doc:     "PASSTHROUGH leaves TLS to the backend, which the server name chooses: the session, its ALPN and the client's certificate are the client's own.",
		Fixture: "gateway/passthrough.yaml",
		Covers: []string{
			"Gateway.spec.servers[].tls.mode=PASSTHROUGH", "Gateway.spec.servers[].port.protocol=TLS", "VirtualService.spec.tls[].match[].sniHosts[]",
			"VirtualService.spec.tls[].match[].port", "VirtualService.spec.tls[].route[].destination.subset",
		},
		Prepare: func(e *Env) error {
			ca, err := newAuthority(e.Name())
			if err != nil {
				return err
			}
			return clientsOf(e, ca, subject{name: "ours"})
		},
		Controls: []Control{
			{Break: "VirtualService spec.tls[0].route[0].destination.subset=v2", Fails: "the first name: v2 over http1 for first instead of v1 over http1 for first"},
			{Break: "VirtualService spec.tls[1].match[0].port=8443", Fails: "instead of v2 over h2"},
			{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "instead of v1 over http1"},
		},
	}, func(x loadgen.Exchange) string {
		a, err := answer(x)
		switch {
		case x.ErrKind != "" || err != nil:
			return outcomeOf(x)
		case a.TLS == nil:
			return "plain text at " + a.Version
		}
		out := fmt.Sprintf("%s over %s for %s", a.Version, a.Protocol, strings.SplitN(a.TLS.ServerName, ".", 2)[0])
		if a.TLS.PeerSubject != "" {
			out += " of " + a.TLS.PeerSubject
		}
		return out
	}, func(e *Env) []route {
		to := func(name string, client loadgen.TLS, p loadgen.Protocol) loadgen.Request {
			client.InsecureSkipVerify = true // the backend's certificate is its own
			r := secured(e, name+"."+e.Vars["HOST"], client)
			r.Protocol = p
			return r
		}
		return []route{
			{"the first name", to("first", loadgen.TLS{}, loadgen.HTTP1), "v1 over http1 for first"},
			{"the second name", to("second", loadgen.TLS{}, loadgen.HTTP2), "v2 over h2 for second"},
			{"a client with a certificate", to("first", showing(e, "ours"), loadgen.HTTP1), "v1 over http1 for first of CN=ours"},
			{"a name without a route", to("third", loadgen.TLS{}, loadgen.HTTP1), "eof|reset"},
		}
	})
}

func gatewayTLSToTCP() Case {
	return handshakesShow(Case{
		Name:    "Gateway/TLSToTCP",
		Doc:     "A TLS port with a certificate ends TLS and hands the bytes to the tcp route of the host that the client asked for.",
		Fixture: "gateway/tls-to-tcp.yaml",
		Covers: []string{
			"Gateway.spec.servers[].port.protocol=TLS", "Gateway.spec.servers[].tls.mode=SIMPLE", "Gateway.spec.servers[].tls.credentialName",
			"VirtualService.spec.tcp[].match[].port", "VirtualService.spec.tcp[].route[].destination.subset",
		},
		Prepare: certifiedOnly,
		Controls: []Control{
			{Break: "VirtualService/-first spec.tcp[0].route[0].destination.subset=v2", Fails: "the first host: v2 instead of v1"},
			{Break: "VirtualService/-first spec.tcp[0].match[0].port=8443", Fails: "instead of v1"},
			{Break: "Gateway spec.servers[1].hosts=[elsewhere.harness.test]", Fails: "instead of v2"},
		},
	}, greeted, func(e *Env) []route {
		line := func(r loadgen.Request) loadgen.Request {
			r.Method, r.Protocol, r.Body = "", loadgen.TCP, []byte("a line of "+e.Name())
			return r
		}
		to := func(host string) loadgen.Request {
			r := line(secured(e, host, loadgen.TLS{}))
			r.URL = "tls://" + host + ":443"
			return r
		}
		plain := line(loadgen.Request{URL: "tcp://" + e.gatewayAddress("https")})
		return []route{
			{"the first host", to("first." + e.Vars["HOST"]), "v1"},
			{"the second host", to("second." + e.Vars["HOST"]), "v2"},
			{"another host", to("third." + e.Vars["HOST"]), "eof|reset"},
			{"no TLS", plain, "eof|reset"},
		}
	})
}

func gatewayIstioMutual() Case {
	inside := func(e *Env) []route {
		// The sidecar takes every connection to port 80 and looks at the host: the address need not exist.
		return []route{{"a client of the mesh", loadgen.Request{URL: "http://" + e.Vars["HOST"] + "/", Address: "192.0.2.1:80"}, "v1 as the pool's"}}
	}
	outside := func(e *Env) []route {
		client := func(name string) loadgen.Request {
			c := showing(e, name)
			c.InsecureSkipVerify = true // the gateway shows its identity in the mesh, which no client outside can verify
			return secured(e, e.Vars["HOST"], c)
		}
		return []route{
			{"a stranger's certificate", client("stranger"), refused},
			{"no certificate", client(""), refused},
		}
	}
	c := handshakesCase(Case{
		Name:    "Gateway/IstioMutual",
		Doc:     "ISTIO_MUTUAL lets in clients that have an identity of the mesh, which the backend is told, and nobody else.",
		Fixture: "gateway/istio-mutual.yaml",
		Needs:   []Capability{Injection},
		Mesh:    true,
		Covers:  []string{"Gateway.spec.servers[].tls.mode=ISTIO_MUTUAL"},
		Prepare: func(e *Env) error {
			e.Vars["GATEWAY_ADDRESS"] = e.Target.Gateway.Service + "." + e.Target.Gateway.Namespace + ".svc.cluster.local"
			ca, err := newAuthority(e.Name())
			if err != nil {
				return err
			}
			return clientsOf(e, ca, subject{name: "stranger"})
		},
		Controls: []Control{
			{Break: "DestinationRule spec.trafficPolicy.tls.mode=SIMPLE", Fails: "a client of the mesh: 503 instead of v1"},
			{Break: "Gateway spec.servers[0].tls.insecureSkipVerify=true", Fails: "a stranger's certificate: v1 instead of tls"},
			{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "a client of the mesh: 503 instead of v1"},
		},
	}, func(e *Env) []route { return append(inside(e), outside(e)...) })
	c.Check = func(ctx context.Context, e *Env) error {
		client, err := e.Mesh(ctx)
		if err != nil {
			return err
		}
		spiffe := "URI=spiffe://"
		identified := func(x loadgen.Exchange) string {
			a, err := answer(x)
			if err != nil {
				return answerer(x)
			}
			if cert := a.Header.Get("X-Forwarded-Client-Cert"); !strings.Contains(cert, spiffe) || !strings.Contains(cert, "/ns/"+e.pool+"/") {
				return a.Version + " as " + cert
			}
			return a.Version + " as the pool's"
		}
		return errors.Join(takesBy(ctx, e, client, inside(e), identified), takes(ctx, e, e.Outside(), outside(e)))
	}
	return c
}
