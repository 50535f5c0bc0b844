// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

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
			ca, err := newAuthority(e.Name())
			if err != nil {
				return err
			}
			leaf, err := ca.issue(e.Vars["HOST"])
			if err != nil {
				return err
			}
			e.Vars["TLS_CA"] = base64.StdEncoding.EncodeToString(ca.pem)
			e.Vars["TLS_CRT"], e.Vars["TLS_KEY"] = base64.StdEncoding.EncodeToString(leaf.cert), base64.StdEncoding.EncodeToString(leaf.key)
			return nil
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
	ca, err := base64.StdEncoding.DecodeString(e.Vars["TLS_CA"])
	if err != nil {
		return err
	}
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

// authority issues certificates for one attempt; its key never leaves this process.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// credential is a certificate and its key as PEM.
type credential struct{ cert, key []byte }

// certificateLife is far longer than a run, and begins early enough for a clock that is late.
const certificateLife = 24 * time.Hour

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	template, err := certificateTemplate(name)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	return &authority{pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert: cert, key: key}, nil
}

// issue makes a certificate for the host, good for servers and clients.
func (a *authority) issue(host string) (credential, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return credential{}, fmt.Errorf("make a certificate: %w", err)
	}
	template, err := certificateTemplate(host)
	if err != nil {
		return credential{}, err
	}
	template.DNSNames, template.KeyUsage = []string{host}, x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return credential{}, fmt.Errorf("make a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return credential{}, fmt.Errorf("make a certificate: %w", err)
	}
	return credential{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

func certificateTemplate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certificateLife),
	}, nil
}
