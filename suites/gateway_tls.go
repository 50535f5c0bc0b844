// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/loadgen"
)

func gatewayHTTPS() Case {
	return Case{
		Name:    "Gateway/HTTPS",
		Doc:     "The HTTPS port presents the host's own certificate to clients that ask for the host, and serves nobody else.",
		Fixture: "gateway/https.yaml",
		Needs:   []Capability{GatewayTLS},
		Judged: fmt.Sprintf("exact: %d handshakes whose chain leads to an authority that exists for this attempt only; then %s",
			gatewayHTTPCount, judgedExactly(len(otherHandshakes(sampleEnv(), nil)))),
		Covers: []string{
			"Gateway.spec.servers[].port.protocol=HTTPS", "Gateway.spec.servers[].tls.mode=SIMPLE", "Gateway.spec.servers[].tls.credentialName",
			"Gateway.spec.servers[].hosts[]",
		},
		Prepare: func(e *Env) error {
			_, err := certified(e)
			return err
		},
		Check: checkGatewayHTTPS,
		Controls: []Control{
			{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "the host over TLS: 200 on each"},
			{Break: "VirtualService spec.gateways=[elsewhere]", Fails: "got 404 ×"},
			{Break: "the secret holds another authority's certificate for the same host", Fails: "certificate signed by unknown authority", Do: replaceSecret},
		},
	}
}

func checkGatewayHTTPS(ctx context.Context, e *Env) error {
	ca := kept(e, "TLS_CA")
	xs, err := e.Gateway(ctx, loadgen.Burst{
		Requests: []loadgen.Request{overTLS(e, &loadgen.TLS{CA: ca})}, Count: gatewayHTTPCount, Connections: 2, Policy: loadgen.Fresh,
	})
	if err != nil {
		return err
	}
	if err := all("the host over TLS", xs, "200"); err != nil {
		return err
	}
	for _, x := range xs {
		if _, err := answer(x); err != nil {
			return err
		}
		if x.PeerCN != e.Vars["HOST"] {
			return &Mismatch{Want: "a certificate for " + e.Vars["HOST"], Got: x.PeerCN, Exchanges: []loadgen.Exchange{x}}
		}
	}
	return takes(ctx, e, e.Outside(), otherHandshakes(e, ca))
}

// otherHandshakes are what must not be served, or not under this name.
func otherHandshakes(e *Env, ca []byte) []route {
	host := e.Vars["HOST"]
	plain := e.URL("/")
	plain.Address = e.gatewayAddress("https")
	foreign := overTLS(e, &loadgen.TLS{CA: ca})
	foreign.Host = "wrong." + host
	return []route{
		{"another host inside of our connection", foreign, "404"},
		{"the handshake for another host", overTLS(e, &loadgen.TLS{ServerName: "wrong." + host, InsecureSkipVerify: true}), "eof|reset"},
		{"plain HTTP on the HTTPS port", plain, "eof|reset"},
	}
}

// overTLS is a GET through the gateway's HTTPS port.
func overTLS(e *Env, config *loadgen.TLS) loadgen.Request {
	return loadgen.Request{URL: "https://" + e.Vars["HOST"] + "/", Method: "GET", Address: e.gatewayAddress("https"), TLS: config}
}

// replaceSecret gives the gateway a certificate that is as good but not ours, and returns when it is presented. Applying
// the fixture again takes it back.
func replaceSecret(ctx context.Context, e *Env) error {
	ca, err := newAuthority("another " + e.Name())
	if err != nil {
		return err
	}
	leaf, err := ca.issue(e.Vars["HOST"])
	if err != nil {
		return err
	}
	secrets := e.Kube.CoreV1().Secrets(e.Vars["GATEWAY_NAMESPACE"])
	secret, err := secrets.Get(ctx, e.Name(), metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the secret: %w", err)
	}
	secret.Data = map[string][]byte{"tls.crt": leaf.cert, "tls.key": leaf.key}
	if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("replace the secret: %w", err)
	}
	block, _ := pem.Decode(leaf.cert)
	return e.Until(ctx, "the gateway presents the other certificate", func(ctx context.Context) (bool, error) {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: e.Vars["HOST"], InsecureSkipVerify: true}} //nolint:gosec // only looks which one it is
		conn, err := dialer.DialContext(ctx, "tcp", e.gatewayAddress("https"))
		if err != nil {
			return false, err
		}
		defer func() { _ = conn.Close() }()
		state := conn.(*tls.Conn).ConnectionState() //nolint:errcheck,forcetypeassert // documented of Dialer
		if len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].Raw, block.Bytes) {
			return false, errors.New("it presents the old one")
		}
		return true, nil
	})
}
