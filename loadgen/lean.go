// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// lean is HTTP/1.1 for plans, which count answers and do not keep them: a request is one write of bytes made beforehand, and
// of an answer only what is counted is looked at. That is a third of the work of net/http's reader and writer. It is at home
// with an answer of status 2xx with a Content-Length and plain fields; any other goes, from its first byte, to net/http.
type lean struct {
	*http1
	out   []byte
	names map[string]string // those of pods and versions, so that each is one string
	stop  func() bool       // ends the one watch of the run's ctx that the connection has, instead of one for each request
}

func newLean(ctx context.Context, nc net.Conn) *lean {
	// The deadline of the request under way is moved when the run, which ctx is of, ends: see exchange.
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	return &lean{http1: newHTTP1(nc), names: map[string]string{}, stop: stop}
}

func (l *lean) close() {
	l.stop()
	l.http1.close()
}

// prepare makes the bytes of t's request, in two parts between which fields can be added.
func (t *target) prepare() error {
	var b bytes.Buffer
	if err := (call{target: t}).request().Write(&b); err != nil {
		return err
	}
	end := bytes.Index(b.Bytes(), []byte("\r\n\r\n")) + 2
	t.head, t.tail = b.Bytes()[:end], b.Bytes()[end:]
	return nil
}

// exchange goes by the call's deadline; ctx is the run's.
func (l *lean) exchange(ctx context.Context, c call, x *Exchange) error {
	if c.id != "" && c.header["X-Harness-Id"] != nil || len(c.Body) > l.w.Size() {
		_ = l.conn.SetDeadline(time.Time{})
		ctx, cancel := context.WithDeadline(ctx, c.deadline)
		defer cancel()
		return l.http1.exchange(ctx, c, x)
	}
	_ = l.conn.SetDeadline(c.deadline)
	if ctx.Err() != nil { // else it ends later, and the deadline is moved after it was set here
		l.close()
		return context.Cause(ctx)
	}
	l.out = append(l.out[:0], c.head...)
	if c.id != "" {
		l.out = append(append(append(l.out, "X-Harness-Id: "...), c.id...), "\r\n"...)
	}
	l.out = append(l.out, c.tail...)
	if _, err := l.conn.Write(l.out); err != nil {
		l.close()
		return fmt.Errorf("write request: %w", err)
	}
	if err := l.answer(c, x); err != nil {
		l.close()
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

func (l *lean) answer(c call, x *Exchange) error {
	head, err := l.peekHead()
	if err != nil {
		return err
	}
	if a, ok := readHead(head); ok && c.method != "HEAD" {
		x.Status, x.pod, x.version = a.status, l.name(a.pod), l.name(a.version)
		l.done = a.close
		_, _ = l.r.Discard(len(head)) // it is in the buffer
		_, err := l.r.Discard(a.length)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	resp, err := l.read(c.request())
	if err != nil {
		return err
	}
	l.done = resp.Close || resp.StatusCode == 101
	return x.take(resp, c.keep)
}

// peekHead is the answer's head with its empty line, without taking it; nil when it is larger than the buffer or cut short.
func (l *lean) peekHead() ([]byte, error) {
	for want := 1; want <= l.r.Size(); want = l.r.Buffered() + 1 {
		if _, err := l.r.Peek(want); err != nil {
			if errors.Is(err, io.EOF) && l.r.Buffered() > 0 {
				err = nil
			}
			return nil, err
		}
		here, _ := l.r.Peek(l.r.Buffered())
		if end := endOfHead(here); end > 0 {
			return here[:end], nil
		}
	}
	return nil, nil
}

// endOfHead is where an empty line ends, with or without CRs, as net/http takes it; 0 where none does.
func endOfHead(b []byte) int {
	for from := 0; ; {
		lf := bytes.IndexByte(b[from:], '\n')
		if lf < 0 {
			return 0
		}
		from += lf + 1
		switch rest := b[from:]; {
		case bytes.HasPrefix(rest, []byte("\n")):
			return from + 1
		case bytes.HasPrefix(rest, []byte("\r\n")):
			return from + 2
		}
	}
}

func (l *lean) name(b []byte) string {
	s, ok := l.names[string(b)] // without a copy
	if !ok {
		s = strings.Clone(string(b))
		l.names[s] = s
	}
	return s
}

// An answerHead is what a Plan counts of an answer. pod and version lie in the buffer.
type answerHead struct {
	status       int
	length       int
	close        bool
	pod, version []byte
}

// readHead reads a head that ends with an empty line. Not ok is whatever a reader might understand in more than one way, or that
// needs more than counting.
func readHead(head []byte) (a answerHead, ok bool) {
	line, rest := cutLine(head)
	if len(line) < 12 || string(line[:10]) != "HTTP/1.1 2" || !digit(line[10]) || !digit(line[11]) ||
		len(line) > 12 && line[12] != ' ' || !plain(line, &valueBytes) {
		return a, false
	}
	a.status, a.length = 200+10*int(line[10]-'0')+int(line[11]-'0'), -1
	if a.status == 204 {
		return a, false
	}
	for {
		if line, rest = cutLine(rest); len(line) == 0 {
			return a, len(rest) == 0 && a.length >= 0
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || !plain(line[:colon], &nameBytes) || !plain(line[colon+1:], &valueBytes) {
			return a, false
		}
		name, value := line[:colon], bytes.Trim(line[colon+1:], " \t")
		switch {
		case isField(name, "content-length"):
			if a.length >= 0 || len(value) == 0 || len(value) > 9 {
				return a, false
			}
			a.length = 0
			for _, b := range value {
				if !digit(b) {
					return a, false
				}
				a.length = 10*a.length + int(b-'0')
			}
		case isField(name, "transfer-encoding"), isField(name, "trailer"):
			return a, false
		case isField(name, "connection"):
			switch {
			case isField(value, "close"):
				a.close = true
			case !isField(value, "keep-alive"):
				return a, false
			}
		case isField(name, "x-echo-pod"):
			if a.pod == nil { // the first one, as http.Header.Get
				a.pod = value
			}
		case isField(name, "x-echo-version"):
			if a.version == nil {
				a.version = value
			}
		}
	}
}

// cutLine is the first line of head, without its end, and the rest. A line that ends without CR has a newline that plain refuses.
func cutLine(head []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(head, []byte("\r\n"))
	return line, rest
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

// isField compares with a word in lower case.
func isField(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

// A byteSet says which bytes are in it.
type byteSet [256]bool

var nameBytes, valueBytes = func() (n, v byteSet) {
	for b := 'a'; b <= 'z'; b++ {
		n[b], n[b-0x20] = true, true
	}
	for _, b := range "0123456789-_" {
		n[b] = true
	}
	for b := ' '; b < 0x7f; b++ {
		v[b] = true
	}
	v['\t'] = true
	return n, v
}()

func plain(b []byte, set *byteSet) bool {
	for _, c := range b {
		if !set[c] {
			return false
		}
	}
	return true
}
