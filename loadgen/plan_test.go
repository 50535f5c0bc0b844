// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// lenient is a MaxLag that a noisy test machine keeps.
const lenient = time.Minute

func runPlan(t *testing.T, p Plan) *Result {
	t.Helper()
	r, err := p.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.check(); err != nil {
		t.Error(err)
	}
	if got, want := r.Response.Count(), r.OK+r.Timeouts+r.Unsent; got != want {
		t.Errorf("%d response times, want %d", got, want)
	}
	return r
}

func TestPlanSendsAllOfIt(t *testing.T) {
	p := serveHTTP(t, nil, answer)
	r := runPlan(t, Plan{
		Requests: []Request{{URL: "http://" + p.addr}}, Rate: 100, Duration: 400 * time.Millisecond, Warmup: 200 * time.Millisecond,
		Connections: 3, MaxLag: lenient, IDPrefix: "p", StartAt: time.Now().Add(50 * time.Millisecond),
	})
	want := Counts{Planned: 40, Sent: 40, OK: 40}
	if r.Counts != want || r.Verdict != Pass || r.Reason != "" {
		t.Errorf("got %+v %s %s", r.Counts, r.Verdict, r.Reason)
	}
	if r.Backends["pod-a"] != 40 || r.Versions["v1"] != 40 || r.Codes["200"] != 40 {
		t.Errorf("got %v %v %v", r.Backends, r.Versions, r.Codes)
	}
	if p.conns.Load() != 3 || p.requests() != 60 {
		t.Errorf("the peer saw %d connections, %d requests", p.conns.Load(), p.requests())
	}
	slices.Sort(p.seen)
	if len(slices.Compact(p.seen)) != 60 || !slices.Contains(p.seen, "p-59") {
		t.Errorf("request ids: %v", p.seen)
	}
	// The warm-up is there, and only there.
	if len(r.Seconds) != 2 || r.Seconds[0].At != -1 || r.Seconds[0].OK != 20 || r.Seconds[1].OK != 40 {
		t.Errorf("seconds: %+v", r.Seconds)
	}
	if r.Generator.GOMAXPROCS == 0 || !r.End.After(r.Start) {
		t.Errorf("got %+v, %s to %s", r.Generator, r.Start, r.End)
	}
}

func TestPlanOverEveryPolicyAndProtocol(t *testing.T) {
	slow := func(w http.ResponseWriter, r *http.Request) { time.Sleep(20 * time.Millisecond); answer(w, r) }
	p, lines := serveHTTP(t, nil, slow), serveStream(t, echoLines)
	for _, tt := range []struct {
		req    Request
		policy Policy
		conns  int64
	}{
		{Request{URL: "http://" + p.addr}, RoundRobin, 2},
		{Request{URL: "http://" + p.addr}, Fresh, 30},
		{Request{URL: "http://" + p.addr}, Rotate(5), 6},
		{Request{URL: "http://" + p.addr, Protocol: H2C}, Pinned, 2},
		{Request{URL: "http://" + p.addr, Protocol: H2C}, Rotate(5), 6},
		{Request{URL: "tcp://" + lines.addr, Protocol: TCP}, Pinned, 2},
	} {
		t.Run(fmt.Sprintf("%s %s", tt.req.Protocol, tt.policy), func(t *testing.T) {
			before := p.conns.Load() + lines.conns.Load()
			tt.req.Body = []byte("b")
			r := runPlan(t, Plan{Requests: []Request{tt.req}, Rate: 100, Duration: 300 * time.Millisecond, Connections: 2, Policy: tt.policy, MaxLag: lenient})
			if r.OK != 30 || p.conns.Load()+lines.conns.Load()-before != tt.conns {
				t.Errorf("%+v over %d connections, want %d: %+v", r.Counts, p.conns.Load()+lines.conns.Load()-before, tt.conns, r.Failures)
			}
		})
	}
}

// One answer is held for 400 of 1000 ms. Of the 200 requests 80 come due in that time, and 40 of them at least 200 ms before
// its end: a fifth of all response times must be that long, although only one request was slow to be served.
func TestStallShowsInResponseTime(t *testing.T) {
	const stall = 400 * time.Millisecond
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Harness-Id") == "s-50" {
			time.Sleep(stall)
		}
		answer(w, r)
	})
	r := runPlan(t, Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: 200, Duration: time.Second, MaxLag: lenient, IDPrefix: "s"})
	response, _ := r.Response.Quantile(0.8)
	service, _ := r.Service.Quantile(0.95)
	if response < stall/2*99/100 {
		t.Errorf("80th percentile of the response time is %s, must be at least %s", response, stall/2)
	}
	if service >= response {
		t.Errorf("95th percentile of the service time is %s, not below the response time's 80th, %s", service, response)
	}
	if r.Service.Max() < stall*99/100 {
		t.Errorf("the slow request took %s, less than %s", r.Service.Max(), stall)
	}
}

func TestUnreachableRateIsInvalid(t *testing.T) {
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) { time.Sleep(30 * time.Millisecond); answer(w, r) })
	r := runPlan(t, Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: 1000, Duration: 300 * time.Millisecond, MaxInflight: 1})
	if r.Verdict != Invalid || r.Planned != 300 || r.Unsent == 0 || !strings.Contains(r.Reason, "of 300 planned requests were sent") {
		t.Errorf("got %+v %s: %s", r.Counts, r.Verdict, r.Reason)
	}
	if int(r.Sent) != p.requests() {
		t.Errorf("counted %d, the peer saw %d", r.Sent, p.requests())
	}
	// All sent, but late: 30 requests with one in flight take 900 ms instead of 100.
	r = runPlan(t, Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: 300, Duration: 100 * time.Millisecond, MaxInflight: 1, MaxLag: lenient})
	if r.Verdict != Pass || r.Sent != 30 {
		t.Errorf("got %+v %s: %s", r.Counts, r.Verdict, r.Reason)
	}
	if r.judge(time.Millisecond, nil); r.Verdict != Invalid || !strings.Contains(r.Reason, "lagged") {
		t.Errorf("got %s: %s", r.Verdict, r.Reason)
	}
}

func TestPlanCountsFailures(t *testing.T) {
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) {
		switch id := r.Header.Get("X-Harness-Id"); id[len(id)-1] {
		case '1', '6':
			http.Error(w, "no", http.StatusServiceUnavailable)
		case '3':
			panic(http.ErrAbortHandler)
		case '5':
			<-r.Context().Done()
		default:
			answer(w, r)
		}
	})
	plan := Plan{
		Requests: []Request{{URL: "http://" + p.addr}}, Rate: 200, Duration: 500 * time.Millisecond, Connections: 100, MaxLag: lenient,
		Timeout: 700 * time.Millisecond, IDPrefix: "f",
	}
	r := runPlan(t, plan)
	want := Counts{Planned: 100, Sent: 100, OK: 60, HTTPErrors: 20, TransportErrors: 10, Timeouts: 10}
	if diff := cmp.Diff(want, r.Counts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]uint64{"200": 60, "503": 20, "eof": 10, "timeout": 10}, r.Codes); diff != "" {
		t.Error(diff)
	}
	if len(r.Failures) != keptFailures || r.Failed[ClassHTTP].Service.Count() != 20 || r.Failed[ClassTimeout].Response.Count() != 10 {
		t.Errorf("%d failures kept, %+v", len(r.Failures), r.Failed)
	}
	if r.Verdict != Pass {
		t.Errorf("errors alone gave %s: %s", r.Verdict, r.Reason)
	}
	if r.judge(lenient, &SLO{ErrorRate: 0.4}); r.Verdict != Pass {
		t.Errorf("got %s: %s", r.Verdict, r.Reason)
	}
	if r.judge(lenient, &SLO{ErrorRate: 0.39}); r.Verdict != Fail || r.Reason != "40 of 100 requests failed, 40 %, allowed 39 %" {
		t.Errorf("got %s: %s", r.Verdict, r.Reason)
	}
	if r.judge(lenient, &SLO{ErrorRate: 1, P99: 600 * time.Millisecond}); r.Verdict != Fail || !strings.Contains(r.Reason, "response time") {
		t.Errorf("timeouts are not in the response time: %s: %s", r.Verdict, r.Reason)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(&back)
	if err != nil || string(again) != string(b) {
		t.Errorf("JSON is not stable: %v\n%s\n%s", err, b, again)
	}
}

// A request that never got its connection has timed out, but was not slow to be served.
func TestBusyConnectionTimesOut(t *testing.T) {
	pool, err := newPool([]Request{{URL: "http://127.0.0.1:1"}}, 1, Pinned, 20*time.Millisecond, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	pool.slots[0].held <- struct{}{}
	x := pool.do(t.Context(), 0, 0)
	if x.ErrKind != KindTimeout || x.Latency != 0 || x.Conn != 0 || x.Start.IsZero() || classOf(&x) != ClassTimeout {
		t.Errorf("got %+v", x)
	}
	s := newSlice()
	if s.sent(ClassTimeout, x.Latency, time.Second, 0); s.Response.Count() != 1 || s.Failed[ClassTimeout].Service.Count() != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestPlanStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	p := serveHTTP(t, nil, func(_ http.ResponseWriter, r *http.Request) {
		cancel(errors.New("enough"))
		<-r.Context().Done()
	})
	r, err := Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: 100, Duration: time.Hour, Timeout: time.Hour}.Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "enough") || r == nil || r.Verdict != Invalid || r.Sent == 0 || r.check() != nil {
		t.Errorf("got %+v, %v", r, err)
	}
	// Before its start, too.
	r, err = Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: 100, Duration: time.Second, StartAt: time.Now().Add(time.Hour)}.Run(ctx)
	if err == nil || r.Sent != 0 || r.Response.Count() != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestPlanIsChecked(t *testing.T) {
	ok := Plan{Requests: []Request{{URL: "http://a"}}, Rate: 1, Duration: time.Second}
	for want, edit := range map[string]func(*Plan){
		"rate: 0 ":                 func(p *Plan) { p.Rate = 0 },
		"rate: NaN":                func(p *Plan) { p.Rate = math.NaN() },
		"rate: +Inf":               func(p *Plan) { p.Rate = math.Inf(1) },
		"rate: 1e+12":              func(p *Plan) { p.Rate = 1e12 },
		"rate: 0.1 for 1s leaves":  func(p *Plan) { p.Rate = 0.1 },
		"duration: ":               func(p *Plan) { p.Duration = 0 },
		"warmup: ":                 func(p *Plan) { p.Warmup = -1 },
		"maxLag: ":                 func(p *Plan) { p.MaxLag = -1 },
		"maxInflight: ":            func(p *Plan) { p.MaxInflight = -1 },
		"index: worker 2 of 2":     func(p *Plan) { p.Index, p.Of = 2, 2 },
		"slo: ":                    func(p *Plan) { p.SLO = &SLO{ErrorRate: 2} },
		"requests: ":               func(p *Plan) { p.Requests = nil },
		"requests[0].url: ":        func(p *Plan) { p.Requests = []Request{{}} },
		"policy: \"x\"":            func(p *Plan) { p.Policy = "x" },
		"connections: -1":          func(p *Plan) { p.Connections = -1 },
		"timeout: -1":              func(p *Plan) { p.Timeout = -1 },
		"idPrefix: \"a\\nb\" has ": func(p *Plan) { p.IDPrefix = "a\nb" },
	} {
		p := ok
		edit(&p)
		if _, err := p.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "plan: "+want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// The workers' requests are those of one, each exactly once and at the same time.
func TestWorkersShareASchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Plan{
			Rate:     rapid.Float64Range(0.1, 1000).Draw(t, "rate"),
			Duration: time.Duration(rapid.Int64Range(1, int64(10*time.Second)).Draw(t, "duration")),
			Warmup:   time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "warmup")),
		}
		start := time.Unix(1_000_000, 0)
		one := p.schedule(start)
		p.Of = rapid.IntRange(1, 9).Draw(t, "workers")
		seen := map[int]bool{}
		warm := 0
		for p.Index = range p.Of {
			s := p.schedule(start)
			warm += s.warm
			for k := range s.total {
				if seen[s.global(k)] || !s.at(k).Equal(one.at(s.global(k))) || (k < s.warm) != (s.global(k) < one.warm) {
					t.Fatalf("request %d of worker %d", k, p.Index)
				}
				seen[s.global(k)] = true
			}
		}
		if len(seen) != one.total || warm != one.warm {
			t.Fatalf("%d requests, %d warm; want %d, %d", len(seen), warm, one.total, one.warm)
		}
	})
}

func TestMergeEqualsPooled(t *testing.T) {
	classes := []Class{ClassOK, ClassHTTP, ClassTransport, ClassTimeout}
	rapid.Check(t, func(t *rapid.T) {
		durations := rapid.Int64Range(0, int64(2*time.Minute))
		parts := make([]*Result, rapid.IntRange(1, 4).Draw(t, "workers"))
		pooled := newResult()
		seconds := map[int]*Second{}
		for i := range parts {
			parts[i] = newResult()
			parts[i].Verdict = Pass
			own := map[int]*Second{}
			for range rapid.IntRange(0, 30).Draw(t, "requests") {
				at := rapid.IntRange(-1, 2).Draw(t, "second")
				for _, m := range []map[int]*Second{own, seconds} {
					if m[at] == nil {
						m[at] = &Second{At: at, Slice: newSlice()}
					}
				}
				all := []*Slice{&parts[i].Slice, &pooled.Slice, &own[at].Slice, &seconds[at].Slice}
				a, b, c := time.Duration(durations.Draw(t, "a")), time.Duration(durations.Draw(t, "b")), time.Duration(durations.Draw(t, "c"))
				if rapid.Bool().Draw(t, "sent") {
					class := rapid.SampledFrom(classes).Draw(t, "class")
					for _, s := range all {
						s.sent(class, a, b, c)
					}
					parts[i].Codes[string(class)]++
					pooled.Codes[string(class)]++
				} else {
					for _, s := range all {
						s.unsent(a)
					}
				}
			}
			for at := -1; at <= 2; at++ {
				if own[at] != nil {
					parts[i].Seconds = append(parts[i].Seconds, *own[at])
				}
			}
		}
		for at := -1; at <= 2; at++ {
			if seconds[at] != nil {
				pooled.Seconds = append(pooled.Seconds, *seconds[at])
			}
		}
		pooled.Verdict = Pass
		merged, err := Merge(parts...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(pooled, merged, cmp.Comparer(sameHist)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// sameHist compares every bucket.
func sameHist(a, b *Hist) bool {
	buckets := func(h *Hist) map[int64]int64 {
		m := map[int64]int64{}
		if h.Count() > 0 {
			h.h.ForEachBucket(func(value, count int64) bool { m[value] += count; return true })
		}
		return m
	}
	return maps.Equal(buckets(a), buckets(b))
}

func TestMergeJudges(t *testing.T) {
	with := func(v Verdict) *Result { r := newResult(); r.Verdict, r.Reason = v, "why"; return r }
	for _, tt := range []struct {
		of     []*Result
		want   Verdict
		reason string
	}{
		{[]*Result{with(Pass), with(Pass)}, Pass, ""},
		{[]*Result{with(Pass), with(Fail)}, Fail, "worker 1 FAIL: why"},
		{[]*Result{with(Invalid), with(Fail)}, Invalid, "worker 0 INVALID: why; worker 1 FAIL: why"},
		{[]*Result{with(Fail), with(Invalid), with(Pass)}, Invalid, "worker 0 FAIL: why; worker 1 INVALID: why"},
	} {
		r, err := Merge(tt.of...)
		if err != nil || r.Verdict != tt.want || r.Reason != tt.reason {
			t.Errorf("got %s %q %v, want %s %q", r.Verdict, r.Reason, err, tt.want, tt.reason)
		}
	}
	wrong := newResult()
	wrong.Planned = 1
	for _, bad := range [][]*Result{nil, {with(Pass), nil}, {wrong}} {
		if _, err := Merge(bad...); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

// BenchmarkPlanRate says how many requests per second the whole engine can send at most, against a server in the same process.
func BenchmarkPlanRate(b *testing.B) {
	for _, proto := range []Protocol{HTTP1, H2C} {
		b.Run(string(proto), func(b *testing.B) {
			null := http.Server{ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
			null.Protocols.SetHTTP1(true)
			null.Protocols.SetUnencryptedHTTP2(true)
			l, err := listenLoopback(b)
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = null.Serve(l) }()
			defer func() { _ = null.Close() }()
			b.ResetTimer()
			r, err := Plan{
				Requests: []Request{{URL: "http://" + l.Addr().String(), Protocol: proto}}, Rate: 1e6, Duration: time.Duration(b.N) * time.Microsecond,
				Connections: 16, MaxInflight: 64, MaxLag: time.Hour, Timeout: time.Minute,
			}.Run(b.Context())
			if err != nil || r.OK != uint64(b.N) {
				b.Fatalf("%v, %+v", err, r)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}
