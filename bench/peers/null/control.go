// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package null

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Settings are how a server behaves from a reset on. The zero value answers at once.
type Settings struct {
	Delay time.Duration `json:"delay,omitempty"` // between a request and its answer
	// StallAt after the first request the server neither reads nor answers anything for Stall, once.
	StallAt time.Duration `json:"stallAt,omitempty"`
	Stall   time.Duration `json:"stall,omitempty"`
}

// A Question says what the arrivals are compared with.
type Question struct {
	Rate     float64       `json:"rate,omitempty"` // of the schedule; 0: there is none
	Duration time.Duration `json:"duration,omitempty"`
	Skip     int           `json:"skip,omitempty"` // requests before the schedule begins
}

// A Report is what has arrived since the reset, without the skipped requests.
type Report struct {
	Requests    int           `json:"requests"`
	Connections []int         `json:"connections"` // requests of each, the skipped ones too, the largest first
	Span        time.Duration `json:"span"`        // from the first to the last arrival
	Deviation   Deviation     `json:"deviation"`   // zero without a rate
}

// Rate is requests per second, from the first to the last arrival.
func (r Report) Rate() float64 {
	if r.Span <= 0 {
		return 0
	}
	return float64(r.Requests-1) / r.Span.Seconds()
}

// One line of JSON each way. Exactly one field of a message is set.
type message struct {
	Reset  *Settings `json:"reset,omitempty"`
	Report *Question `json:"report,omitempty"`
}

type reply struct {
	Error  string  `json:"error,omitempty"`
	Report *Report `json:"report,omitempty"`
}

// command reads from a control connection and obeys every whole line.
func (s *Server) command(c *conn) {
	n, err := rawRead(c.fd, c.in[len(c.in):cap(c.in)])
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if err != nil || n == 0 {
		s.drop(c)
		return
	}
	c.in = c.in[:len(c.in)+n]
	for {
		line, rest, ok := bytes.Cut(c.in, []byte("\n"))
		if !ok {
			if len(c.in) == cap(c.in) {
				s.drop(c)
			}
			return
		}
		out, err := json.Marshal(s.obey(line))
		if err == nil {
			err = writeAll(c.fd, append(out, '\n'))
		}
		if err != nil {
			s.drop(c)
			return
		}
		c.in = c.in[:copy(c.in, rest)]
	}
}

func (s *Server) obey(line []byte) reply {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return reply{Error: "command: " + err.Error()}
	}
	switch {
	case m.Reset != nil:
		if m.Reset.Delay < 0 || m.Reset.Stall < 0 || m.Reset.StallAt < 0 {
			return reply{Error: "reset: a duration is negative"}
		}
		s.settings, s.stalled, s.count, s.perConn = *m.Reset, false, 0, nil
		for _, c := range s.conns {
			c.count = 0
		}
		return reply{}
	case m.Report != nil:
		r, err := s.report(*m.Report)
		if err != nil {
			return reply{Error: err.Error()}
		}
		return reply{Report: &r}
	}
	return reply{Error: "command: neither reset nor report"}
}

func (s *Server) report(q Question) (Report, error) {
	if s.count > len(s.arrivals) {
		return Report{}, fmt.Errorf("report: %d requests came, %d are kept at most", s.count, len(s.arrivals))
	}
	r := Report{Connections: slices.Clone(s.perConn)}
	for _, c := range s.conns {
		if c.count > 0 {
			r.Connections = append(r.Connections, c.count)
		}
	}
	slices.Sort(r.Connections)
	slices.Reverse(r.Connections)
	arrivals := s.arrivals[min(max(q.Skip, 0), s.count):s.count]
	r.Requests = len(arrivals)
	if r.Requests > 0 {
		r.Span = time.Duration(arrivals[r.Requests-1] - arrivals[0])
	}
	if q.Rate > 0 {
		r.Deviation, s.scratch = Deviate(arrivals, q.Rate, q.Duration, s.scratch)
	}
	return r, nil
}

// writeAll waits for room: a reply may be longer than what the socket takes at once.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EAGAIN {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1000)
			n = 0
		}
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// A Client tells a server what to do. It is not safe for concurrent use.
type Client struct {
	conn net.Conn
	in   *bufio.Reader
}

// Dial connects to the control port of a server.
func Dial(ctx context.Context, addr string) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial the null server's control port: %w", err)
	}
	return &Client{conn: conn, in: bufio.NewReader(conn)}, nil
}

// Close closes the connection; the server stays.
func (c *Client) Close() error { return c.conn.Close() }

// Reset forgets what has arrived and takes settings.
func (c *Client) Reset(settings Settings) error {
	_, err := c.ask(message{Reset: &settings})
	return err
}

// Report says what has arrived since the last reset.
func (c *Client) Report(q Question) (Report, error) {
	r, err := c.ask(message{Report: &q})
	if err == nil && r.Report == nil {
		err = errors.New("null server: an answer without a report")
	}
	if err != nil {
		return Report{}, err
	}
	return *r.Report, nil
}

func (c *Client) ask(m message) (reply, error) {
	line, err := json.Marshal(m)
	if err != nil {
		return reply{}, fmt.Errorf("null server: %w", err)
	}
	// Longer than any stall.
	if err := c.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return reply{}, fmt.Errorf("null server: %w", err)
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return reply{}, fmt.Errorf("null server: %w", err)
	}
	line, err = c.in.ReadBytes('\n')
	if err != nil {
		return reply{}, fmt.Errorf("null server: %w", err)
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return reply{}, fmt.Errorf("null server: %w", err)
	}
	if r.Error != "" {
		return reply{}, errors.New("null server: " + r.Error)
	}
	return r, nil
}
