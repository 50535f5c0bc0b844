// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"harness.example/harness/fixtures/echo"
)

// rawTimeout is for a connection that is taken and then left without an answer.
const rawTimeout = 3 * time.Second

// rawBytes are the cases about what the proxy puts before or around the bytes of a client. The client's are the beginning
// of a TLS handshake, by whose server name the gateway knows the case.
func rawBytes() []Case {
	return []Case{
		{
			Name:    "DestinationRule/ProxyProtocol",
			Doc:     "The backend is told the client's address before the first byte, in the version of the PROXY protocol that the policy says.",
			Fixture: "destinationrule/proxy-protocol.yaml",
			Needs:   []Capability{GatewayTLS},
			Judged:  "exact: the backend sends back all that it gets, which is one header of the right version, with an address that is not the proxy's own, and the client's bytes; no false alarm",
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.proxyProtocol.version=V1", "DestinationRule.spec.subsets[].trafficPolicy.proxyProtocol.version=V2",
			},
			Check: func(ctx context.Context, e *Env) error {
				if err := checkProxyProtocol(ctx, e, "rule", "V1"); err != nil {
					return err
				}
				return checkProxyProtocol(ctx, e, "subset", "V2")
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy=", Fails: "rule: no header"},
				{Break: "DestinationRule spec.trafficPolicy.proxyProtocol.version=V2", Fails: "rule: V2"},
				{Break: "DestinationRule spec.subsets[1].trafficPolicy=", Fails: "subset: V1"},
			},
		},
		{
			Name:    "DestinationRule/Tunnel",
			Doc:     "A TCP connection is tunnelled: the backend first gets an HTTP request of the tunnel's method for the tunnel's target.",
			Fixture: "destinationrule/tunnel.yaml",
			Needs:   []Capability{GatewayTLS},
			Judged:  "exact: the backend tells the request that it got, with its method and target, and its answer is what comes out of the tunnel; no false alarm",
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.tunnel.protocol", "DestinationRule.spec.trafficPolicy.tunnel.targetHost", "DestinationRule.spec.trafficPolicy.tunnel.targetPort",
				"DestinationRule.spec.subsets[].trafficPolicy.tunnel.protocol", "DestinationRule.spec.subsets[].trafficPolicy.tunnel.targetHost",
				"DestinationRule.spec.subsets[].trafficPolicy.tunnel.targetPort",
			},
			Check: func(ctx context.Context, e *Env) error {
				if err := checkTunnel(ctx, e, "rule", "CONNECT rule.harness.test:1001"); err != nil {
					return err
				}
				return checkTunnel(ctx, e, "subset", "CONNECT subset.harness.test:1002")
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.tunnel.targetHost=other.harness.test", Fails: "got CONNECT other.harness.test:1001"},
				{Break: "DestinationRule spec.subsets[0].trafficPolicy.tunnel.targetPort=1003", Fails: "got CONNECT subset.harness.test:1003"},
				{Break: "DestinationRule spec.subsets[0].trafficPolicy.tunnel=", Fails: `got "HTTP/1.1 400 Bad Request`},
				// The proxy keeps a POST's body back until the backend answers, and the backend its answer until it has the body.
				{Break: "DestinationRule spec.trafficPolicy.tunnel.protocol=POST", Fails: `got ""`},
			},
		},
	}
}

// exchangeRaw sends the beginning of a handshake for the name below the case's host, and no more, and returns it with all
// that comes back.
func exchangeRaw(ctx context.Context, e *Env, name string) (sent, got []byte, err error) {
	if sent, err = clientHello(name + "." + e.Vars["HOST"]); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, rawTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.gatewayAddress("https"))
	if err != nil {
		return nil, nil, fmt.Errorf("dial the gateway: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := conn.Write(sent); err != nil {
		return nil, nil, fmt.Errorf("write: %w", err)
	}
	// However the connection ends, what came before is what is judged.
	r := bufio.NewReader(io.LimitReader(conn, 1<<20))
	if got, err = r.ReadBytes('\n'); err != nil {
		return sent, got, nil
	}
	// Only now: the proxy gives up a connection whose sending half is closed before it is forwarded.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil { //nolint:forcetypeassert // it was dialled as tcp
		return nil, nil, fmt.Errorf("close the sending half: %w", err)
	}
	rest, _ := io.ReadAll(r)
	return sent, append(got, rest...), nil
}

// clientHello is how a TLS client that asks for the name begins.
func clientHello(name string) ([]byte, error) {
	var sent recorder
	_ = tls.Client(&sent, &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}).Handshake() // nobody answers
	if sent.Len() == 0 {
		return nil, errors.New("no TLS handshake was begun")
	}
	return sent.Bytes(), nil
}

// recorder is a connection to nobody.
type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error)      { return r.Buffer.Write(b) }
func (r *recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

func checkProxyProtocol(ctx context.Context, e *Env, name, version string) error {
	sent, got, err := exchangeRaw(ctx, e, name)
	if err != nil {
		return err
	}
	want := fmt.Sprintf("%s: a PROXY header %s, and then what the client sent", name, version)
	greeting, rest, _ := bytes.Cut(got, []byte("\n"))
	var a echo.Answer
	if err := json.Unmarshal(greeting, &a); err != nil || a.Protocol != echo.ProtocolTCP {
		return mismatch(want, "%s: no greeting of a backend: %q", name, got)
	}
	header, found := bytes.CutSuffix(rest, sent)
	if !found {
		return mismatch(want, "%s: other bytes: %q", name, rest)
	}
	has, source, err := proxyHeader(header)
	if err != nil {
		return mismatch(want, "%s: %v", name, err)
	}
	if has != version {
		return mismatch(want, "%s: %s", name, has)
	}
	proxy, err := netip.ParseAddrPort(a.Remote)
	if err != nil {
		return fmt.Errorf("the backend's peer %q: %w", a.Remote, err)
	}
	if source == proxy.Addr() {
		return mismatch(want, "%s: the proxy's own address %s instead of the client's", name, source)
	}
	return nil
}

// proxyHeader reads a header of the PROXY protocol: its version, and the source address.
func proxyHeader(b []byte) (version string, source netip.Addr, err error) {
	binaryMark := []byte("\r\n\r\n\x00\r\nQUIT\n")
	if len(b) == 0 {
		return "", source, errors.New("no header")
	}
	if rest, ok := bytes.CutPrefix(b, binaryMark); ok {
		// Version 2, command PROXY; TCP over IPv4 or IPv6; the length of the rest.
		const fixed, v4, v6 = 4, 12, 36
		if len(rest) < fixed || rest[0] != 0x21 || len(rest) != fixed+int(binary.BigEndian.Uint16(rest[2:])) {
			return "", source, fmt.Errorf("a broken header %q", b)
		}
		switch addresses := rest[fixed:]; {
		case rest[1] == 0x11 && len(addresses) >= v4:
			source = netip.AddrFrom4([4]byte(addresses))
		case rest[1] == 0x21 && len(addresses) >= v6:
			source = netip.AddrFrom16([16]byte(addresses))
		default:
			return "", source, fmt.Errorf("a broken header %q", b)
		}
		return "V2", source, nil
	}
	fields := strings.Fields(string(b))
	if !bytes.HasSuffix(b, []byte("\r\n")) || len(fields) != 6 || fields[0] != "PROXY" || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return "", source, fmt.Errorf("a broken header %q", b)
	}
	if source, err = netip.ParseAddr(fields[2]); err != nil {
		return "", source, fmt.Errorf("a broken header %q", b)
	}
	return "V1", source, nil
}

func checkTunnel(ctx context.Context, e *Env, name, request string) error {
	_, got, err := exchangeRaw(ctx, e, name)
	if err != nil {
		return err
	}
	// What comes after the answer is about the client's bytes, which are no request.
	first, _, _ := bytes.Cut(got, []byte("\n"))
	var a echo.Answer
	if err := json.Unmarshal(first, &a); err != nil || a.Pod == "" {
		return mismatch(request, "%q", got)
	}
	if has := a.Method + " " + a.Host; has != request {
		return mismatch(request, "%s", has)
	}
	return nil
}
