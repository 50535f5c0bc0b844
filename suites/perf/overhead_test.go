// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
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
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"harness.example/harness/loadgen"
)

// Books that agree, and every way in which one may be out.
func TestBooksCheck(t *testing.T) {
	good := func() Books {
		return Books{Sent: 100, SentWarmUp: 10, Answered: 10, Pages: []Page{
			{Pod: "a", Client: 60, Backend: 60, WarmUp: 4, Envoy: map[string]uint64{"gateway": 64}},
			{Pod: "b", Client: 40, Backend: 40, WarmUp: 6, Envoy: map[string]uint64{"gateway": 46}},
		}}
	}
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Books){
		"no page":             func(b *Books) { *b = Books{} },
		"lost on the way":     func(b *Books) { b.Sent++ },
		"lost in the warm-up": func(b *Books) { b.Answered-- },
		"a warm-up request that no backend has seen":     func(b *Books) { b.SentWarmUp, b.Answered = 11, 11 },
		"the client has more":                            func(b *Books) { b.Pages[0].Client++; b.Sent++ },
		"a backend has seen one twice":                   func(b *Books) { b.Pages[1].Backend++; b.Pages[1].Envoy["gateway"]++ },
		"Envoy has sent more":                            func(b *Books) { b.Pages[1].Envoy["gateway"]++ },
		"Envoy has sent none":                            func(b *Books) { b.Pages[1].Envoy["gateway"] = 0 },
		"right in sum, wrong by pod":                     func(b *Books) { b.Pages[0].Client--; b.Pages[1].Client++ },
		"warm-up and measured requests are interchanged": func(b *Books) { b.Pages[0].Backend--; b.Pages[0].WarmUp++ },
		"an answer from elsewhere":                       func(b *Books) { b.Pages = append(b.Pages, Page{Pod: "c", Client: 1}); b.Sent++ },
		"a copy that went elsewhere":                     func(b *Books) { b.Pages = append(b.Pages, Page{Pod: "c", Backend: 1}) },
	} {
		b := good()
		change(&b)
		var d *Disagreement
		if err := b.Check(); !errors.As(err, &d) {
			t.Errorf("%s: %v", what, err)
		} else if !strings.Contains(d.Error(), "pod a") && what != "no page" {
			t.Errorf("%s: %v does not go pod by pod", what, d)
		}
	}
}

func TestRequestsOf(t *testing.T) {
	host := func(ip string, n int) string {
		return fmt.Sprintf(`{"address":{"socket_address":{"address":%q,"port_value":8080}},"stats":[{"name":"cx_total"},{"value":"%d","name":"rq_total"}]}`, ip, n)
	}
	dump := `{"cluster_statuses":[
		{"name":"outbound|80||plain.x.svc.cluster.local","host_statuses":[` + host("10.0.0.1", 7) + "," + host("10.0.0.2", 5) + `]},
		{"name":"outbound|80|v1|plain.x.svc.cluster.local","host_statuses":[` + host("10.0.0.1", 3) + `]},
		{"name":"inbound|8080||","host_statuses":[` + host("10.0.0.9", 2) + `]},
		{"name":"xds-grpc"}]}`
	// A counter that is 0 has no value in the dump.
	dump = strings.ReplaceAll(dump, `{"name":"cx_total"}`, `{"name":"cx_total","value":"0"}`)
	got, err := requestsOf([]byte(dump), []string{"outbound|80||plain.x.svc."})
	want := map[endpoint]uint64{{"outbound|80||plain.x.svc.cluster.local", "10.0.0.1"}: 7, {"outbound|80||plain.x.svc.cluster.local", "10.0.0.2"}: 5}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
	if got, err = requestsOf([]byte(dump), []string{"outbound|", "inbound|"}); err != nil || len(got) != 4 {
		t.Errorf("%v %v", got, err)
	}
	if _, err := requestsOf([]byte("no dump"), nil); err == nil {
		t.Error("what is no dump is read as one")
	}
}

func TestUsage(t *testing.T) {
	pods := []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "gw", UID: types.UID("1")}}}
	summary := func(second int, cpu time.Duration, uid string) []byte {
		return fmt.Appendf(nil, `{"pods":[{"podRef":{"name":"gw","namespace":"x","uid":%q},"containers":[
			{"name":"app","cpu":{"time":"2026-11-25T11:03:00Z","usageCoreNanoSeconds":1}},
			{"name":"istio-proxy","cpu":{"time":"2026-11-25T11:03:%02dZ","usageCoreNanoSeconds":%d},"memory":{"workingSetBytes":%d}}]}]}`, uid, second, cpu.Nanoseconds(), 30<<20)
	}
	read := func(second int, cpu time.Duration, sent map[endpoint]uint64) Usage {
		u := Usage{}
		if err := u.add(summary(second, cpu, "1"), pods); err != nil {
			t.Fatal(err)
		}
		s := u["gw"]
		s.sent = sent
		u["gw"] = s
		return u
	}
	a, b, gone := endpoint{"outbound|80||a", "10.0.0.1"}, endpoint{"outbound|80||b", "10.0.0.1"}, endpoint{"outbound|80||gone", "10.0.0.1"}
	before := read(10, time.Second, map[endpoint]uint64{a: 100, gone: 900})
	after := read(20, 1500*time.Millisecond, map[endpoint]uint64{a: 1000, b: 100})
	cost, err := after.Sub(before)
	want := map[string]Cost{"gw": {Seconds: 10, CPUSeconds: 0.5, WorkingSetMB: 30, Requests: 1000}}
	if diff := cmp.Diff(want, cost); err != nil || diff != "" {
		t.Fatalf("%v %s", err, diff)
	}
	// 0.5 s in all, of which 10 ms/s for 10 s without load: 0.4 s for 1,000 requests.
	beyond := cost["gw"].Beyond(Cost{Seconds: 30, CPUSeconds: 0.3})
	if got := perThousand(beyond); math.Abs(got-400) > 1e-9 {
		t.Errorf("%v CPU ms per 1,000", got)
	}
	if got := perThousand(beyond, beyond); math.Abs(got-400) > 1e-9 {
		t.Errorf("two pods that share requests: %v CPU ms per 1,000", got)
	}
	if _, err := read(30, time.Second/2, nil).Sub(before); err == nil {
		t.Error("a container that was started anew has no cost")
	}
	if _, err := before.Sub(before); err == nil {
		t.Error("one sample is no time")
	}
	other := Usage{}
	if err := other.add(summary(1, 1, "another pod of the name"), pods); err != nil || len(other) != 0 {
		t.Errorf("%v %v", other, err)
	}
}

// In as many blocks as there are ways, each has each place once; in twice as many, each follows each other one twice.
func TestOrder(t *testing.T) {
	for n := 1; n < 8; n++ {
		places, neighbours := map[[2]int]int{}, map[[2]int]int{}
		for block := range 2 * n {
			o := order(n, block)
			if sorted := slices.Sorted(slices.Values(o)); sorted[0] != 0 || sorted[n-1] != n-1 || len(slices.Compact(sorted)) != n {
				t.Fatalf("block %d of %d ways: %v", block, n, o)
			}
			for place, way := range o {
				if block < n {
					places[[2]int{place, way}]++
				}
				if place > 0 {
					neighbours[[2]int{o[place-1], way}]++
				}
			}
		}
		if len(places) != n*n || len(neighbours) != n*(n-1) {
			t.Errorf("%d ways: %d of %d places are taken, %d of %d neighbours", n, len(places), n*n, len(neighbours), n*(n-1))
		}
		for pair, times := range neighbours {
			if times != 2 {
				t.Errorf("%d ways: %v are neighbours %d times", n, pair, times)
			}
		}
	}
}

func loadsOf(way string, medians ...time.Duration) []Load {
	var out []Load
	for i, m := range medians {
		l := Load{Block: i + 1, Way: way, Verdict: loadgen.Pass, Times: loadgen.Times{Service: &loadgen.Hist{}, Response: &loadgen.Hist{}, Lag: &loadgen.Hist{}}}
		for range 200 {
			l.Service.Record(m)
			l.Response.Record(2 * m)
		}
		l.Books = Books{Sent: 200}
		out = append(out, l)
	}
	return out
}

func TestSummarize(t *testing.T) {
	ms := time.Millisecond
	o := &Overhead{Loads: append(loadsOf(direct, ms, 2*ms, ms, 2*ms, ms, 2*ms), loadsOf("service", 2*ms, 4*ms, 2*ms, 4*ms, 2*ms, 4*ms)...)}
	again := loadsOf("service", 900*ms)[0]
	again.Verdict = loadgen.Invalid
	o.Loads = append(o.Loads, again)
	o.summarize([]way{{name: direct}, {name: "service"}})
	service := o.Ways[1]
	if service.Requests != 1200 || service.CPUPerThousand != nil {
		t.Errorf("%+v", service)
	}
	for _, f := range service.Figures {
		// Of 1,200 requests 120 lie beyond the 90th percentile, and 12 beyond the 99th.
		if f.Quantile == 0.99 {
			if f.Millis != nil || f.Ratio != nil {
				t.Errorf("too few requests for %+v", f)
			}
			continue
		}
		if f.Ratio == nil || math.Abs(f.Ratio.Mean-2) > 0.01 || f.Ratio.Low == nil || math.Abs(*f.Ratio.Low-2) > 0.01 {
			t.Errorf("%s p%g: %v", f.Of, 100*f.Quantile, f.Ratio)
		}
	}
	if base := o.Ways[0].Figures[0]; base.Millis == nil || base.Ratio != nil {
		t.Errorf("direct is what the others are held against: %+v", base)
	}
}

// A delay that is there is found; one that is not, or only in part, is not.
func TestFound(t *testing.T) {
	ms := time.Millisecond
	base := loadsOf("gateway", ms, ms, ms, ms, ms, ms)
	for _, tt := range []struct {
		with  []Load
		found bool
	}{
		{loadsOf(planted, 7*ms, 6*ms, 6*ms, 6*ms, 6*ms, 7*ms), true},
		{loadsOf(planted, ms, ms, ms, ms, ms, ms), false},
		{loadsOf(planted, 3*ms, 3*ms, 3*ms, 3*ms, 3*ms, 3*ms), false},
		{loadsOf(planted, 50*ms, ms, ms, ms, ms, ms), false},
	} {
		if p := found(5*ms, base, tt.with); p.Found != tt.found {
			t.Errorf("%s: found %t", &p.Added, p.Found)
		}
	}
}

func TestShows(t *testing.T) {
	w := way{backend: corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "plain"}}, proxied: true, from: []string{"10.0.0.3"}}
	answer := func(pod, remote, header string) loadgen.Exchange {
		return loadgen.Exchange{Status: http.StatusOK, Body: fmt.Appendf(nil, `{"pod":%q,"remote":%q,"header":{%s}}`, pod, remote, header)}
	}
	const id, cert = `"X-Request-Id":["1"]`, `"X-Forwarded-Client-Cert":["URI=spiffe://x"]`
	for want, x := range map[string]loadgen.Exchange{
		"":                         answer("plain", "10.0.0.3:1", id),
		"pod \"mesh\" answers":     answer("mesh", "10.0.0.3:1", id),
		"passed a proxy: false":    answer("plain", "10.0.0.3:1", ""),
		"certificate: true":        answer("plain", "10.0.0.3:1", id+","+cert),
		"came to the backend from": answer("plain", "10.0.0.4:1", id),
		"answered with 503":        {Status: 503},
		"answered with 0 refused":  {Err: "refused"},
		"the backend's answer":     {Status: 200, Body: []byte("hello")},
	} {
		if err := w.shows(x); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestOverheadPlanCheck(t *testing.T) {
	good := OverheadPlan{Rate: 100, Duration: time.Second, Blocks: 6, Connections: 1}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*OverheadPlan){
		"rate: NaN":    func(p *OverheadPlan) { p.Rate = math.NaN() },
		"rate: 0":      func(p *OverheadPlan) { p.Rate = 0 },
		"rate: 1e+06":  func(p *OverheadPlan) { p.Rate = 1e6 },
		"duration: 0s": func(p *OverheadPlan) { p.Duration = 0 },
		"warmup":       func(p *OverheadPlan) { p.Warmup = -1 },
		"plant":        func(p *OverheadPlan) { p.Plant = -1 },
		"blocks: 1":    func(p *OverheadPlan) { p.Blocks = 1 },
		"connections":  func(p *OverheadPlan) { p.Connections = 0 },
	} {
		p := good
		change(&p)
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v, want %q", err, field)
		}
	}
}
