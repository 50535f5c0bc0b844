// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"harness.example/harness/loadgen"
)

// authority issues certificates for one attempt; its key never leaves this process.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// credential is a certificate and its key as PEM.
type credential struct{ cert, key []byte }

// subject is what a certificate is about.
type subject struct {
	name    string        // its common name
	dns     []string      // alternative names
	uri     string        // one more, "" = none
	key     crypto.Signer // nil = a new one
	expired bool
}

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
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
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

// issue makes a certificate for hosts, named after the first.
func (a *authority) issue(host string, more ...string) (credential, error) {
	return a.certify(subject{name: host, dns: append([]string{host}, more...)})
}

// certify makes a certificate, good for servers and clients.
func (a *authority) certify(s subject) (credential, error) {
	if s.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return credential{}, fmt.Errorf("make a certificate: %w", err)
		}
		s.key = key
	}
	template, err := certificateTemplate(s.name)
	if err != nil {
		return credential{}, err
	}
	template.DNSNames, template.KeyUsage = s.dns, x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if s.uri != "" {
		u, err := url.Parse(s.uri)
		if err != nil {
			return credential{}, fmt.Errorf("make a certificate: %w", err)
		}
		template.URIs = []*url.URL{u}
	}
	if s.expired {
		template.NotBefore, template.NotAfter = time.Now().Add(-2*certificateLife), time.Now().Add(-certificateLife)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, s.key.Public(), a.key)
	if err != nil {
		return credential{}, fmt.Errorf("make a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return credential{}, fmt.Errorf("make a certificate: %w", err)
	}
	return credential{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// revoke makes the authority's list of what it takes back.
func (a *authority) revoke(c credential) ([]byte, error) {
	cert, err := c.parse()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(certificateLife),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: cert.SerialNumber, RevocationTime: time.Now().Add(-time.Hour)}},
	}, a.cert, a.key)
	if err != nil {
		return nil, fmt.Errorf("make a revocation list: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}

func (c credential) parse() (*x509.Certificate, error) {
	block, _ := pem.Decode(c.cert)
	if block == nil {
		return nil, fmt.Errorf("read a certificate: no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read a certificate: %w", err)
	}
	return cert, nil
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

// newRSA is a key of the other kind.
func newRSA() (crypto.Signer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make an RSA key: %w", err)
	}
	return key, nil
}

// keep stores bytes in a variable, as a Secret's data has them.
func keep(e *Env, name string, b []byte) { e.Vars[name] = base64.StdEncoding.EncodeToString(b) }

// kept reads them back; a variable that was never kept has none.
func kept(e *Env, name string) []byte {
	b, _ := base64.StdEncoding.DecodeString(e.Vars[name])
	return b
}

func keepCredential(e *Env, name string, c credential) {
	keep(e, name+"_CRT", c.cert)
	keep(e, name+"_KEY", c.key)
}

// certified makes the attempt's authority and the gateway's certificate for the host and the names below it.
func certified(e *Env) (*authority, error) {
	ca, err := newAuthority(e.Name())
	if err != nil {
		return nil, err
	}
	leaf, err := ca.issue(e.Vars["HOST"], "*."+e.Vars["HOST"])
	if err != nil {
		return nil, err
	}
	keep(e, "TLS_CA", ca.pem)
	keepCredential(e, "TLS", leaf)
	return ca, nil
}

// clientsOf has the authority issue one certificate for each of the subjects and keeps it under its common name.
func clientsOf(e *Env, ca *authority, subjects ...subject) error {
	for _, s := range subjects {
		c, err := ca.certify(s)
		if err != nil {
			return err
		}
		keepCredential(e, s.name, c)
	}
	return nil
}

// secured is a GET through the gateway's HTTPS port to a host, with the client's side of the handshake.
func secured(e *Env, host string, client loadgen.TLS) loadgen.Request {
	if client.CA == nil {
		client.CA = kept(e, "TLS_CA")
	}
	return loadgen.Request{URL: "https://" + host + "/", Method: "GET", Address: e.gatewayAddress("https"), TLS: &client}
}

// showing is a client that shows a kept certificate, "" = none. It speaks TLS 1.2, in which the server's verdict comes
// before the client may send anything: a refusal is always seen as such, and never as a connection that broke.
func showing(e *Env, name string) loadgen.TLS {
	return loadgen.TLS{Cert: kept(e, name+"_CRT"), Key: kept(e, name+"_KEY"), MaxVersion: "1.2"}
}
