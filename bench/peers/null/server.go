// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package null is the server that load generators are compared against: HTTP/1.1 with keep-alive on loopback that does as
// little as possible for a request, notes when it arrived, and can be told to be slow.
//
// It is one thread around epoll: no goroutine is woken, nothing is allocated and nothing locked for a request, so that what is
// measured is the generator. One core carries it.
package null

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxArrivals = 8 << 20  // arrivals that are kept, 64 MB
	bufferSize  = 16 << 10 // of one connection; a head must fit
	batch       = 64       // answers that one write carries at most
	// spin is how long the server asks again before it sleeps: to be woken takes longer than an answer, and the generator's
	// core would pay for a part of it.
	spin = 100 * time.Microsecond

	answer  = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\nX-Echo-Pod: null\r\nX-Echo-Version: v1\r\n\r\nok"
	closing = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\nConnection: close\r\nX-Echo-Pod: null\r\nX-Echo-Version: v1\r\n\r\nok"
	refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

// A Server answers HTTP requests on one loopback port and commands on another; see [Dial]. One goroutine serves both.
type Server struct {
	http, control   int // listening sockets
	epoll, timer    int
	conns           map[int]*conn // by file descriptor
	fast            []*conn       // the same, for the low descriptors that a handful of connections has
	began           time.Time     // what times are counted from
	answers         []byte        // batch of them
	settings        Settings
	stalled         bool
	count           int
	arrivals        []int64 // since began, in ns
	scratch         []int64
	perConn         []int // requests of the connections that were closed
	queue           []pending
	head            int // of queue
	httpAt, ctrlAt  string
	lastActive, now time.Duration
}

// A pending answer is one held back for the service delay.
type pending struct {
	c    *conn
	due  time.Duration
	last bool
}

type conn struct {
	fd      int
	control bool
	closed  bool
	in      []byte // what was read and is no whole request yet
	body    int    // bytes of a request's body still to come
	inBody  bool
	last    bool // no request is read after the present one
	count   int
	owed    int  // answers due
	written int  // bytes of the first of them that are written already
	finish  bool // the answer after those owed is the last one
	waiting bool // for room to write
}

// Listen opens both ports on 127.0.0.1. Close the server when it is not served.
func Listen() (*Server, error) {
	s := &Server{
		conns: map[int]*conn{}, fast: make([]*conn, 1024), began: time.Now(),
		arrivals: make([]int64, maxArrivals), scratch: make([]int64, maxArrivals),
		http: -1, control: -1, epoll: -1, timer: -1,
	}
	// Touch every page now rather than under load.
	for i := 0; i < maxArrivals; i += 512 {
		s.arrivals[i] = 1
	}
	for range batch {
		s.answers = append(s.answers, answer...)
	}
	var err error
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if s.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		s.Close()
		return nil, fmt.Errorf("create timer: %w", err)
	}
	for _, l := range []struct {
		fd *int
		at *string
	}{{&s.http, &s.httpAt}, {&s.control, &s.ctrlAt}} {
		if *l.fd, *l.at, err = listen(); err != nil {
			s.Close()
			return nil, fmt.Errorf("listen on loopback: %w", err)
		}
	}
	for _, fd := range []int{s.timer, s.http, s.control} {
		if err := s.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

func listen() (fd int, at string, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, "", err
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err == nil {
		err = unix.Listen(fd, 4096)
	}
	var own unix.Sockaddr
	if err == nil {
		own, err = unix.Getsockname(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, "", err
	}
	return fd, fmt.Sprintf("127.0.0.1:%d", own.(*unix.SockaddrInet4).Port), nil
}

// Addr is where HTTP is served, ControlAddr where commands are taken.
func (s *Server) Addr() string        { return s.httpAt }
func (s *Server) ControlAddr() string { return s.ctrlAt }

// Close closes the ports and every connection. It must not be called while Serve runs.
func (s *Server) Close() {
	for _, c := range s.conns {
		s.drop(c)
	}
	for _, fd := range []*int{&s.http, &s.control, &s.timer, &s.epoll} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
		}
		*fd = -1
	}
}

func (s *Server) watch(op, fd int, events uint32) error {
	if err := unix.EpollCtl(s.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

// Serve answers until stop, a file descriptor such as a pipe's, can be read or was closed at its other end.
func (s *Server) Serve(stop int) error {
	if err := s.watch(unix.EPOLL_CTL_ADD, stop, unix.EPOLLIN); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := s.wait(events)
		if err != nil {
			return fmt.Errorf("wait for events: %w", err)
		}
		s.stall()
		for i := range events[:n] {
			switch fd := int(events[i].Fd); fd {
			case stop:
				return nil
			case s.http, s.control:
				s.accept(fd)
			case s.timer:
				s.release()
			default:
				if c := s.find(fd); c != nil {
					s.ready(c, events[i].Events)
				}
			}
		}
	}
}

// wait asks without sleeping for a while, then sleeps.
func (s *Server) wait(events []unix.EpollEvent) (int, error) {
	for {
		n, err := rawWait(s.epoll, events)
		s.now = time.Since(s.began)
		if n > 0 {
			s.lastActive = s.now
		}
		if n == 0 && err == nil && s.now-s.lastActive > spin {
			n, err = unix.EpollWait(s.epoll, events, -1)
			s.now = time.Since(s.began)
			s.lastActive = s.now
		}
		if err == unix.EINTR {
			continue
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// stall sleeps through the stall when it has begun, once: what arrives meanwhile is neither read nor answered before it ends.
func (s *Server) stall() {
	if s.settings.Stall == 0 || s.stalled || s.count == 0 {
		return
	}
	begin := time.Duration(s.arrivals[0]) + s.settings.StallAt
	if s.now < begin {
		return
	}
	s.stalled = true
	time.Sleep(begin + s.settings.Stall - s.now)
	s.now = time.Since(s.began)
}

func (s *Server) find(fd int) *conn {
	if fd < len(s.fast) {
		return s.fast[fd]
	}
	return s.conns[fd]
}

func (s *Server) accept(listener int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // none is left, or this one is gone again
		}
		// Without it the last of several answers would wait for an acknowledgement.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		c := &conn{fd: fd, control: listener == s.control, in: make([]byte, 0, bufferSize)}
		if s.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
			_ = unix.Close(fd)
			continue
		}
		s.conns[fd] = c
		if fd < len(s.fast) {
			s.fast[fd] = c
		}
	}
}

func (s *Server) drop(c *conn) {
	if c.closed {
		return
	}
	c.closed = true
	if c.count > 0 {
		s.perConn = append(s.perConn, c.count)
	}
	delete(s.conns, c.fd)
	if c.fd < len(s.fast) {
		s.fast[c.fd] = nil
	}
	_ = unix.Close(c.fd) // which ends its being watched
}

func (s *Server) ready(c *conn, events uint32) {
	switch {
	case c.control:
		s.command(c)
	case events&unix.EPOLLOUT != 0:
		s.flush(c)
	case events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0:
		s.read(c)
	}
}

// read takes what has come, once: epoll tells again of what is left.
func (s *Server) read(c *conn) {
	n, err := rawRead(c.fd, c.in[len(c.in):cap(c.in)])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil || n == 0:
		s.drop(c)
		return
	}
	c.in = c.in[:len(c.in)+n]
	s.now = time.Since(s.began)
	rest, err := s.requests(c, c.in)
	if err == nil && len(rest) == cap(c.in) {
		err = errMalformed // a head as long as the buffer
	}
	if err != nil {
		_, _ = rawWrite(c.fd, []byte(refusal))
		s.drop(c)
		return
	}
	c.in = c.in[:copy(c.in[:cap(c.in)], rest)]
	s.flush(c)
}

// requests counts every whole request in b, and returns what is left.
func (s *Server) requests(c *conn, b []byte) (rest []byte, err error) {
	for !c.last || c.inBody {
		if !c.inBody {
			head, body, last, err := parse(b)
			if err != nil {
				return b, err
			}
			if head == 0 {
				return b, nil
			}
			b, c.body, c.inBody, c.last = b[head:], body, true, last
		}
		taken := min(c.body, len(b))
		b, c.body = b[taken:], c.body-taken
		if c.body > 0 {
			return b, nil
		}
		c.inBody = false
		s.arrived(c)
	}
	return nil, nil // nothing counts after the last request
}

func (s *Server) arrived(c *conn) {
	if s.count < len(s.arrivals) {
		s.arrivals[s.count] = int64(s.now)
	}
	s.count++
	c.count++
	if s.settings.Delay == 0 {
		c.answer(c.last)
		return
	}
	s.queue = append(s.queue, pending{c: c, due: s.now + s.settings.Delay, last: c.last})
	if len(s.queue)-s.head == 1 {
		s.arm(s.settings.Delay)
	}
}

func (c *conn) answer(last bool) {
	if last {
		c.finish = true
	} else {
		c.owed++
	}
}

func (s *Server) arm(in time.Duration) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(int64(in), 1))}
	_ = unix.TimerfdSettime(s.timer, 0, &spec, nil)
}

// release answers what has waited for the service delay, the same for all and therefore in order.
func (s *Server) release() {
	var fired [8]byte
	_, _ = rawRead(s.timer, fired[:])
	s.now = time.Since(s.began)
	for s.head < len(s.queue) && s.queue[s.head].due <= s.now {
		p := s.queue[s.head]
		s.queue[s.head] = pending{}
		s.head++
		if !p.c.closed {
			p.c.answer(p.last)
			s.flush(p.c)
		}
	}
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
		return
	}
	s.arm(s.queue[s.head].due - s.now)
}

// flush writes the answers due, as far as there is room.
func (s *Server) flush(c *conn) {
	for c.owed > 0 {
		block := s.answers[c.written : min(c.owed, batch)*len(answer)]
		n, err := rawWrite(c.fd, block)
		if err == unix.EAGAIN || err == unix.EINTR {
			s.awaitRoom(c, true)
			return
		}
		if err != nil {
			s.drop(c)
			return
		}
		n += c.written
		c.owed, c.written = c.owed-n/len(answer), n%len(answer)
	}
	if c.waiting {
		s.awaitRoom(c, false)
	}
	if c.finish {
		_, _ = rawWrite(c.fd, []byte(closing))
		s.drop(c)
	}
}

// awaitRoom stops reading until the client takes its answers.
func (s *Server) awaitRoom(c *conn, waiting bool) {
	if c.waiting == waiting {
		return
	}
	c.waiting = waiting
	events := uint32(unix.EPOLLIN)
	if waiting {
		events = unix.EPOLLOUT
	}
	if s.watch(unix.EPOLL_CTL_MOD, c.fd, events) != nil {
		s.drop(c)
	}
}
