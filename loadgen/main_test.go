// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A peer is a server on a loopback port that counts.
type peer struct {
	addr  string
	conns atomic.Int64
	mu    sync.Mutex
	seen  []string // X-Harness-Id or the body of each request
}

func (p *peer) saw(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, what)
}

func (p *peer) requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen)
}

// A countingListener counts accepted connections.
type countingListener struct {
	net.Listener
	peer *peer
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.peer.conns.Add(1)
	}
	return c, err
}

func listenLoopback(tb testing.TB) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
}

func (p *peer) listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := listenLoopback(t)
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	return countingListener{l, p}
}

// serveHTTP serves HTTP/1.1 and h2c, and with TLS HTTP/1.1 and h2.
func serveHTTP(t *testing.T, conf *tls.Config, h http.HandlerFunc) *peer {
	t.Helper()
	p := &peer{}
	s := &httptest.Server{Listener: p.listen(t), Config: &http.Server{
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0),
		Protocols:         new(http.Protocols),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.saw(r.Header.Get("X-Harness-Id"))
			h(w, r)
		})}}
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols.SetHTTP2(true)
	if conf != nil {
		s.TLS = conf
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return p
}

func answer(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Echo-Pod", "pod-a")
	w.Header().Set("X-Echo-Version", "v1")
	w.Header().Set("Trailer", "X-Last")
	_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.URL.Path, body)
	w.Header().Set("X-Last", "yes")
}

// serveStream serves one protocol on raw connections; handle returns when the connection is to be closed.
func serveStream(t *testing.T, handle func(*peer, net.Conn)) *peer {
	t.Helper()
	p := &peer{}
	l := p.listen(t)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { _ = c.Close() })()
				handle(p, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	return p
}

// echoLines is the backend's TCP protocol.
func echoLines(p *peer, c net.Conn) {
	r := bufio.NewReader(c)
	for first := true; ; first = false {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		p.saw(line)
		if first {
			line = `{"pod":"pod-a"}` + "\n" + line
		}
		if _, err := io.WriteString(c, line); err != nil {
			return
		}
	}
}

func serveUDP(t *testing.T) *peer {
	t.Helper()
	pc, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{addr: pc.LocalAddr().String()}
	sources := map[string]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if !sources[from.String()] {
				sources[from.String()] = true
				p.conns.Add(1)
			}
			p.saw(string(buf[:n]))
			_, _ = pc.WriteTo([]byte(`{"pod":"pod-a"}`), from)
		}
	}()
	t.Cleanup(func() { _ = pc.Close(); <-done })
	return p
}

func serveWebSocket(t *testing.T) *peer {
	t.Helper()
	return serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/forbidden" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		_ = c.Write(r.Context(), websocket.MessageText, []byte(`{"pod":"pod-a"}`))
		for {
			kind, msg, err := c.Read(r.Context())
			if err != nil {
				return
			}
			_ = c.Write(r.Context(), kind, msg)
		}
	})
}

// serveGRPC serves with the library's own server.
func serveGRPC(t *testing.T, conf *tls.Config, handle func(ctx context.Context, in []byte) ([]byte, error)) *peer {
	t.Helper()
	p := &peer{}
	opts := []grpc.ServerOption{grpc.ForceServerCodecV2(rawCodec{})}
	if conf != nil {
		conf = conf.Clone()
		conf.NextProtos = []string{"h2"}
		opts = append(opts, grpc.Creds(credentials.NewTLS(conf)))
	}
	s := grpc.NewServer(opts...)
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "echo.Echo", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in []byte
			if err := dec(&in); err != nil {
				return nil, err
			}
			md, _ := metadata.FromIncomingContext(ctx)
			p.saw(fmt.Sprint(md["x-harness-id"]))
			_ = grpc.SetHeader(ctx, metadata.Pairs("x-echo-pod", "pod-a"))
			out, err := handle(ctx, in)
			return &out, err
		},
	}}}, struct{}{})
	l := p.listen(t)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return p
}

// A certificate for 127.0.0.1 and a.example, valid as its own CA.
var (
	certOnce sync.Once
	certPair tls.Certificate
	certPEM  []byte
	keyPEM   []byte
)

func testCert(t *testing.T) (tls.Certificate, []byte, []byte) {
	t.Helper()
	certOnce.Do(func() {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peer"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
		certPair, err = tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
	})
	return certPair, certPEM, keyPEM
}

func serverTLS(t *testing.T) (*tls.Config, *TLS) {
	pair, ca, _ := testCert(t)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, &TLS{CA: ca}
}
