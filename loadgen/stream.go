// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// maxLine bounds the first line of a TCP answer and a WebSocket message.
const maxLine = 1 << 20

var errEcho = errors.New("the echo is not what was sent")

// lines is the TCP protocol of the backend: one line that says who answers, once per connection, then every line back.
type lines struct {
	conn     net.Conn
	r        *bufio.Reader
	greeting []byte
}

func newLines(nc net.Conn) *lines { return &lines{conn: nc, r: bufio.NewReader(nc)} }

func (l *lines) shared() bool { return false }
func (l *lines) alive() bool  { return quiet(l.conn, l.r) }
func (l *lines) close()       { _ = l.conn.Close() }

func (l *lines) exchange(ctx context.Context, c call, x *Exchange) (err error) {
	stop := bound(ctx, l.conn)
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
	}()
	body := c.Body
	if len(body) > 0 && body[len(body)-1] != '\n' {
		body = append(bytes.Clone(body), '\n')
	}
	if _, err := l.conn.Write(body); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if l.greeting == nil {
		line, err := readLine(l.r)
		if err != nil {
			return fmt.Errorf("read first line: %w", err)
		}
		l.greeting = line
	}
	x.Body = l.greeting[:min(len(l.greeting), c.keep)]
	echo := make([]byte, len(body))
	if _, err := io.ReadFull(l.r, echo); err != nil {
		return fmt.Errorf("read echo: %w", err)
	}
	if !bytes.Equal(echo, body) {
		return errEcho
	}
	return nil
}

// readLine is the next line without its end.
func readLine(r *bufio.Reader) ([]byte, error) {
	line := []byte{}
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			if errors.Is(err, io.EOF) && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		case len(line) > maxLine:
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		}
	}
}

// datagrams is UDP: one datagram out, one back. A failed exchange ends the socket, so that a late answer meets no other request.
type datagrams struct{ conn net.Conn }

func (d *datagrams) shared() bool { return false }
func (d *datagrams) alive() bool  { return quiet(d.conn, nil) }
func (d *datagrams) close()       { _ = d.conn.Close() }

func (d *datagrams) exchange(ctx context.Context, c call, x *Exchange) (err error) {
	stop := bound(ctx, d.conn)
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
	}()
	if _, err := d.conn.Write(c.Body); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	answer := make([]byte, 64<<10)
	n, err := d.conn.Read(answer)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	x.Body = answer[:min(n, c.keep)]
	return nil
}

// webSocket shakes hands with its first exchange, because a refused upgrade is an answer with a status.
type webSocket struct {
	conn     net.Conn
	ws       *websocket.Conn
	greeting []byte
	header   http.Header
}

func (w *webSocket) shared() bool { return false }
func (w *webSocket) alive() bool  { return w.ws != nil && quiet(w.conn, nil) }

func (w *webSocket) close() {
	if w.ws != nil {
		_ = w.ws.CloseNow()
	}
	_ = w.conn.Close()
}

func (w *webSocket) exchange(ctx context.Context, c call, x *Exchange) error {
	if w.ws == nil {
		if refused, err := w.handshake(ctx, c, x); refused || err != nil {
			return err
		}
	}
	x.Status, x.Header = http.StatusSwitchingProtocols, w.header
	x.Body = w.greeting[:min(len(w.greeting), c.keep)]
	if len(c.Body) == 0 {
		return nil
	}
	if err := w.ws.Write(ctx, websocket.MessageText, c.Body); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	_, echo, err := w.ws.Read(ctx)
	if err != nil {
		return fmt.Errorf("read echo: %w", err)
	}
	if !bytes.Equal(echo, c.Body) {
		return errEcho
	}
	return nil
}

// handshake upgrades the connection and reads the first message. refused says that x has the peer's other answer.
func (w *webSocket) handshake(ctx context.Context, c call, x *Exchange) (refused bool, err error) {
	ours := func(context.Context, string, string) (net.Conn, error) { return w.conn, nil }
	transport := &http.Transport{DialContext: ours, DialTLSContext: ours, DisableCompression: true}
	defer transport.CloseIdleConnections()
	ws, resp, err := websocket.Dial(ctx, c.url.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		HTTPHeader: c.fields(),
		Host:       c.Host,
	})
	if err != nil {
		if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
			x.Status, x.Header = resp.StatusCode, resp.Header
			// The library keeps the first KiB of the body.
			x.Body, _ = io.ReadAll(io.LimitReader(resp.Body, int64(c.keep)))
			_ = w.conn.Close()
			return true, nil
		}
		return false, fmt.Errorf("upgrade: %w", err)
	}
	ws.SetReadLimit(maxLine)
	if _, w.greeting, err = ws.Read(ctx); err != nil {
		_ = ws.CloseNow()
		return false, fmt.Errorf("read first message: %w", err)
	}
	w.ws, w.header = ws, resp.Header
	return false, nil
}
