// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func run1(t *testing.T, r Request) Exchange {
	t.Helper()
	xs, err := Burst{Requests: []Request{r}, Count: 1}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return xs[0]
}

// Every protocol obeys every policy to the connection.
func TestPoliciesAreExact(t *testing.T) {
	conf, trust := serverTLS(t)
	plain, secure := serveHTTP(t, nil, answer), serveHTTP(t, conf.Clone(), answer)
	ok := func(_ context.Context, in []byte) ([]byte, error) { return in, nil }
	grpcs := serveGRPC(t, conf, ok)
	grpcPlain := serveGRPC(t, nil, ok)
	lines, udp, ws := serveStream(t, echoLines), serveUDP(t), serveWebSocket(t)
	protocols := []struct {
		name string
		peer *peer
		req  Request
	}{
		{"http1", plain, Request{URL: "http://" + plain.addr}},
		{"https", secure, Request{URL: "https://" + secure.addr, TLS: trust}},
		{"h2", secure, Request{URL: "https://" + secure.addr, Protocol: HTTP2, TLS: trust}},
		{"h2c", plain, Request{URL: "http://" + plain.addr, Protocol: H2C}},
		{"grpc", grpcPlain, Request{URL: "http://" + grpcPlain.addr, Protocol: GRPC, Body: []byte("hi")}},
		{"grpc over TLS", grpcs, Request{URL: "https://" + grpcs.addr, Protocol: GRPC, TLS: trust, Body: []byte("hi")}},
		{"tcp", lines, Request{URL: "tcp://" + lines.addr, Protocol: TCP, Body: []byte("hi")}},
		{"udp", udp, Request{URL: "udp://" + udp.addr, Protocol: UDP, Body: []byte("hi")}},
		{"websocket", ws, Request{URL: "ws://" + ws.addr, Protocol: WebSocket, Body: []byte("hi")}},
	}
	policies := []struct {
		policy             Policy
		connections, count int
		opened             int
		carrier            func(i int) int // which of the lanes' connections carries request i; nil: not checked
	}{
		{Pinned, 1, 7, 1, func(int) int { return 0 }},
		{Pinned, 3, 10, 3, func(i int) int { return i % 3 }},
		{RoundRobin, 3, 10, 3, func(i int) int { return i % 3 }},
		{Rotate(4), 1, 10, 3, func(i int) int { return i / 4 }},
		{Rotate(2), 2, 10, 6, nil},
		{Fresh, 2, 6, 6, func(i int) int { return i }},
	}
	for _, pr := range protocols {
		for _, po := range policies {
			t.Run(fmt.Sprintf("%s/%s over %d", pr.name, po.policy, po.connections), func(t *testing.T) {
				before, seen := pr.peer.conns.Load(), pr.peer.requests()
				xs, err := Burst{Requests: []Request{pr.req}, Count: po.count, Connections: po.connections, Policy: po.policy, IDPrefix: "x"}.Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if len(xs) != po.count {
					t.Fatalf("%d exchanges, want %d", len(xs), po.count)
				}
				if got := pr.peer.conns.Load() - before; int(got) != po.opened {
					t.Errorf("the peer saw %d connections, want %d", got, po.opened)
				}
				if pr.req.Protocol != WebSocket {
					if got := pr.peer.requests() - seen; got != po.count {
						t.Errorf("the peer saw %d requests, want %d", got, po.count)
					}
				}
				byLane := map[int]map[int]bool{}
				locals := map[string]bool{}
				for i, x := range xs {
					if x.Err != "" {
						t.Fatalf("exchange %d: %s (%s)", i, x.Err, x.ErrKind)
					}
					if x.Seq != i || x.Conn == 0 || x.Local == "" || len(x.Body) == 0 || x.Start.IsZero() || x.Latency <= 0 {
						t.Errorf("exchange %d is not complete: %+v", i, x)
					}
					locals[x.Local] = true
					if po.carrier != nil {
						lane := po.carrier(i)
						if byLane[lane] == nil {
							byLane[lane] = map[int]bool{}
						}
						if want := len(byLane[lane]) > 0; x.Reused != want {
							t.Errorf("exchange %d: reused is %v, want %v", i, x.Reused, want)
						}
						byLane[lane][x.Conn] = true
					}
				}
				// The kernel may give a port twice once it is free, so this is no exact count.
				if len(locals) > po.opened {
					t.Errorf("%d local addresses for %d connections", len(locals), po.opened)
				}
				for lane, conns := range byLane {
					if len(conns) != 1 {
						t.Errorf("lane %d used the connections %v", lane, conns)
					}
				}
			})
		}
	}
}

func TestRequestIsSentAsAsked(t *testing.T) {
	conf, trust := serverTLS(t)
	var got http.Header
	var sni string
	h := func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		if r.TLS != nil {
			sni = r.TLS.ServerName
		}
		answer(w, r)
	}
	plain, secure := serveHTTP(t, nil, h), serveHTTP(t, conf, h)
	for _, r := range []Request{
		{URL: "http://nowhere.invalid/p", Address: plain.addr, Protocol: HTTP1},
		{URL: "http://nowhere.invalid/p", Address: plain.addr, Protocol: H2C},
		{URL: "https://a.example/p", Address: secure.addr, Protocol: HTTP1, TLS: trust},
		{URL: "https://a.example/p", Address: secure.addr, Protocol: HTTP2, TLS: trust},
	} {
		t.Run(r.URL+" "+string(r.Protocol), func(t *testing.T) {
			r.Host, r.Body, r.Header, r.LocalAddr = "b.example", []byte("hello"), map[string][]string{"x-a": {"1", "2"}}, "127.0.0.1"
			xs, err := Burst{Requests: []Request{r}, Count: 2, IDPrefix: "id"}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			x := xs[1]
			if x.Err != "" || x.Status != 200 || string(x.Body) != "POST b.example /p hello" {
				t.Fatalf("got %d %q %s", x.Status, x.Body, x.Err)
			}
			if !slices.Equal(got["X-A"], []string{"1", "2"}) || got.Get("X-Harness-Id") != "id-1" || got.Get("Accept-Encoding") != "" {
				t.Errorf("the peer got the header %v", got)
			}
			if x.Header.Get("X-Last") != "yes" {
				t.Errorf("no trailer in %v", x.Header)
			}
			if r.TLS != nil && (x.TLSVersion != "TLS 1.3" || x.TLSCipher == "" || x.PeerCN != "peer" || sni != "a.example") {
				t.Errorf("TLS: %q %q %q, sni %q", x.TLSVersion, x.TLSCipher, x.PeerCN, sni)
			}
		})
	}
}

func TestLargeBodies(t *testing.T) {
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, strings.Repeat("a", int(n)))
	})
	big := []byte(strings.Repeat("b", 4<<20))
	for _, proto := range []Protocol{HTTP1, H2C} {
		x := run1(t, Request{URL: "http://" + p.addr, Protocol: proto, Body: big})
		if x.Err != "" || len(x.Body) != keptBody {
			t.Errorf("%s: kept %d bytes, %s", proto, len(x.Body), x.Err)
		}
	}
	if x := run1(t, Request{URL: "http://" + p.addr + "/early", Body: big}); x.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("early answer: %d %s", x.Status, x.Err)
	}
}

func TestRedirects(t *testing.T) {
	conf, trust := serverTLS(t)
	secure := serveHTTP(t, conf, answer)
	plain := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/here":
			answer(w, r)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/secure":
			_, port, _ := net.SplitHostPort(secure.addr)
			http.Redirect(w, r, "https://a.example:"+port+"/there", http.StatusMovedPermanently)
		default:
			http.Redirect(w, r, "/here", http.StatusSeeOther)
		}
	})
	u := "http://" + plain.addr
	if x := run1(t, Request{URL: u + "/go"}); x.Status != http.StatusSeeOther || x.Header.Get("Location") != "/here" || plain.requests() != 1 {
		t.Errorf("followed without being asked: %d, %d requests", x.Status, plain.requests())
	}
	if x := run1(t, Request{URL: u + "/go", Body: []byte("b"), FollowRedirects: true}); x.Status != 200 || !strings.HasPrefix(string(x.Body), "GET ") {
		t.Errorf("got %d %q %s", x.Status, x.Body, x.Err)
	}
	if x := run1(t, Request{URL: u + "/loop", FollowRedirects: true}); x.ErrKind != KindOther {
		t.Errorf("a loop ended with %d %q %s", x.Status, x.ErrKind, x.Err)
	}
	// What was dialled is kept, at the new port; the name in the Location is only a name.
	if x := run1(t, Request{URL: u + "/secure", Host: "a.example", FollowRedirects: true, TLS: trust}); x.Status != 200 || x.PeerCN != "peer" {
		t.Errorf("got %d %s", x.Status, x.Err)
	}
}

func TestGRPCStatusIsAnAnswer(t *testing.T) {
	p := serveGRPC(t, nil, func(_ context.Context, in []byte) ([]byte, error) {
		return nil, status.Error(codes.Unavailable, "not now: "+string(in))
	})
	x := run1(t, Request{URL: "http://" + p.addr, Protocol: GRPC, Body: []byte("x")})
	if x.Err != "" || x.Status != 503 || x.Header.Get("Grpc-Status") != "14" || x.Header.Get("Grpc-Message") != "not now: x" {
		t.Errorf("got %d %v %s", x.Status, x.Header, x.Err)
	}
	if p.requests() != 1 {
		t.Errorf("the peer saw %d calls", p.requests())
	}
	h := serveHTTP(t, nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	if x := run1(t, Request{URL: "http://" + h.addr, Protocol: GRPC}); x.Err != "" || x.Status != 403 {
		t.Errorf("an HTTP answer: got %d %s", x.Status, x.Err)
	}
}

func TestWebSocketRefusedIsAnAnswer(t *testing.T) {
	p := serveWebSocket(t)
	if x := run1(t, Request{URL: "ws://" + p.addr + "/forbidden", Protocol: WebSocket}); x.Err != "" || x.Status != 403 {
		t.Errorf("got %d %s", x.Status, x.Err)
	}
}

func TestErrorKinds(t *testing.T) {
	conf, trust := serverTLS(t)
	_, ca, key := testCert(t)
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := free.Addr().String()
	_ = free.Close()
	readSome := func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<12)) }
	reset := serveStream(t, func(_ *peer, c net.Conn) {
		readSome(c)
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	eof := serveStream(t, func(_ *peer, c net.Conn) { readSome(c) })
	half := serveStream(t, func(_ *peer, c net.Conn) {
		readSome(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
	})
	garbage := serveStream(t, func(_ *peer, c net.Conn) {
		readSome(c)
		_, _ = io.WriteString(c, "what?\r\n\r\n")
	})
	silence := serveStream(t, func(_ *peer, c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	abort := serveHTTP(t, nil, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	secure := serveHTTP(t, conf.Clone(), answer)
	mutualConf := conf.Clone()
	mutualConf.ClientAuth = tls.RequireAnyClientCert
	mutual := serveHTTP(t, mutualConf, answer)
	http1Only := conf.Clone()
	http1Only.NextProtos = []string{"http/1.1"}
	plainH1 := serveStream(t, func(_ *peer, c net.Conn) { _ = tls.Server(c, http1Only).HandshakeContext(context.Background()) })
	udpClosed := closed

	for _, tt := range []struct {
		name string
		req  Request
		want string
	}{
		{"refused", Request{URL: "http://" + closed}, KindDialRefused},
		{"refused h2c", Request{URL: "http://" + closed, Protocol: H2C}, KindDialRefused},
		{"refused grpc", Request{URL: "http://" + closed, Protocol: GRPC}, KindDialRefused},
		{"refused tcp", Request{URL: "tcp://" + closed, Protocol: TCP}, KindDialRefused},
		{"refused udp", Request{URL: "udp://" + udpClosed, Protocol: UDP, Body: []byte("x")}, KindDialRefused},
		{"refused websocket", Request{URL: "ws://" + closed, Protocol: WebSocket}, KindDialRefused},
		{"reset", Request{URL: "http://" + reset.addr}, KindReset},
		{"reset grpc", Request{URL: "http://" + reset.addr, Protocol: GRPC}, KindReset},
		{"reset websocket", Request{URL: "ws://" + reset.addr, Protocol: WebSocket}, KindReset},
		{"stream reset", Request{URL: "http://" + abort.addr, Protocol: H2C}, KindReset},
		{"stream reset grpc", Request{URL: "http://" + abort.addr, Protocol: GRPC}, KindReset},
		{"eof", Request{URL: "http://" + eof.addr}, KindEOF},
		{"eof tcp", Request{URL: "tcp://" + eof.addr, Protocol: TCP, Body: []byte("x")}, KindEOF},
		{"eof in the body", Request{URL: "http://" + half.addr}, KindEOF},
		{"garbage", Request{URL: "http://" + garbage.addr}, KindOther},
		{"timeout", Request{URL: "http://" + silence.addr}, KindTimeout},
		{"timeout h2c", Request{URL: "http://" + silence.addr, Protocol: H2C}, KindTimeout},
		{"timeout grpc", Request{URL: "http://" + silence.addr, Protocol: GRPC}, KindTimeout},
		{"timeout tcp", Request{URL: "tcp://" + silence.addr, Protocol: TCP}, KindTimeout},
		{"timeout websocket", Request{URL: "ws://" + silence.addr, Protocol: WebSocket}, KindTimeout},
		{"timeout in the handshake", Request{URL: "https://" + silence.addr}, KindTimeout},
		{"unknown authority", Request{URL: "https://" + secure.addr}, KindTLS},
		{"wrong name", Request{URL: "https://" + secure.addr, TLS: &TLS{CA: trust.CA, ServerName: "b.example"}}, KindTLS},
		{"version", Request{URL: "https://" + secure.addr, TLS: &TLS{CA: trust.CA, MaxVersion: "1.1", MinVersion: "1.0"}}, KindTLS},
		{"no client certificate", Request{URL: "https://" + mutual.addr, TLS: trust}, KindTLS},
		{"no client certificate h2", Request{URL: "https://" + mutual.addr, TLS: trust, Protocol: HTTP2}, KindTLS},
		{"client certificate", Request{URL: "https://" + mutual.addr, TLS: &TLS{CA: trust.CA, Cert: ca, Key: key}}, ""},
		{"not TLS", Request{URL: "https://" + garbage.addr}, KindTLS},
		{"not h2", Request{URL: "https://" + plainH1.addr, Protocol: HTTP2, TLS: &TLS{CA: trust.CA, ALPN: []string{"h2", "http/1.1"}}}, KindTLS},
		{"dns", Request{URL: "http://nowhere.invalid"}, KindDNS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			xs, err := Burst{Requests: []Request{tt.req}, Count: 1, Timeout: timeoutFor(tt.want)}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if x := xs[0]; x.ErrKind != tt.want || (x.Err == "") != (tt.want == "") {
				t.Errorf("got %q: %s; want %q", x.ErrKind, x.Err, tt.want)
			}
		})
	}
	t.Run("dial timeout", func(t *testing.T) {
		err := &phaseError{err: &net.OpError{Op: "dial", Err: context.DeadlineExceeded}}
		if got := kindOf(true, err); got != KindDialTimeout {
			t.Errorf("got %q", got)
		}
	})
}

func timeoutFor(kind string) time.Duration {
	if kind == KindTimeout {
		return 100 * time.Millisecond
	}
	return 0
}

// A connection that ended while idle is replaced; one that ends under a request is an error, and the request is seen once.
func TestNothingIsRetried(t *testing.T) {
	for _, proto := range []Protocol{HTTP1, H2C} {
		t.Run("under a request "+string(proto), func(t *testing.T) {
			p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.Header.Get("X-Harness-Id"), "-1") {
					panic(http.ErrAbortHandler)
				}
				answer(w, r)
			})
			xs, err := Burst{Requests: []Request{{URL: "http://" + p.addr, Protocol: proto}}, Count: 3, IDPrefix: "r"}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if xs[0].Err != "" || xs[1].Err == "" || xs[2].Err != "" {
				t.Errorf("errors %q, %q, %q", xs[0].Err, xs[1].Err, xs[2].Err)
			}
			if want := []string{"r-0", "r-1", "r-2"}; !slices.Equal(p.seen, want) {
				t.Errorf("the peer saw %v, want %v", p.seen, want)
			}
		})
	}
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("while idle, TLS %v", secure), func(t *testing.T) {
			conf, trust := serverTLS(t)
			req := Request{}
			p := serveStream(t, func(p *peer, c net.Conn) {
				if secure {
					c = tls.Server(c, conf)
					defer func() { _ = c.Close() }()
				}
				_, _ = c.Read(make([]byte, 1<<12))
				p.saw("")
				// No "Connection: close": the client cannot know until it looks.
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			})
			if req.URL = "http://" + p.addr; secure {
				req.URL, req.TLS = "https://"+p.addr, trust
			}
			xs, err := Burst{Requests: []Request{req}, Count: 3, Interval: 50 * time.Millisecond}.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range xs {
				if x.Err != "" || x.Reused || x.Conn != i+1 {
					t.Errorf("exchange %d: conn %d, reused %v, %s", i, x.Conn, x.Reused, x.Err)
				}
			}
		})
	}
}

func TestBurstStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	n := 0
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 3 {
			cancel(errors.New("enough"))
			<-r.Context().Done()
			return
		}
		answer(w, r)
	})
	xs, err := Burst{Requests: []Request{{URL: "http://" + p.addr}}, Count: 100, Timeout: time.Hour}.Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "after 3 of 100 requests: enough") {
		t.Errorf("got %v", err)
	}
	if len(xs) != 3 || xs[1].Status != 200 || xs[2].Err == "" {
		t.Errorf("got %d exchanges: %+v", len(xs), xs)
	}
}

func TestProxyVariablesAreIgnored(t *testing.T) {
	for _, v := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(v, "http://127.0.0.1:1")
	}
	// net/http asks for a proxy only for other hosts than loopback ones, so the name has to look like one.
	p, ws := serveHTTP(t, nil, answer), serveWebSocket(t)
	g := serveGRPC(t, nil, func(_ context.Context, in []byte) ([]byte, error) { return in, nil })
	for _, r := range []Request{
		{URL: "http://a.example", Address: p.addr},
		{URL: "http://a.example", Address: p.addr, Protocol: H2C},
		{URL: "http://a.example", Address: g.addr, Protocol: GRPC},
		{URL: "ws://a.example", Address: ws.addr, Protocol: WebSocket},
	} {
		if x := run1(t, r); x.Err != "" {
			t.Errorf("%s: %s", r.Protocol, x.Err)
		}
	}
}
