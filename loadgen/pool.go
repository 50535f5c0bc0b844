// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// A wire speaks one protocol over one open connection.
type wire interface {
	// exchange sends one request and fills in what came back. After an error an exclusive wire is closed. ctx ends at the
	// request's deadline.
	exchange(ctx context.Context, c call, x *Exchange) error
	// shared says whether several exchanges may run at once.
	shared() bool
	// alive says whether another exchange may be started: false when the peer has closed or is about to.
	alive() bool
	close()
}

// A call is one request as one wire sees it.
type call struct {
	*target
	id       string // X-Harness-Id, or ""
	keep     int    // bytes of the answer's body
	deadline time.Time
}

// fields is the request's header.
func (c call) fields() http.Header {
	if c.id == "" {
		return c.header
	}
	h := c.header.Clone()
	h["X-Harness-Id"] = []string{c.id}
	return h
}

// A conn is a wire and what is known of its connection.
type conn struct {
	wire
	id            int
	local, remote string
	tls           *tls.ConnectionState
	carried       int  // requests started
	users         int  // requests running
	retired       bool // to be closed when the last user is done
}

func (c *conn) use(ctx context.Context, call call, x *Exchange) error {
	x.Conn, x.Local, x.Remote, x.Proto = c.id, c.local, c.remote, protoNames[call.Protocol]
	if c.tls != nil {
		x.TLSVersion, x.TLSCipher = tls.VersionName(c.tls.Version), tls.CipherSuiteName(c.tls.CipherSuite)
		if len(c.tls.PeerCertificates) > 0 {
			x.PeerCN = c.tls.PeerCertificates[0].Subject.CommonName
		}
	}
	if _, ok := c.wire.(*lean); ok { // goes by the deadline itself: a ctx for each request is a tenth of its cost
		return c.exchange(ctx, call, x)
	}
	ctx, cancel := context.WithDeadline(ctx, call.deadline)
	defer cancel()
	return c.exchange(ctx, call, x)
}

var protoNames = map[Protocol]string{
	HTTP1: "HTTP/1.1", HTTP2: "HTTP/2.0", H2C: "HTTP/2.0", GRPC: "gRPC", TCP: "TCP", UDP: "UDP", WebSocket: "WebSocket",
}

// A pool is the connections of one run: a fixed number of slots with at most one connection per destination each, so that
// it is known which connection carries which request. net/http's own pool would reuse the last one that became idle.
type pool struct {
	targets     []*target
	connections int
	policy      Policy
	timeout     time.Duration
	prefix      string
	keep        int
	slots       []slot
	opened      atomic.Int64
	counts      bool // answers are counted and not kept: lean may speak HTTP/1.1
}

// A slot is held by who looks up, opens or closes a connection of it, and as long as an exclusive one is in use.
type slot struct {
	held  chan struct{}
	conns map[string]*conn // by target.key
}

func makeSlots(n int) []slot {
	slots := make([]slot, n)
	for i := range slots {
		slots[i] = slot{held: make(chan struct{}, 1), conns: map[string]*conn{}}
	}
	return slots
}

func (p *pool) close() {
	for i := range p.slots {
		for _, c := range p.slots[i].conns {
			c.close()
		}
	}
}

var errBusy = errors.New("its connection was busy until the timeout")

// do carries out request seq on connection n mod connections.
func (p *pool) do(ctx context.Context, n, seq int) Exchange {
	x := Exchange{Seq: seq}
	c := call{target: p.targets[seq%len(p.targets)], keep: p.keep, deadline: time.Now().Add(p.timeout)}
	if p.prefix != "" {
		c.id = p.prefix + "-" + strconv.Itoa(seq)
	}
	err := p.exchange(ctx, n, c, &x)
	if err == nil && c.FollowRedirects {
		err = p.follow(ctx, c, &x)
	}
	now := time.Now()
	x.Latency = now.Sub(x.Start)
	if err != nil {
		x.Err, x.ErrKind = err.Error(), kindOf(!now.Before(c.deadline), err)
	}
	if errors.Is(err, errBusy) {
		x.Latency = 0
	}
	return x
}

func (p *pool) exchange(ctx context.Context, n int, c call, x *Exchange) error {
	if p.policy == Fresh {
		x.Start = time.Now()
		return p.once(ctx, c, x)
	}
	s := &p.slots[n%len(p.slots)]
	held := s.hold(ctx, c.deadline)
	x.Start = time.Now()
	if !held {
		return errBusy
	}
	conn, err := p.get(ctx, s, c)
	if err != nil {
		<-s.held
		return err
	}
	x.Reused = conn.carried > 0
	conn.carried++
	conn.users++
	if conn.shared() {
		<-s.held
		err = conn.use(ctx, c, x)
		s.held <- struct{}{}
	} else {
		err = conn.use(ctx, c, x)
	}
	conn.users--
	if uses := p.policy.uses(); (uses > 0 && conn.carried >= uses) || (err != nil && !conn.shared()) {
		conn.retired = true
	}
	if conn.retired {
		if s.conns[c.key] == conn {
			delete(s.conns, c.key)
		}
		if conn.users == 0 {
			conn.close()
		}
	}
	<-s.held
	return err
}

// hold waits for the slot and reports whether it was had.
func (s *slot) hold(ctx context.Context, deadline time.Time) bool {
	select {
	case s.held <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case s.held <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// get is the slot's connection for a call, a new one when there is none or it can carry no more. The slot is held.
func (p *pool) get(ctx context.Context, s *slot, c call) (*conn, error) {
	uses := p.policy.uses()
	old := s.conns[c.key]
	if old != nil && (uses == 0 || old.carried < uses) && old.alive() {
		return old, nil
	}
	if old != nil {
		delete(s.conns, c.key)
		if old.retired = true; old.users == 0 {
			old.close()
		}
	}
	fresh, err := p.dial(ctx, c)
	if err != nil {
		return nil, err
	}
	s.conns[c.key] = fresh
	return fresh, nil
}

// once uses a connection of its own.
func (p *pool) once(ctx context.Context, c call, x *Exchange) error {
	conn, err := p.dial(ctx, c)
	if err != nil {
		return err
	}
	defer conn.close()
	return conn.use(ctx, c, x)
}

func (p *pool) dial(run context.Context, t call) (*conn, error) {
	ctx, cancel := context.WithDeadline(run, t.deadline)
	defer cancel()
	d := net.Dialer{LocalAddr: t.local}
	nc, err := d.DialContext(ctx, t.network, t.address)
	if err != nil {
		return nil, &phaseError{err: err}
	}
	c := &conn{id: int(p.opened.Add(1)), local: nc.LocalAddr().String(), remote: nc.RemoteAddr().String()}
	if t.tls != nil {
		tc := tls.Client(nc, t.tls)
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, &phaseError{handshake: true, err: err}
		}
		state := tc.ConnectionState()
		c.tls, nc = &state, tc
	}
	if t.Protocol == HTTP1 && t.tls == nil && p.counts {
		c.wire = newLean(run, nc)
		return c, nil
	}
	if c.wire, err = t.open(nc, c.tls); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

// open makes the wire that speaks t's protocol over nc.
func (t *target) open(nc net.Conn, state *tls.ConnectionState) (wire, error) {
	switch t.Protocol {
	case HTTP2, H2C:
		return newHTTP2(nc, state)
	case GRPC:
		return newGRPC(nc, state, t)
	case TCP:
		return newLines(nc), nil
	case UDP:
		return &datagrams{conn: nc}, nil
	case WebSocket:
		return &webSocket{conn: nc}, nil
	}
	return newHTTP1(nc), nil
}

const maxRedirects = 10

// follow goes where x, an answer to c, points to, over connections of their own. Where an Address or a Host was given, what
// was dialled stands for the way into the cluster and not for one name: it is dialled again, at the port that the new URL asks for.
func (p *pool) follow(ctx context.Context, c call, x *Exchange) error {
	for hops := 0; ; hops++ {
		location := x.Header.Get("Location")
		switch x.Status {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return nil
		}
		if location == "" {
			return nil
		}
		if hops == maxRedirects {
			return fmt.Errorf("stopped after %d redirects", maxRedirects)
		}
		next, err := c.redirected(location, x.Status)
		if err != nil {
			return fmt.Errorf("redirect to %q: %w", location, err)
		}
		c.target = next
		*x = Exchange{Seq: x.Seq, Start: x.Start}
		if err := p.once(ctx, c, x); err != nil {
			return err
		}
	}
}

func (t *target) redirected(location string, status int) (*target, error) {
	base := *t.url
	if t.Host != "" {
		base.Host = t.Host
	}
	u, err := base.Parse(location)
	if err != nil {
		return nil, err
	}
	r := t.Request
	if r.Address != "" || r.Host != "" {
		if r.Address = t.address; u.Scheme != base.Scheme || u.Port() != base.Port() {
			r.Address = readdress(t.address, u)
		}
	}
	r.URL, r.Host = u.String(), ""
	if status == http.StatusSeeOther || status <= http.StatusFound && t.method == http.MethodPost {
		r.Method, r.Body = http.MethodGet, nil
	}
	return r.compile()
}

// readdress is address with the port that u asks for.
func readdress(address string, u *url.URL) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(host, port)
}

func validID(prefix string) bool { return httpguts.ValidHeaderFieldValue(prefix) }
