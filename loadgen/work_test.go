// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

func TestWork(t *testing.T) {
	p := serveHTTP(t, nil, answer)
	work := func(job string) (Output, error) {
		var w bytes.Buffer
		err := Work(t.Context(), strings.NewReader(job), &w)
		var out Output
		if err == nil {
			if err := json.Unmarshal(w.Bytes(), &out); err != nil {
				t.Fatalf("%v: %s", err, w.Bytes())
			}
		}
		return out, err
	}
	out, err := work(fmt.Sprintf(`{"burst":{"requests":[{"url":"http://%s"}],"count":3}}`, p.addr))
	if err != nil || len(out.Exchanges) != 3 || out.Exchanges[2].Status != 200 || out.Err != "" {
		t.Errorf("got %+v, %v", out, err)
	}
	out, err = work(fmt.Sprintf(`{"plan":{"requests":[{"url":"http://%s"}],"rate":100,"duration":100000000,"maxLag":60000000000}}`, p.addr))
	if err != nil || out.Result == nil || out.Result.OK != 10 || out.Result.Response.Count() != 10 {
		t.Errorf("got %+v, %v", out, err)
	}
	for job, want := range map[string]string{
		`{}`:                       "job: exactly one",
		`{"burst":{},"plan":{}}`:   "job: exactly one",
		`{"burst":{}}`:             "burst: count: 0",
		`{"plan":{"duration":1}}`:  "plan: rate: 0",
		`{"burst":{"count":1}}`:    "burst: requests: ",
		`{"plan":{"rate":1e999}}`:  "!read job: ",
		`{"burst":{"cuont":1}}`:    `!read job: json: unknown field "cuont"`,
		``:                         "!read job: ",
		`{"burst":{"timeout":"x"}`: "!read job: ",
	} {
		out, err := work(job)
		if want, malformed := strings.CutPrefix(want, "!"); malformed {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s: want error %q, got %v", job, want, err)
			}
		} else if err != nil || !strings.HasPrefix(out.Err, want) {
			t.Errorf("%s: want output %q, got %q, %v", job, want, out.Err, err)
		}
	}
}

// An apiServer answers exec requests as a kubelet behind an API server would.
func apiServer(t *testing.T, run func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error) *rest.Config {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.URL.Path != "/api/v1/namespaces/ns/pods/client/exec" || strings.Join(q["command"], " ") != "/harness work" || q.Get("container") != "app" || q.Get("stdin") != "true" {
			http.Error(w, "unexpected "+r.URL.String(), http.StatusNotFound)
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"v5.channel.k8s.io"}})
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		c.SetReadLimit(-1)
		var stdin bytes.Buffer
		for {
			_, msg, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if msg[0] == 255 {
				break
			}
			stdin.Write(msg[1:])
		}
		end := metav1.Status{Status: metav1.StatusSuccess}
		if err := run(r.Context(), &stdin, channel{c, r, 1}, channel{c, r, 2}); err != nil {
			end = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
		}
		b, _ := json.Marshal(end)
		_, _ = channel{c, r, 3}.Write(b)
		_ = c.Close(websocket.StatusNormalClosure, "")
	}))
	t.Cleanup(s.Close)
	return &rest.Config{Host: s.URL}
}

type channel struct {
	conn *websocket.Conn
	r    *http.Request
	id   byte
}

func (c channel) Write(b []byte) (int, error) {
	return len(b), c.conn.Write(c.r.Context(), websocket.MessageBinary, append([]byte{c.id}, b...))
}

// Every place gives the same answers to the same job.
func TestRunners(t *testing.T) {
	p := serveHTTP(t, nil, answer)
	config := apiServer(t, func(ctx context.Context, in io.Reader, out, _ io.Writer) error { return Work(ctx, in, out) })
	for _, runner := range []Runner{Host{}, Pod{Config: config, Namespace: "ns", Name: "client", Container: "app"}} {
		t.Run(runner.String(), func(t *testing.T) {
			req := []Request{{URL: "http://" + p.addr, Body: bytes.Repeat([]byte("b"), 100_000)}}
			out, err := runner.Do(t.Context(), Job{Burst: &Burst{Requests: req, Count: 3}})
			if err != nil || len(out.Exchanges) != 3 || len(out.Exchanges[2].Body) != keptBody || out.Exchanges[2].Header.Get("X-Echo-Pod") != "pod-a" {
				t.Errorf("burst: %d exchanges, %v", len(out.Exchanges), err)
			}
			out, err = runner.Do(t.Context(), Job{Plan: &Plan{Requests: req, Rate: 100, Duration: 100 * time.Millisecond, MaxLag: lenient}})
			if err != nil || out.Result.OK != 10 {
				t.Errorf("plan: %+v, %v", out.Result, err)
			}
			if _, err = runner.Do(t.Context(), Job{Burst: &Burst{Count: 1}}); err == nil || !strings.Contains(err.Error(), "burst: requests: ") {
				t.Errorf("invalid burst: %v", err)
			}
			if _, err = runner.Do(t.Context(), Job{}); err == nil {
				t.Error("an empty job was run")
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := runner.Do(ctx, Job{Burst: &Burst{Requests: req, Count: 1}}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v after the ctx ended", err)
			}
		})
	}
}

func TestPodErrors(t *testing.T) {
	job := Job{Burst: &Burst{Requests: []Request{{URL: "http://a.invalid"}}, Count: 1}}
	config := apiServer(t, func(_ context.Context, _ io.Reader, _, stderr io.Writer) error {
		_, _ = io.WriteString(stderr, "no such file\n")
		return errors.New("command terminated with exit code 127")
	})
	_, err := Pod{Config: config, Namespace: "ns", Name: "client", Container: "app"}.Do(t.Context(), job)
	if err == nil || !strings.HasPrefix(err.Error(), "pod ns/client container app: run harness work: ") || !strings.HasSuffix(err.Error(), "code 127: no such file") {
		t.Errorf("got %v", err)
	}
	if _, err := (Pod{Config: config, Namespace: "ns"}).Do(t.Context(), job); err == nil || !strings.Contains(err.Error(), "name are needed") {
		t.Errorf("got %v", err)
	}
	config = apiServer(t, func(_ context.Context, _ io.Reader, stdout, _ io.Writer) error {
		_, err := io.WriteString(stdout, "hello")
		return err
	})
	if _, err := (Pod{Config: config, Namespace: "ns", Name: "client", Container: "app"}).Do(t.Context(), job); err == nil || !strings.Contains(err.Error(), "decode 5 bytes of output") {
		t.Errorf("got %v", err)
	}
	// An API server that knows no WebSocket is asked again in SPDY.
	var methods []string
	old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		methods = append(methods, r.Method+" "+r.Header.Get("Upgrade"))
		http.Error(w, "cannot upgrade", http.StatusBadRequest)
	}))
	defer old.Close()
	_, err = Pod{Config: &rest.Config{Host: old.URL}, Namespace: "ns", Name: "client"}.Do(t.Context(), job)
	if err == nil || strings.Join(methods, ", ") != "GET websocket, POST SPDY/3.1" {
		t.Errorf("asked %v: %v", methods, err)
	}
}
