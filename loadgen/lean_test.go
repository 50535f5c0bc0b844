// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// heads are answers of every kind that a peer may send, right and wrong.
var heads = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Echo-Pod: a\r\nX-Echo-Version: v1\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
	"HTTP/1.1 200 OK\r\ncontent-length:2\r\nx-echo-pod:\ta \r\nX-Echo-Pod: b\r\n\r\nok",
	"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 299 Odd\r\nContent-Length: 1\r\nConnection: Close\r\n\r\n1",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n1",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: upgrade, close\r\n\r\n1",
	"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n1",
	"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n1",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Echo-Pod: a\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Last\r\n\r\n2;ext=1\r\nok\r\n0\r\nX-Last: 1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	"HTTP/1.1 200 OK\r\n\r\nuntil the end",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
	"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nX-Echo-Pod: a\r\n\r\nno",
	"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
	"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n folded: yes\r\n\r\nok",
	"HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\nX-Echo-Pod: a\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\n: 2\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nA: \x00\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nA: \xc3\xa9\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nLarge: " + strings.Repeat("x", 5000) + "\r\nContent-Length: 2\r\nX-Echo-Pod: a\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\nX-Echo-Pod: a\r\n\r\n" + strings.Repeat("x", 9000),
	"HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 2", "", "garbage\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 20x OK\r\n\r\n", "\r\n\r\n",
	"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}

// understood is what one exchange over w came to, as far as a Plan goes by it.
type understood struct {
	Status       int
	Pod, Version string
	Kind         string
	Again        bool // the connection can carry another request
	Left         int  // bytes not read
}

func converse(t *testing.T, stream []byte, method string, open func(context.Context, net.Conn) (wire, *bufio.Reader)) understood {
	t.Helper()
	target, err := Request{URL: "http://127.0.0.1/", Method: method}.compile()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = theirs.Close() }()
		if _, err := http.ReadRequest(bufio.NewReader(theirs)); err != nil {
			t.Errorf("the request: %v", err)
		}
		half := len(stream) / 2
		_, _ = theirs.Write(stream[:half])
		_, _ = theirs.Write(stream[half:])
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	w, r := open(ctx, ours)
	defer func() { w.close(); <-done }()
	var x Exchange
	deadline, _ := ctx.Deadline()
	err = w.exchange(ctx, call{target: target, keep: 100, deadline: deadline}, &x)
	u := understood{Kind: kindOf(false, err)}
	if err != nil {
		return u // whatever had come until then is not counted
	}
	u.Status, u.Pod, u.Version = x.Status, x.pod, x.version
	if x.Header != nil {
		u.Pod, u.Version = x.Header.Get("X-Echo-Pod"), x.Header.Get("X-Echo-Version")
	}
	// What lies in the buffer differs by what was read ahead; what follows the answer must not.
	rest, _ := io.ReadAll(r)
	u.Left = len(rest)
	switch w := w.(type) {
	case *http1:
		u.Again = !w.done
	case *lean:
		u.Again = !w.done
	}
	return u
}

func compareWires(t *testing.T, stream []byte, method string) {
	t.Helper()
	want := converse(t, stream, method, func(_ context.Context, nc net.Conn) (wire, *bufio.Reader) {
		h := newHTTP1(nc)
		return h, h.r
	})
	got := converse(t, stream, method, func(ctx context.Context, nc net.Conn) (wire, *bufio.Reader) {
		l := newLean(ctx, nc)
		return l, l.r
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s answered by %q: net/http - lean +\n%s", method, stream[:min(len(stream), 200)], diff)
	}
}

// The lean reader understands what it takes for itself as net/http's does.
func TestLeanReadsAsNetHTTP(t *testing.T) {
	for _, head := range heads {
		compareWires(t, []byte(head), http.MethodGet)
		compareWires(t, []byte(head), http.MethodHead)
	}
}

func FuzzLean(f *testing.F) {
	for _, head := range heads {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, stream []byte) { compareWires(t, stream, http.MethodGet) })
}

// A request is the same one, whichever writes it.
func TestLeanWritesAsNetHTTP(t *testing.T) {
	for _, r := range []Request{
		{URL: "http://127.0.0.1/a?b=c%20d"},
		{URL: "http://127.0.0.1/", Host: "shop.example", Header: map[string][]string{"x-two": {"1", "2"}, "user-agent": {"me"}}},
		{URL: "http://127.0.0.1/", Body: []byte("body\r\n\r\nof it")},
		{URL: "http://127.0.0.1/", Body: bytes.Repeat([]byte("x"), 9000)},
		{URL: "http://127.0.0.1/", Method: http.MethodHead},
		{URL: "http://127.0.0.1/", Header: map[string][]string{"X-Harness-Id": {"theirs"}}},
		{URL: "http://127.0.0.1/", Header: map[string][]string{"Expect": {"100-continue"}}, Body: []byte("x")},
	} {
		target, err := r.compile()
		if err != nil {
			t.Fatal(err)
		}
		read := func(open func(context.Context, net.Conn) wire) string {
			ours, theirs := net.Pipe()
			w := open(t.Context(), ours)
			defer w.close()
			got := make(chan string, 1)
			go func() {
				defer func() { _ = theirs.Close() }()
				req, err := http.ReadRequest(bufio.NewReader(theirs))
				if err != nil {
					got <- err.Error()
					return
				}
				body, err := io.ReadAll(req.Body)
				got <- fmt.Sprint(req.Method, req.RequestURI, req.Host, req.Header, req.ContentLength, req.TransferEncoding, string(body), err)
				_, _ = io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}()
			if err := w.exchange(t.Context(), call{target: target, id: "p-1", deadline: time.Now().Add(10 * time.Second)}, &Exchange{}); err != nil {
				t.Error(err)
			}
			return <-got
		}
		want := read(func(_ context.Context, nc net.Conn) wire { return newHTTP1(nc) })
		got := read(func(ctx context.Context, nc net.Conn) wire { return newLean(ctx, nc) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%+v: net/http - lean +\n%s", r, diff)
		}
	}
}

// A plan over every habit of a server: each request is answered, or counted as what went wrong.
func TestPlanOverServersHabits(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handle  http.HandlerFunc
		request Request
		codes   map[string]uint64
	}{
		{"length", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, Request{}, map[string]uint64{"200": 40}},
		{"chunked", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "a")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "b")
		}, Request{}, map[string]uint64{"200": 40}},
		{"continue", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) },
			Request{Body: []byte("x"), Header: map[string][]string{"Expect": {"100-continue"}}}, map[string]uint64{"200": 40}},
		{"one request a connection", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") }, Request{}, map[string]uint64{"200": 40}},
		{"large head", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 20_000)) }, Request{}, map[string]uint64{"200": 40}},
		{"endless head", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 2*maxHead)) }, Request{}, map[string]uint64{"other": 40}},
		{"cut short", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, Request{}, map[string]uint64{"eof": 40}},
		{"nothing", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Request{}, map[string]uint64{"eof": 40}},
		{"mixed", func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.Header.Get("X-Harness-Id"), "0") {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}, Request{}, map[string]uint64{"200": 36, "503": 4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := serveHTTP(t, nil, tt.handle)
			tt.request.URL = "http://" + p.addr
			r := runPlan(t, Plan{Requests: []Request{tt.request}, Rate: 200, Duration: 200 * time.Millisecond, Connections: 2, MaxLag: lenient, IDPrefix: "h"})
			if diff := cmp.Diff(tt.codes, r.Codes); diff != "" || p.requests() != 40 {
				t.Errorf("the peer saw %d: want - got +\n%s%+v", p.requests(), diff, r.Failures)
			}
		})
	}
}

// A closed loop sends until its time is over, one request at a time on each connection.
func TestClosedLoop(t *testing.T) {
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) { time.Sleep(10 * time.Millisecond); answer(w, r) })
	for _, tt := range []struct {
		policy Policy
		conns  int64
	}{{Pinned, 3}, {Fresh, 0}} {
		before := p.requests()
		conns := p.conns.Load()
		r := runPlan(t, Plan{Requests: []Request{{URL: "http://" + p.addr}}, Closed: true, Duration: 200 * time.Millisecond, Warmup: 50 * time.Millisecond, Connections: 3, Policy: tt.policy})
		// Three connections at 10 ms a request cannot carry more than 60 requests, and those at the edges.
		if r.Verdict != Pass || !r.Closed || r.OK == 0 || r.OK > 66 || r.Unsent != 0 {
			t.Errorf("%s: %+v %s %s", tt.policy, r.Counts, r.Verdict, r.Reason)
		}
		if got := p.conns.Load() - conns; tt.conns > 0 && got != tt.conns || tt.conns == 0 && got != int64(p.requests()-before) {
			t.Errorf("%s: %d connections for %d requests", tt.policy, got, p.requests()-before)
		}
	}
	for _, bad := range []Plan{{Closed: true, Rate: 1, Duration: time.Second}, {Closed: true, Duration: time.Second, SLO: &SLO{P99: time.Second}}} {
		bad.Requests = []Request{{URL: "http://" + p.addr}}
		if _, err := bad.Run(t.Context()); err == nil {
			t.Errorf("%+v was run", bad)
		}
	}
}

// A peer that is too slow for the rate and the connections is told of, although every request was answered in the end.
func TestUnderDeliveryFails(t *testing.T) {
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) { time.Sleep(20 * time.Millisecond); answer(w, r) })
	r := runPlan(t, Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: 200, Duration: 500 * time.Millisecond, Connections: 1, MaxLag: 300 * time.Millisecond})
	if r.Verdict == Pass || r.Verdict == Fail && (r.Late == 0 || !strings.Contains(r.Reason, "was not delivered")) {
		t.Errorf("%+v %s: %s", r.Counts, r.Verdict, r.Reason)
	}
}
