// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package null

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// start serves until the test ends.
func start(t *testing.T) (*Server, *Client) {
	t.Helper()
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	stop, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(int(stop.Fd())) }()
	client, err := Dial(t.Context(), s.ControlAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = end.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		s.Close()
		_ = stop.Close()
	})
	return s, client
}

func dial(t *testing.T, s *Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// expect reads n answers and returns the last one.
func expect(t *testing.T, in *bufio.Reader, n int) *http.Response {
	t.Helper()
	var last *http.Response
	for i := range n {
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK || string(body) != "ok" || r.Header.Get("X-Echo-Pod") != "null" {
			t.Fatalf("answer %d: %s %q %v, header %v", i, r.Status, body, err, r.Header)
		}
		last = r
	}
	return last
}

func report(t *testing.T, c *Client, q Question) Report {
	t.Helper()
	r, err := c.Report(q)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStandardClient(t *testing.T) {
	s, control := start(t)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				var body io.Reader
				method := http.MethodGet
				if j%2 == 1 {
					method, body = http.MethodPost, strings.NewReader(strings.Repeat("x", 1000*j))
				}
				req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr()+"/", body)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Errorf("request %d/%d: %v", i, j, err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(got) != "ok" || resp.StatusCode != http.StatusOK {
					t.Errorf("request %d/%d: %s %q %v", i, j, resp.Status, got, err)
				}
			}
		})
	}
	wg.Wait()
	r := report(t, control, Question{})
	sum := 0
	for _, n := range r.Connections {
		sum += n
	}
	if r.Requests != 400 || sum != 400 || len(r.Connections) == 0 || len(r.Connections) > 4 {
		t.Errorf("%d requests, %d over connections %v; want 400 over at most 4", r.Requests, sum, r.Connections)
	}
	if err := control.Reset(Settings{}); err != nil {
		t.Fatal(err)
	}
	if r := report(t, control, Question{}); r.Requests != 0 || len(r.Connections) != 0 {
		t.Errorf("after a reset: %+v", r)
	}
}

func TestPipelined(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			s, control := start(t)
			if err := control.Reset(Settings{Delay: delay}); err != nil {
				t.Fatal(err)
			}
			c := dial(t, s)
			in := bufio.NewReader(c)
			send(t, c, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200)+"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			expect(t, in, 202)
			// More answers than any socket takes at once, all sent before the first one is read.
			const many = 20_000
			go func() {
				_, _ = io.WriteString(c, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", many))
			}()
			time.Sleep(50 * time.Millisecond)
			expect(t, in, many)
			if r := report(t, control, Question{}); r.Requests != 202+many {
				t.Errorf("%d requests counted, want %d", r.Requests, 202+many)
			}
		})
	}
}

func TestPartial(t *testing.T) {
	s, control := start(t)
	c := dial(t, s)
	in := bufio.NewReader(c)
	const text = "POST / HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: 4\r\n\r\nbodyGET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, b := range []byte(text) {
		send(t, c, string(b))
		time.Sleep(time.Millisecond) // else the kernel puts bytes together
	}
	expect(t, in, 2)
	if r := report(t, control, Question{}); r.Requests != 2 || !slices.Equal(r.Connections, []int{2}) {
		t.Errorf("%+v, want 2 requests on one connection", r)
	}
}

func TestLastRequest(t *testing.T) {
	s, _ := start(t)
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
	} {
		c := dial(t, s)
		in := bufio.NewReader(c)
		send(t, c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"+request+"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if last := expect(t, in, 2); !last.Close {
			t.Errorf("%q: the answer does not say that the connection ends", request)
		}
		if b, err := in.ReadByte(); err != io.EOF {
			t.Errorf("%q: read %q %v after the last answer, want EOF", request, b, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	s, control := start(t)
	for _, request := range []string{
		"hello\r\n\r\n",
		"GET / HTTP/2.0\r\n\r\n",
		"\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
		"GET / HTTP/1.1\r\ncookie\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nA: " + strings.Repeat("a", bufferSize),
	} {
		c := dial(t, s)
		send(t, c, request)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || r.StatusCode != http.StatusBadRequest || !r.Close {
			t.Errorf("%.40q: %+v %v, want 400 and the end of the connection", request, r, err)
		}
	}
	if r := report(t, control, Question{}); r.Requests != 0 {
		t.Errorf("%d malformed requests were counted", r.Requests)
	}
}

// TestDelay and TestStall hold lower bounds only: nothing comes early, however busy the machine is.
func TestDelay(t *testing.T) {
	s, control := start(t)
	const delay = 30 * time.Millisecond
	if err := control.Reset(Settings{Delay: delay}); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s)
	in := bufio.NewReader(c)
	for i := range 3 {
		began := time.Now()
		send(t, c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		expect(t, in, 1)
		if took := time.Since(began); took < delay {
			t.Errorf("answer %d after %s, before the delay of %s", i, took, delay)
		}
	}
	if r := report(t, control, Question{}); r.Span < 2*delay {
		t.Errorf("three requests, each sent after the last one's answer, within %s", r.Span)
	}
}

func TestStall(t *testing.T) {
	s, control := start(t)
	const at, stall = 100 * time.Millisecond, 300 * time.Millisecond
	if err := control.Reset(Settings{StallAt: at, Stall: stall}); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s)
	in := bufio.NewReader(c)
	ask := func() {
		send(t, c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		expect(t, in, 1)
	}
	sent := time.Now()
	ask()
	time.Sleep(time.Until(sent.Add(at + stall/3)))
	ask()
	if since := time.Since(sent); since < at+stall {
		t.Errorf("a request of the stall was answered %s after the first one was sent, before the stall's end at %s", since, at+stall)
	}
	// What arrives in the stall is noted at its end, late against its schedule by what was left of it.
	r := report(t, control, Question{Rate: 1 / (at + stall/3).Seconds(), Duration: time.Second})
	if r.Requests != 2 || r.Span < at+stall || r.Deviation.Max < stall/2 {
		t.Errorf("%+v, want 2 requests %s apart and one late by about %s", r, at+stall, 2*stall/3)
	}
	ask() // only once
	if r := report(t, control, Question{}); r.Requests != 3 {
		t.Errorf("%d requests, want 3", r.Requests)
	}
}

func TestBadCommands(t *testing.T) {
	s, control := start(t)
	c, err := net.Dial("tcp", s.ControlAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	for _, line := range []string{"x", "{}", `{"reset":{"delay":-1}}`} {
		fmt.Fprintln(c, line)
		got, err := in.ReadString('\n')
		if err != nil || !strings.Contains(got, `"error"`) {
			t.Errorf("%s: %q %v, want an error", line, got, err)
		}
	}
	if err := control.Reset(Settings{Stall: -1}); err == nil {
		t.Error("a negative stall was taken")
	}
}
