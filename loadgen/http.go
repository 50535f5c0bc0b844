// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 one HTTP/2 connection under our own control is what a policy counts; net/http has it only since the newest Go

package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// http1 is HTTP/1.1 spoken directly on one connection. An http.Transport would, when a kept connection turns out dead, dial
// again and repeat a request that the peer may have seen; here that is an error which the caller sees, and only a
// connection known to be closed before anything was written is replaced.
type http1 struct {
	conn net.Conn
	in   io.LimitedReader // of conn: bounds an answer's head
	r    *bufio.Reader    // of in
	w    *bufio.Writer
	done bool // no further request
}

// maxHead bounds an answer's head, in bytes, as a peer that never ends it would fill the memory.
const maxHead = 1 << 20

var errHugeHead = fmt.Errorf("its head is larger than %d bytes", maxHead)

func newHTTP1(nc net.Conn) *http1 {
	h := &http1{conn: nc, in: io.LimitedReader{R: nc, N: math.MaxInt64}, w: bufio.NewWriter(nc)}
	h.r = bufio.NewReader(&h.in)
	return h
}

func (h *http1) shared() bool { return false }
func (h *http1) alive() bool  { return !h.done && quiet(h.conn, h.r) }
func (h *http1) close()       { _ = h.conn.Close() }

func (h *http1) exchange(ctx context.Context, c call, x *Exchange) error {
	stop := bound(ctx, h.conn)
	defer func() {
		// If ctx ended just now the deadline may yet be set: not on the next request.
		h.done = !stop() || h.done
	}()
	req := c.request()
	written := make(chan error, 1)
	write := func() {
		err := req.Write(h.w)
		if err == nil {
			err = h.w.Flush()
		}
		written <- err
	}
	// A large body is written beside reading: the peer may answer and stop reading before its end.
	if len(c.Body) <= h.w.Size() {
		write()
	} else {
		go write()
	}
	resp, err := h.read(req)
	if err == nil {
		err = x.take(resp, c.keep)
		h.done = resp.Close || resp.StatusCode == http.StatusSwitchingProtocols
	}
	if err != nil {
		// A writer's error came first and is the cause, unless the peer gave its reason in an alert. Closing ends a writer.
		h.close()
		if werr := <-written; werr != nil && !isTLS(err) {
			return fmt.Errorf("write request: %w", werr)
		}
		return fmt.Errorf("read answer: %w", err)
	}
	select {
	case werr := <-written:
		h.done = h.done || werr != nil
	default:
		h.done = true // answered before the whole request was written
		h.close()
		<-written
	}
	return nil
}

// read skips informational answers.
func (h *http1) read(req *http.Request) (*http.Response, error) {
	h.in.N = maxHead
	defer func() { h.in.N = math.MaxInt64 }()
	for {
		resp, err := http.ReadResponse(h.r, req)
		if err != nil && h.in.N <= 0 {
			err = errHugeHead
		}
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
}

// request is c for net/http. It has no GetBody, so that nothing below can send it twice.
func (c call) request() *http.Request {
	req := &http.Request{Method: c.method, URL: c.url, Host: c.Host, Header: c.fields(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if len(c.Body) > 0 {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(c.Body)), int64(len(c.Body))
	}
	return req
}

// take reads the whole answer and keeps the first bytes of its body.
func (x *Exchange) take(resp *http.Response, keep int) error {
	defer func() { _ = resp.Body.Close() }()
	x.Status, x.Header, x.Proto = resp.StatusCode, resp.Header, resp.Proto
	var err error
	if x.Body, err = io.ReadAll(io.LimitReader(resp.Body, int64(keep))); err != nil {
		return err
	}
	if len(x.Body) == keep {
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
	}
	for k, v := range resp.Trailer {
		x.Header[k] = append(x.Header[k], v...)
	}
	return nil
}

// bound makes reads and writes of nc fail when ctx ends. stop reports whether that has not begun.
func bound(ctx context.Context, nc net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
}

// quiet says whether an idle connection is still open with nothing to read: data nobody asked for is as final as an end.
func quiet(nc net.Conn, r *bufio.Reader) bool {
	if r != nil && r.Buffered() > 0 {
		return false
	}
	tc, secure := nc.(*tls.Conn)
	if !secure {
		return silent(nc)
	}
	if silent(tc.NetConn()) {
		return true
	}
	// What came may be a session ticket, which crypto/tls reads past, or the end. A read that times out spoils nothing.
	_ = nc.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := r.Peek(1)
	_ = nc.SetReadDeadline(time.Time{})
	return err != nil && isTimeout(err)
}

// http2Wire is HTTP/2 on one connection, with or without TLS. A ClientConn, unlike a Transport, neither dials nor retries.
type http2Wire struct {
	cc   *http2.ClientConn
	conn *watchedConn
}

var http2Transport = &http2.Transport{AllowHTTP: true, DisableCompression: true, StrictMaxConcurrentStreams: true}

func newHTTP2(nc net.Conn, state *tls.ConnectionState) (wire, error) {
	if err := agreedH2(state); err != nil {
		return nil, err
	}
	conn := &watchedConn{Conn: nc}
	cc, err := http2Transport.NewClientConn(conn)
	if err != nil {
		return nil, fmt.Errorf("start HTTP/2: %w", err)
	}
	return http2Wire{cc, conn}, nil
}

func agreedH2(state *tls.ConnectionState) error {
	if state != nil && state.NegotiatedProtocol != "h2" {
		return &phaseError{handshake: true, err: fmt.Errorf("the peer did not agree to h2 but to %q", state.NegotiatedProtocol)}
	}
	return nil
}

func (h http2Wire) shared() bool { return true }
func (h http2Wire) alive() bool  { return h.cc.CanTakeNewRequest() }
func (h http2Wire) close()       { _ = h.cc.Close() }

func (h http2Wire) exchange(ctx context.Context, c call, x *Exchange) error {
	resp, err := h.cc.RoundTrip(c.request().WithContext(ctx))
	if err == nil {
		err = x.take(resp, c.keep)
	}
	// A connection that ended before its first request says no more than that.
	if cause := h.conn.failure(); err != nil && cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// A watchedConn keeps the first error of the connection, which the libraries above it do not always pass on.
type watchedConn struct {
	net.Conn
	first atomic.Pointer[error]
}

func (w *watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.note(err)
	return n, err
}

func (w *watchedConn) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if err != nil {
		w.note(lastWord(w.Conn))
		w.note(err)
	}
	return n, err
}

// lastWord is why the peer ended a connection that can no longer be written to, if it has said so (a TLS alert); else nil. The
// system keeps what came before the end.
func lastWord(nc net.Conn) error {
	_ = nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	buf := make([]byte, 4<<10)
	for {
		if _, err := nc.Read(buf); err != nil {
			if isTLS(err) {
				return err
			}
			return nil
		}
	}
}

func (w *watchedConn) note(err error) {
	if err != nil {
		w.first.CompareAndSwap(nil, &err)
	}
}

func (w *watchedConn) failure() error {
	if err := w.first.Load(); err != nil {
		return *err
	}
	return nil
}
