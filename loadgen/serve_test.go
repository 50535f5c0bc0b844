// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serve runs a Server until the test ends; served gets what Serve returned.
func serve(t *testing.T, index int, limit time.Duration) (call func(method, path, body string) (int, string), served chan error) {
	t.Helper()
	l, err := listenLoopback(t)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served = make(chan error, 1)
	ended := make(chan struct{})
	go func() { served <- NewServer(index).Serve(ctx, l, limit); close(ended) }()
	client := http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() { client.CloseIdleConnections(); cancel(); <-ended })
	return func(method, path, body string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, strings.TrimSpace(string(answer))
	}, served
}

func planJob(t *testing.T, p Plan) string {
	t.Helper()
	b, err := json.Marshal(Job{Plan: &p})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestServerRunsOneJob(t *testing.T) {
	release := make(chan struct{})
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) { <-release; answer(w, r) })
	call, served := serve(t, 1, time.Minute)
	want := func(method, path, body string, status int, text string) {
		t.Helper()
		if got, said := call(method, path, body); got != status || !strings.Contains(said, text) {
			t.Errorf("%s %s: %d %q, want %d %q", method, path, got, said, status, text)
		}
	}
	plan := Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: 100, Duration: 100 * time.Millisecond, Index: 1, Of: 2, MaxLag: time.Minute, Timeout: time.Minute}
	job := planJob(t, plan)
	plan.Rate = 50
	other := planJob(t, plan)

	want("GET", "/readyz", "", 200, "")
	want("GET", "/clock", "", 200, `{"now":"20`)
	want("GET", "/result", "", 404, "there is no job")
	want("POST", "/done", "", 409, "there is no result yet")
	want("PUT", "/job", job, 202, `{"now":"20`)
	want("PUT", "/job", job, 202, `{"now":"20`) // its answer may have been lost
	want("PUT", "/job", other, 409, "there is a job already")
	want("GET", "/result", "", 202, "")
	want("POST", "/done", "", 409, "there is no result yet")
	close(release)
	var out Output
	for out.Result == nil {
		switch status, body := call("GET", "/result", ""); status {
		case 202:
		case 200:
			if err := json.Unmarshal([]byte(body), &out); err != nil || out.Result == nil {
				t.Fatalf("%v: %s", err, body)
			}
		default:
			t.Fatalf("%d %s", status, body)
		}
	}
	if out.Result.OK != 5 || p.requests() != 5 {
		t.Errorf("worker 1 of 2 sent %d of its 5 requests, %d arrived", out.Result.OK, p.requests())
	}
	want("GET", "/result", "", 200, `"planned":5`) // fetched again as often as one likes
	want("PUT", "/job", other, 409, "there is a job already")
	want("POST", "/done", "", 200, "")
	if err := <-served; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestServerRefuses(t *testing.T) {
	call, _ := serve(t, 1, time.Minute)
	plan := func(change func(*Plan)) string {
		p := Plan{Requests: []Request{{URL: "http://127.0.0.1:1"}}, Rate: 100, Duration: time.Second, Index: 1, Of: 2}
		change(&p)
		return planJob(t, p)
	}
	for _, tt := range []struct {
		job    string
		status int
		says   string
	}{
		{``, 400, "read job: EOF"},
		{`{"plam":{}}`, 400, `unknown field "plam"`},
		{`{}`, 400, "exactly one of burst and plan"},
		{`{"burst":{"requests":[{"url":"http://127.0.0.1:1"}],"count":1}}`, 400, "a worker runs a plan"},
		{plan(func(p *Plan) { p.Rate = 0 }), 400, "rate: 0 is not above 0"},
		{plan(func(p *Plan) { p.Requests = nil }), 400, "plan: requests"},
		{plan(func(p *Plan) { p.Index = 0 }), 400, "it is worker 0's, this is worker 1"},
		{plan(func(p *Plan) { p.StartAt = time.Now().Add(-time.Minute) }), 412, "it came 1m"},
		{`{"plan":{"idPrefix":"` + strings.Repeat("x", maxJob) + `"}}`, 400, "request body too large"},
	} {
		if status, said := call("PUT", "/job", tt.job); status != tt.status || !strings.Contains(said, tt.says) {
			t.Errorf("%.80s: %d %q, want %d %q", tt.job, status, said, tt.status, tt.says)
		}
		if status, _ := call("GET", "/result", ""); status != 404 {
			t.Fatalf("%.80s was refused and taken: %d", tt.job, status)
		}
	}
}

// A job may last for hours: who forgot the worker must not keep it, and its load, for longer than was said.
func TestServerEndsByItself(t *testing.T) {
	p := serveHTTP(t, nil, answer)
	call, served := serve(t, -1, 300*time.Millisecond)
	job := planJob(t, Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: 10, Duration: time.Hour})
	if status, said := call("PUT", "/job", job); status != 202 {
		t.Fatal(status, said)
	}
	if err := <-served; err == nil || !strings.Contains(err.Error(), "nobody fetched a result within 300ms") {
		t.Errorf("it ended with %v", err)
	}
	if n := p.requests(); n == 0 || n > 1000 {
		t.Errorf("%d requests of the job arrived", n)
	}
}

func TestServerStopsWithItsContext(t *testing.T) {
	l, err := listenLoopback(t)
	if err != nil {
		t.Fatal(err)
	}
	stop := fmt.Errorf("terminated")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if err := NewServer(-1).Serve(ctx, l, time.Hour); err != stop { //nolint:errorlint // exactly this
		t.Errorf("it ended with %v", err)
	}
}
