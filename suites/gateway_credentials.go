// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"

	"harness.example/harness/loadgen"
)

// gatewayCredentials are the cases about the certificate that the gateway shows.
func gatewayCredentials() []Case {
	return []Case{gatewaySNI(), gatewayPair(), gatewayRotation()}
}

// presented is who answers and under which name.
func presented(x loadgen.Exchange) string {
	if x.ErrKind != "" {
		return x.ErrKind
	}
	return answerer(x) + " as " + x.PeerCN
}

// issueAs has the authority make a server's certificate with a name of its own for people, and keeps it.
func issueAs(e *Env, ca *authority, variable string, s subject) error {
	c, err := ca.certify(s)
	if err != nil {
		return err
	}
	keepCredential(e, variable, c)
	return nil
}

func gatewaySNI() Case {
	return handshakesShow(Case{
		Name:    "Gateway/CertificateByName",
		Doc:     "Hosts on one port each show their own certificate, and a wildcard's host that of the wildcard.",
		Fixture: "gateway/certificate-by-name.yaml",
		Covers:  []string{"Gateway.spec.servers[].tls.credentialName", "Gateway.spec.servers[].hosts[]", "Gateway.spec.servers[].port.name"},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			names := []string{e.Vars["HOST"], "*." + e.Vars["HOST"]}
			return errors.Join(
				issueAs(e, ca, "TLS", subject{name: "wildcard", dns: names}),
				issueAs(e, ca, "OTHER", subject{name: "first", dns: names}),
				issueAs(e, ca, "THIRD", subject{name: "second", dns: names}),
			)
		},
		Controls: []Control{
			{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "the first host: v1 as wildcard instead of v1 as first"},
			{Break: "Gateway spec.servers[2].hosts=[elsewhere.harness.test]", Fails: "a name of the wildcard: reset instead of v1 as wildcard"},
			{
				Break: "the second host's secret holds the first's certificate", Fails: "the second host: v1 as first instead of v1 as second",
				Do: func(ctx context.Context, e *Env) error {
					return changeSecret(ctx, e, e.Name()+"-second", map[string][]byte{"tls.crt": kept(e, "OTHER_CRT"), "tls.key": kept(e, "OTHER_KEY")},
						"the second host shows it", secured(e, "second."+e.Vars["HOST"], loadgen.TLS{}), func(x loadgen.Exchange) bool { return x.PeerCN == "first" })
				},
			},
		},
	}, presented, func(e *Env) []route {
		to := func(name string) loadgen.Request { return secured(e, name+"."+e.Vars["HOST"], loadgen.TLS{}) }
		crossed := to("first")
		crossed.Host = "second." + e.Vars["HOST"]
		return []route{
			{"the first host", to("first"), "v1 as first"},
			{"the second host", to("second"), "v1 as second"},
			{"a name of the wildcard", to("third"), "v1 as wildcard"},
			{"the second host inside of the first's connection", crossed, "404 as first"},
		}
	})
}

func gatewayPair() Case {
	return handshakesShow(Case{
		Name:    "Gateway/CertificatePair",
		Doc:     "A host with an RSA and an ECDSA certificate shows each client the one that it can verify.",
		Fixture: "gateway/certificate-pair.yaml",
		Covers:  []string{"Gateway.spec.servers[].tls.credentialNames[]"},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			key, err := newRSA()
			if err != nil {
				return err
			}
			return errors.Join(
				issueAs(e, ca, "TLS", subject{name: "rsa", dns: []string{e.Vars["HOST"]}, key: key}),
				issueAs(e, ca, "OTHER", subject{name: "ecdsa", dns: []string{e.Vars["HOST"]}}),
			)
		},
		Controls: []Control{
			{Break: "Gateway spec.servers[0].tls.credentialNames[1]=", Fails: "a client of ECDSA: tls instead of v1 as ecdsa"},
			{Break: "Gateway spec.servers[0].tls.credentialNames[0]=", Fails: "a client of RSA: tls instead of v1 as rsa"},
		},
	}, presented, func(e *Env) []route {
		with := func(suites ...string) loadgen.Request {
			return secured(e, e.Vars["HOST"], loadgen.TLS{MaxVersion: "1.2", CipherSuites: suites})
		}
		return []route{
			{"a client of RSA", with("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), "v1 as rsa"},
			{"a client of ECDSA", with("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"), "v1 as ecdsa"},
		}
	})
}

func gatewayRotation() Case {
	return Case{
		Name:    "Gateway/SecretRotation",
		Doc:     "A secret's new certificate is shown to new connections without one being refused meanwhile, and an open connection lives on.",
		Fixture: "gateway/https.yaml",
		Needs:   []Capability{GatewayTLS},
		Judged: fmt.Sprintf("exact: %d handshakes before and %d after the change show the one certificate and the other, every one in between either; the connection opened before answers after",
			gatewayHTTPCount, gatewayHTTPCount),
		Covers: []string{"Gateway.spec.servers[].tls.credentialName"},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			dns := []string{e.Vars["HOST"]}
			return errors.Join(issueAs(e, ca, "TLS", subject{name: "old", dns: dns}), issueAs(e, ca, "NEW", subject{name: "new", dns: dns}))
		},
		Check: checkRotation,
		Controls: []Control{
			{
				Break: "the new certificate is another authority's", Fails: "certificate signed by unknown authority",
				Do: func(_ context.Context, e *Env) error {
					ca, err := newAuthority("another " + e.Name())
					if err != nil {
						return err
					}
					before := credential{cert: kept(e, "NEW_CRT"), key: kept(e, "NEW_KEY")}
					e.Undo(func(context.Context) error { keepCredential(e, "NEW", before); return nil })
					return issueAs(e, ca, "NEW", subject{name: "new", dns: []string{e.Vars["HOST"]}})
				},
			},
			{
				Break: "the secret has changed already", Fails: "before the change: the certificate old",
				Do: func(ctx context.Context, e *Env) error {
					return changeSecret(ctx, e, e.Name(), map[string][]byte{"tls.crt": kept(e, "NEW_CRT"), "tls.key": kept(e, "NEW_KEY")},
						"the new certificate is shown", secured(e, e.Vars["HOST"], loadgen.TLS{}), func(x loadgen.Exchange) bool { return x.PeerCN == "new" })
				},
			},
		},
	}
}

func checkRotation(ctx context.Context, e *Env) error {
	request := secured(e, e.Vars["HOST"], loadgen.TLS{})
	shows := func(when, name string) error {
		xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{request}, Count: gatewayHTTPCount, Connections: 2, Policy: loadgen.Fresh})
		if err != nil {
			return err
		}
		if err := all(when, xs, "200"); err != nil {
			return err
		}
		for _, x := range xs {
			if x.PeerCN != name {
				return mismatch(when+": the certificate "+name, "%s", x.PeerCN)
			}
		}
		return nil
	}
	if err := shows("before the change", "old"); err != nil {
		return err
	}
	open := openConnection(e)
	defer open.client.CloseIdleConnections()
	if _, err := open.get(ctx); err != nil {
		return fmt.Errorf("before the change: %w", err)
	}
	e.Undo(func(ctx context.Context) error {
		return changeSecret(ctx, e, e.Name(), map[string][]byte{"tls.crt": kept(e, "TLS_CRT"), "tls.key": kept(e, "TLS_KEY")}, "the old certificate is shown again",
			request, func(x loadgen.Exchange) bool { return x.PeerCN == "old" })
	})
	var refusal error
	err := changeSecret(ctx, e, e.Name(), map[string][]byte{"tls.crt": kept(e, "NEW_CRT"), "tls.key": kept(e, "NEW_KEY")}, "the new certificate is shown",
		request, func(x loadgen.Exchange) bool {
			refusal = errors.Join(refusal, all("during the change", []loadgen.Exchange{x}, "200"))
			return refusal != nil || x.PeerCN == "new"
		})
	if err := errors.Join(refusal, err); err != nil {
		return err
	}
	if reused, err := open.get(ctx); err != nil || !reused {
		return mismatch("the connection opened before to answer after", "it was reused: %t, error: %v", reused, err)
	}
	return shows("after the change", "new")
}

// opened is an HTTPS client that keeps one connection to the gateway.
type opened struct {
	client *http.Client
	url    string
}

func openConnection(e *Env) opened {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(kept(e, "TLS_CA"))
	return opened{url: "https://" + e.Vars["HOST"] + "/", client: &http.Client{Timeout: loadgen.DefaultTimeout, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, e.gatewayAddress("https"))
		},
	}}}
}

// get says whether the connection had been used before.
func (o opened) get(ctx context.Context) (reused bool, err error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url, http.NoBody)
	if err != nil {
		return false, err
	}
	response, err := o.client.Do(request)
	if err != nil {
		return reused, err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return reused, err
	}
	if response.StatusCode != http.StatusOK {
		return reused, fmt.Errorf("status %d", response.StatusCode)
	}
	return reused, nil
}
