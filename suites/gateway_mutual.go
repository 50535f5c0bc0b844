// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/loadgen"
)

// gatewayMutual are the cases about clients that must show a certificate.
func gatewayMutual() []Case {
	return []Case{gatewayMutualTLS(), gatewayOptionalMutual(), gatewayClientNames(), gatewayPinned(), gatewayRevoked()}
}

// refused is the end of a TLS 1.2 handshake that the server has refused with an alert.
const refused = "tls"

// handshakesCase completes a case that is a table of clients on the HTTPS port.
func handshakesCase(c Case, table func(e *Env) []route) Case {
	c.Needs = append(c.Needs, GatewayTLS)
	return routesCase(c, table)
}

func gatewayMutualTLS() Case {
	c := handshakesCase(Case{
		Name:    "Gateway/MutualTLS",
		Doc:     "MUTUAL lets in only clients whose certificate the named authority has issued, and tells the backend which it was.",
		Fixture: "gateway/mutual.yaml",
		Covers: []string{
			"Gateway.spec.servers[].tls.mode=MUTUAL", "Gateway.spec.servers[].tls.credentialName", "Gateway.spec.servers[].tls.caCertCredentialName",
		},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			other, err := newAuthority("other " + e.Name())
			if err != nil {
				return err
			}
			e.Vars["TLS_CA_TEXT"] = strconv.Quote(string(other.pem))
			return errors.Join(
				clientsOf(e, ca, subject{name: "ours"}, subject{name: "expired", expired: true}),
				clientsOf(e, other, subject{name: "theirs"}),
			)
		},
		Controls: []Control{
			{Break: "Gateway spec.servers[0].tls.mode=SIMPLE", Fails: "no certificate: v1 instead of tls"},
			{Break: "Gateway spec.servers[1].tls.caCertCredentialName=", Fails: "the other authority where it is named: tls instead of v1"},
			{Break: "the secret names another authority", Fails: "our certificate: tls instead of v1", Do: replaceAuthority},
		},
	}, func(e *Env) []route {
		host, other := e.Vars["HOST"], "other."+e.Vars["HOST"]
		modern := showing(e, "ours")
		modern.MaxVersion = "1.3"
		// TLS 1.3 lets the client speak before the server has seen its certificate, so that the end may also look like a
		// broken connection.
		bare := loadgen.TLS{MinVersion: "1.3"}
		return []route{
			{"our certificate", secured(e, host, showing(e, "ours")), "v1"},
			{"our certificate over TLS 1.3", secured(e, host, modern), "v1"},
			{"another authority's certificate", secured(e, host, showing(e, "theirs")), refused},
			{"an expired certificate", secured(e, host, showing(e, "expired")), refused},
			{"no certificate", secured(e, host, showing(e, "")), refused},
			{"no certificate over TLS 1.3", secured(e, host, bare), "tls|reset|eof"},
			{"the other authority where it is named", secured(e, other, showing(e, "theirs")), "v1"},
			{"our certificate where another authority is named", secured(e, other, showing(e, "ours")), refused},
		}
	})
	table := c.Check
	c.Judged += "; then the certificate that the backend is told of, byte for byte by its hash"
	c.Check = func(ctx context.Context, e *Env) error {
		if err := table(ctx, e); err != nil {
			return err
		}
		return forwardsIdentity(ctx, e)
	}
	return c
}

// forwardsIdentity judges that the backend is told the client's certificate, and not what the client itself claims.
func forwardsIdentity(ctx context.Context, e *Env) error {
	hash, err := hashOf(credential{cert: kept(e, "ours_CRT")})
	if err != nil {
		return err
	}
	const field = "X-Forwarded-Client-Cert"
	request := with(secured(e, e.Vars["HOST"], showing(e, "ours")), field, "Hash=forged")
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{request}, Count: routeTries, Policy: loadgen.Fresh})
	if err != nil {
		return err
	}
	for _, x := range xs {
		a, err := answer(x)
		if err != nil {
			return err
		}
		if got := a.Header.Get(field); !strings.Contains(got, "Hash="+hash) || strings.Contains(got, "forged") {
			return &Mismatch{Want: "the backend to be told of the certificate " + hash, Got: strconv.Quote(got), Exchanges: []loadgen.Exchange{x}}
		}
	}
	return nil
}

// replaceAuthority puts another authority into the secret and returns when our clients are refused.
func replaceAuthority(ctx context.Context, e *Env) error {
	ca, err := newAuthority("another " + e.Name())
	if err != nil {
		return err
	}
	return changeSecret(ctx, e, e.Name(), map[string][]byte{"ca.crt": ca.pem}, "our certificate is refused",
		secured(e, e.Vars["HOST"], showing(e, "ours")), func(x loadgen.Exchange) bool { return x.ErrKind == refused })
}

// changeSecret sets keys of a secret of the gateway's (nil removes one) and returns when the request shows it. Applying
// the fixture again takes it back.
func changeSecret(ctx context.Context, e *Env, name string, data map[string][]byte, until string, request loadgen.Request, shows func(loadgen.Exchange) bool) error {
	secrets := e.Kube.CoreV1().Secrets(e.Vars["GATEWAY_NAMESPACE"])
	secret, err := secrets.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the secret: %w", err)
	}
	for key, value := range data {
		if secret.Data[key] = value; value == nil {
			delete(secret.Data, key)
		}
	}
	if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("change the secret: %w", err)
	}
	return shown(ctx, e, until, request, shows)
}

// shown waits until the gateway's workers all answer the request in a way.
func shown(ctx context.Context, e *Env, what string, request loadgen.Request, shows func(loadgen.Exchange) bool) error {
	return e.Until(ctx, what, func(ctx context.Context) (bool, error) {
		xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{request}, Count: gatewayHTTPCount, Connections: 2, Policy: loadgen.Fresh})
		if err != nil {
			return false, err
		}
		for _, x := range xs {
			if !shows(x) {
				return false, errors.New(describe(x))
			}
		}
		return true, nil
	})
}

func gatewayOptionalMutual() Case {
	return handshakesCase(Case{
		Name:    "Gateway/OptionalMutualTLS",
		Doc:     "OPTIONAL_MUTUAL lets clients in without a certificate but not with a wrong one; insecureSkipVerify with any, but not without.",
		Fixture: "gateway/optional-mutual.yaml",
		Covers: []string{
			"Gateway.spec.servers[].tls.mode=OPTIONAL_MUTUAL", "Gateway.spec.servers[].tls.insecureSkipVerify", "Gateway.spec.servers[].tls.credentialName",
		},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			other, err := newAuthority("other " + e.Name())
			if err != nil {
				return err
			}
			return errors.Join(clientsOf(e, ca, subject{name: "ours"}), clientsOf(e, other, subject{name: "theirs"}))
		},
		Controls: []Control{
			{Break: "Gateway spec.servers[0].tls.mode=MUTUAL", Fails: "no certificate: tls instead of v1"},
			{Break: "Gateway spec.servers[0].tls.mode=SIMPLE", Fails: "another authority's certificate: v1 instead of tls"},
			{Break: "Gateway spec.servers[1].tls.insecureSkipVerify=", Fails: "another authority's where none is verified: tls instead of v1"},
		},
	}, func(e *Env) []route {
		host, lax := e.Vars["HOST"], "lax."+e.Vars["HOST"]
		return []route{
			{"our certificate", secured(e, host, showing(e, "ours")), "v1"},
			{"no certificate", secured(e, host, showing(e, "")), "v1"},
			{"another authority's certificate", secured(e, host, showing(e, "theirs")), refused},
			{"another authority's where none is verified", secured(e, lax, showing(e, "theirs")), "v1"},
			{"none where none is verified", secured(e, lax, showing(e, "")), refused},
		}
	})
}

func gatewayClientNames() Case {
	return handshakesCase(Case{
		Name:    "Gateway/ClientNames",
		Doc:     "Of the clients that the authority knows, subjectAltNames lets in those that carry one of the names.",
		Fixture: "gateway/client-names.yaml",
		Covers:  []string{"Gateway.spec.servers[].tls.subjectAltNames[]"},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			return clientsOf(e, ca,
				subject{name: "dns", dns: []string{"unlisted.test", "listed." + e.Vars["HOST"]}},
				subject{name: "uri", uri: "spiffe://" + e.Vars["HOST"] + "/listed"},
				subject{name: "unlisted", dns: []string{"unlisted." + e.Vars["HOST"]}, uri: "spiffe://" + e.Vars["HOST"] + "/unlisted"},
				subject{name: "below", dns: []string{"a.listed." + e.Vars["HOST"]}},
				subject{name: "listed." + e.Vars["HOST"]},
			)
		},
		Controls: []Control{
			{Break: "Gateway spec.servers[0].tls.subjectAltNames=", Fails: "an unlisted name: v1 instead of tls"},
			{Break: "Gateway spec.servers[0].tls.subjectAltNames[1]=", Fails: "the listed URI: tls instead of v1"},
			{Break: "Gateway spec.servers[0].tls.subjectAltNames[0]=elsewhere.harness.test", Fails: "the listed DNS name: tls instead of v1"},
		},
	}, func(e *Env) []route {
		client := func(name string) loadgen.Request { return secured(e, e.Vars["HOST"], showing(e, name)) }
		return []route{
			{"the listed DNS name", client("dns"), "v1"},
			{"the listed URI", client("uri"), "v1"},
			{"an unlisted name", client("unlisted"), refused},
			{"a name below a listed one", client("below"), refused},
			{"a listed name, but only as the common name", client("listed." + e.Vars["HOST"]), refused},
		}
	})
}

func gatewayPinned() Case {
	return handshakesCase(Case{
		Name:    "Gateway/PinnedClients",
		Doc:     "verifyCertificateHash lets in one certificate, verifyCertificateSpki one key whatever its certificate, and both together either.",
		Fixture: "gateway/pinned.yaml",
		Covers:  []string{"Gateway.spec.servers[].tls.verifyCertificateHash[]", "Gateway.spec.servers[].tls.verifyCertificateSpki[]"},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			key, err := newRSA()
			if err != nil {
				return err
			}
			if err := clientsOf(e, ca, subject{name: "pinned"}, subject{name: "old", key: key}, subject{name: "renewed", key: key}, subject{name: "stranger"}); err != nil {
				return err
			}
			hash, err := hashOf(credential{cert: kept(e, "pinned_CRT")})
			if err != nil {
				return err
			}
			old, err := credential{cert: kept(e, "old_CRT")}.parse()
			if err != nil {
				return err
			}
			spki := sha256.Sum256(old.RawSubjectPublicKeyInfo)
			e.Vars["CLIENT_HASH"], e.Vars["CLIENT_SPKI"] = hash, base64.StdEncoding.EncodeToString(spki[:])
			return nil
		},
		Controls: []Control{
			{Break: "Gateway spec.servers[0].tls.verifyCertificateHash=", Fails: "a certificate of another hash: v1 instead of tls"},
			{Break: "Gateway spec.servers[1].tls.verifyCertificateSpki=", Fails: "a certificate of another key: v1 instead of tls"},
			{Break: "Gateway spec.servers[2].tls.verifyCertificateSpki=", Fails: "the key where either will do: tls instead of v1"},
		},
	}, func(e *Env) []route {
		hash, spki, either := "hash."+e.Vars["HOST"], "spki."+e.Vars["HOST"], "either."+e.Vars["HOST"]
		return []route{
			{"the certificate of the hash", secured(e, hash, showing(e, "pinned")), "v1"},
			{"a certificate of another hash", secured(e, hash, showing(e, "stranger")), refused},
			{"the certificate of the key", secured(e, spki, showing(e, "old")), "v1"},
			{"a renewed certificate of the key", secured(e, spki, showing(e, "renewed")), "v1"},
			{"a certificate of another key", secured(e, spki, showing(e, "stranger")), refused},
			{"the hash where either will do", secured(e, either, showing(e, "pinned")), "v1"},
			{"the key where either will do", secured(e, either, showing(e, "renewed")), "v1"},
			{"neither where either will do", secured(e, either, showing(e, "stranger")), refused},
		}
	})
}

// hashOf is the SHA-256 of a certificate, as Envoy writes it.
func hashOf(c credential) (string, error) {
	cert, err := c.parse()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:]), nil
}

func gatewayRevoked() Case {
	return handshakesCase(Case{
		Name:    "Gateway/RevokedClients",
		Doc:     "A client whose certificate the secret's revocation list takes back is refused, and the authority's others are let in.",
		Fixture: "gateway/revoked.yaml",
		Covers:  []string{"Gateway.spec.servers[].tls.credentialName", "Gateway.spec.servers[].tls.mode=MUTUAL"},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			if err := clientsOf(e, ca, subject{name: "good"}, subject{name: "revoked"}); err != nil {
				return err
			}
			for list, of := range map[string]string{"TLS_CRL": "revoked", "SWAPPED_CRL": "good"} {
				crl, err := ca.revoke(credential{cert: kept(e, of+"_CRT")})
				if err != nil {
					return err
				}
				keep(e, list, crl)
			}
			return nil
		},
		Controls: []Control{
			{
				Break: "the secret loses its revocation list", Fails: "the revoked certificate: v1 instead of tls",
				Do: func(ctx context.Context, e *Env) error {
					return changeSecret(ctx, e, e.Name(), map[string][]byte{"ca.crl": nil}, "the revoked certificate is let in",
						secured(e, e.Vars["HOST"], showing(e, "revoked")), func(x loadgen.Exchange) bool { return x.Status == 200 })
				},
			},
			{
				Break: "the revocation list is of the other certificate", Fails: "the other certificate: tls instead of v1",
				Do: func(ctx context.Context, e *Env) error {
					good := secured(e, e.Vars["HOST"], showing(e, "good"))
					return changeSecret(ctx, e, e.Name(), map[string][]byte{"ca.crl": kept(e, "SWAPPED_CRL")}, "the other certificate is refused",
						good, func(x loadgen.Exchange) bool { return x.ErrKind == refused })
				},
			},
		},
	}, func(e *Env) []route {
		return []route{
			{"the revoked certificate", secured(e, e.Vars["HOST"], showing(e, "revoked")), refused},
			{"the other certificate", secured(e, e.Vars["HOST"], showing(e, "good")), "v1"},
		}
	})
}
