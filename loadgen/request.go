// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package loadgen makes traffic and measures it: a [Burst] sends an exact number of requests one after another and keeps
// every answer, a [Plan] sends requests at a rate and keeps histograms. Both say over which connections, because one
// connection proves nothing about balance. A [Runner] carries either to where the traffic must come from.
//
// Nothing here retries: what the peer did with a request is what is reported. (The gRPC library alone may repeat a call that the
// peer has refused unprocessed.) Proxy variables of the environment are ignored.
package loadgen

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Protocol is how a request is spoken.
type Protocol string

// The protocols. HTTP2 needs an https URL, H2C an http one; GRPC and WebSocket take either; the empty Protocol is HTTP1.
//
// GRPC calls the unary method /echo.Echo/Echo (or the URL's path, if it has one) with Body as the message, not decoded.
// TCP sends Body as one line, then reads the peer's first line (the answer) and, when there is a Body, its echo; a reused
// connection answers with the line it got at its start. UDP sends Body as one datagram and takes one as the answer.
// WebSocket takes the first message as the answer, then sends Body, if any, and reads its echo.
const (
	HTTP1     Protocol = "http1"
	HTTP2     Protocol = "h2"
	H2C       Protocol = "h2c"
	GRPC      Protocol = "grpc"
	TCP       Protocol = "tcp"
	UDP       Protocol = "udp"
	WebSocket Protocol = "websocket"
)

// A Request says what to send and where. Only URL is required.
type Request struct {
	URL             string              `json:"url"`
	Method          string              `json:"method,omitempty"`    // HTTP only; GET, or POST when there is a Body
	Host            string              `json:"host,omitempty"`      // Host header or :authority instead of the URL's; not the name TLS asks for
	Address         string              `json:"address,omitempty"`   // host:port to dial instead of the URL's
	Header          map[string][]string `json:"header,omitempty"`    // for gRPC: metadata
	Body            []byte              `json:"body,omitempty"`      //
	Protocol        Protocol            `json:"protocol,omitempty"`  //
	TLS             *TLS                `json:"tls,omitempty"`       // only with an https, wss or tls URL or redirect; nil: the system's roots
	LocalAddr       string              `json:"localAddr,omitempty"` // source IP
	FollowRedirects bool                `json:"followRedirects,omitempty"`
}

// TLS is a client's side of a handshake. CA, Cert and Key are PEM; versions are "1.0" to "1.3"; suites have Go's names.
type TLS struct {
	ServerName         string   `json:"serverName,omitempty"` // SNI and the name verified; default the URL's host
	CA                 []byte   `json:"ca,omitempty"`
	Cert               []byte   `json:"cert,omitempty"`
	Key                []byte   `json:"key,omitempty"`
	InsecureSkipVerify bool     `json:"insecureSkipVerify,omitempty"`
	MinVersion         string   `json:"minVersion,omitempty"`
	MaxVersion         string   `json:"maxVersion,omitempty"`
	CipherSuites       []string `json:"cipherSuites,omitempty"` // TLS 1.2 and older
	ALPN               []string `json:"alpn,omitempty"`         // default the one of the protocol
}

// A target is a checked Request: everything a connection needs, computed once.
type target struct {
	Request
	url     *url.URL
	method  string
	network string // tcp or udp
	address string // what is dialled
	local   net.Addr
	tls     *tls.Config // nil: plain
	header  http.Header
	key     string // targets with one key can share a connection

	head, tail []byte // of HTTP/1.1: the request, parted where fields can be added
}

// schemes lists the URL schemes of each protocol; the value says whether it is TLS.
var schemes = map[Protocol]map[string]bool{
	HTTP1:     {"http": false, "https": true},
	HTTP2:     {"https": true},
	H2C:       {"http": false},
	GRPC:      {"http": false, "https": true, "grpc": false, "grpcs": true},
	TCP:       {"tcp": false, "tls": true},
	UDP:       {"udp": false},
	WebSocket: {"http": false, "https": true, "ws": false, "wss": true},
}

// compileAll checks every request; the error names the index and the field.
func compileAll(requests []Request) ([]*target, error) {
	if len(requests) == 0 {
		return nil, errors.New("requests: at least one is needed")
	}
	targets := make([]*target, len(requests))
	for i, r := range requests {
		t, err := r.compile()
		if err != nil {
			return nil, fmt.Errorf("requests[%d].%w", i, err)
		}
		targets[i] = t
	}
	return targets, nil
}

func (r Request) compile() (*target, error) {
	if r.Protocol == "" {
		r.Protocol = HTTP1
	}
	byScheme, ok := schemes[r.Protocol]
	if !ok {
		return nil, fmt.Errorf("protocol: %q is not one of http1, h2, h2c, grpc, tcp, udp, websocket", r.Protocol)
	}
	if r.URL == "" {
		return nil, errors.New("url: is missing")
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	secure, ok := byScheme[u.Scheme]
	if !ok {
		return nil, fmt.Errorf("url: scheme %q does not go with protocol %s", u.Scheme, r.Protocol)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("url: %q has no host", r.URL)
	}
	t := &target{Request: r, url: u, method: r.Method, network: "tcp", header: http.Header{}}
	if r.Protocol == UDP {
		t.network = "udp"
	}
	if err := t.setMethodAndHeader(); err != nil {
		return nil, err
	}
	if err := t.setAddresses(secure); err != nil {
		return nil, err
	}
	if err := t.setKey(); err != nil {
		return nil, err
	}
	if !secure && r.TLS != nil && !r.FollowRedirects {
		return nil, fmt.Errorf("tls: is set but url scheme %q is not TLS", u.Scheme)
	}
	config, err := r.TLS.config(u.Hostname(), r.Protocol)
	if err != nil {
		return nil, fmt.Errorf("tls.%w", err)
	}
	if secure {
		t.tls = config
	}
	if r.Protocol == HTTP1 {
		if err := t.prepare(); err != nil {
			return nil, fmt.Errorf("url: %w", err)
		}
	}
	return t, nil
}

func (t *target) setMethodAndHeader() error {
	switch {
	case t.method == "" && len(t.Body) > 0:
		t.method = http.MethodPost
	case t.method == "":
		t.method = http.MethodGet
	case strings.ContainsFunc(t.method, func(c rune) bool { return !httpguts.IsTokenRune(c) }):
		return fmt.Errorf("method: %q is not a token", t.method)
	}
	if !httpguts.ValidHostHeader(t.Host) {
		return fmt.Errorf("host: %q is not valid", t.Host)
	}
	for k, values := range t.Header {
		if !httpguts.ValidHeaderFieldName(k) {
			return fmt.Errorf("header: %q is not a field name", k)
		}
		if http.CanonicalHeaderKey(k) == "Host" {
			return errors.New("header: the Host header goes in the field host")
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("header: value %q of %s is not valid", v, k)
			}
		}
		t.header[http.CanonicalHeaderKey(k)] = append(t.header[http.CanonicalHeaderKey(k)], values...)
	}
	if t.header["User-Agent"] == nil && t.Protocol != GRPC {
		t.header["User-Agent"] = []string{"harness"}
	}
	return nil
}

// setKey: a WebSocket's handshake is part of its connection, and gRPC knows one authority per connection.
func (t *target) setKey() error {
	key := Request{URL: t.url.Scheme + "://" + t.url.Host, Address: t.address, Protocol: t.Protocol, TLS: t.TLS, LocalAddr: t.LocalAddr}
	switch t.Protocol {
	case GRPC:
		key.Host = t.Host
	case WebSocket:
		key.URL, key.Host, key.Header = t.URL, t.Host, t.Header
	}
	b, err := json.Marshal(key)
	t.key = string(b)
	return err
}

func (t *target) setAddresses(secure bool) error {
	port := t.url.Port()
	switch {
	case port != "":
	case secure:
		port = "443"
	case t.Protocol == TCP || t.Protocol == UDP:
		return fmt.Errorf("url: %q has no port", t.URL)
	default:
		port = "80"
	}
	t.address = net.JoinHostPort(t.url.Hostname(), port)
	if t.Address != "" {
		if _, _, err := net.SplitHostPort(t.Address); err != nil {
			return fmt.Errorf("address: %w", err)
		}
		t.address = t.Address
	}
	if _, p, _ := net.SplitHostPort(t.address); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("address: %s has no port between 1 and 65535", t.address)
		}
	}
	if t.LocalAddr == "" {
		return nil
	}
	ip := net.ParseIP(t.LocalAddr)
	if ip == nil {
		return fmt.Errorf("localAddr: %q is not an IP address", t.LocalAddr)
	}
	if t.local = net.Addr(&net.TCPAddr{IP: ip}); t.network == "udp" {
		t.local = &net.UDPAddr{IP: ip}
	}
	return nil
}

var tlsVersions = map[string]uint16{"": 0, "1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// config makes Go's configuration; it also works on nil, meaning every default.
func (c *TLS) config(host string, p Protocol) (*tls.Config, error) {
	if c == nil {
		c = &TLS{}
	}
	out := &tls.Config{
		ServerName:         c.ServerName,
		InsecureSkipVerify: c.InsecureSkipVerify, //nolint:gosec // asked for, e.g. to reach the check of a certificate's contents
		NextProtos:         c.ALPN,
	}
	if out.ServerName == "" {
		out.ServerName = host
	}
	if len(out.NextProtos) == 0 {
		switch p {
		case HTTP2, GRPC:
			out.NextProtos = []string{"h2"}
		case HTTP1, WebSocket:
			out.NextProtos = []string{"http/1.1"}
		}
	}
	var ok bool
	if out.MinVersion, ok = tlsVersions[c.MinVersion]; !ok {
		return nil, fmt.Errorf("minVersion: %q is not one of 1.0, 1.1, 1.2, 1.3", c.MinVersion)
	}
	if out.MaxVersion, ok = tlsVersions[c.MaxVersion]; !ok {
		return nil, fmt.Errorf("maxVersion: %q is not one of 1.0, 1.1, 1.2, 1.3", c.MaxVersion)
	}
	if len(c.CA) > 0 {
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("ca: holds no PEM certificate")
		}
	}
	if len(c.Cert) > 0 || len(c.Key) > 0 {
		pair, err := tls.X509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("cert: %w", err)
		}
		// Answer every request for a certificate with this one. Certificates would send none when the peer names another
		// issuer, and a peer that must reject this certificate would then be seen rejecting its absence.
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	suites := slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites())
	for _, name := range c.CipherSuites {
		i := slices.IndexFunc(suites, func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("cipherSuites: %q is unknown", name)
		}
		out.CipherSuites = append(out.CipherSuites, suites[i].ID)
	}
	return out, nil
}
