// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSplit(t *testing.T) {
	whole := Plan{
		Requests: []Request{{URL: "http://127.0.0.1:1"}}, Rate: 100, Duration: time.Second, Connections: 8, SLO: &SLO{P99: time.Second},
	}
	plans, err := whole.Split(3)
	if err != nil || len(plans) != 3 {
		t.Fatal(plans, err)
	}
	for i, p := range plans {
		if p.Index != i || p.Of != 3 || p.Rate != 100 || p.Connections != 8 || p.SLO != nil {
			t.Errorf("worker %d: %+v", i, p)
		}
	}
	for want, change := range map[string]func(*Plan) int{
		"workers: 0 is not above 0":                            func(*Plan) int { return 0 },
		"a worker's part is not split again":                   func(p *Plan) int { p.Of = 2; return 2 },
		"rate: 100 for 1s leaves worker 100 without a request": func(*Plan) int { return 101 },
		"requests":              func(p *Plan) int { p.Requests = nil; return 2 },
		"duration: 0s is not":   func(p *Plan) int { p.Duration = 0; return 2 },
		"error rate 2 not betw": func(p *Plan) int { p.SLO = &SLO{ErrorRate: 2}; return 2 },
	} {
		p := whole
		if _, err := p.Split(change(&p)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Every request of the plan is exactly one worker's.
func TestSplitIsComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := Plan{
			Requests: []Request{{URL: "http://127.0.0.1:1"}},
			Rate:     rapid.Float64Range(1, 1000).Draw(t, "rate"), Duration: time.Duration(rapid.Int64Range(1e9, 1e10).Draw(t, "duration")),
			Warmup: time.Duration(rapid.Int64Range(0, 1e9).Draw(t, "warmup")),
		}
		plans, err := whole.Split(rapid.IntRange(1, 70).Draw(t, "workers"))
		if err != nil {
			return // too many workers for so few requests
		}
		seen := map[int]bool{}
		var planned uint64
		shares := make([]Share, len(plans))
		for i, p := range plans {
			s := p.schedule(time.Time{})
			for k := range s.total {
				if seen[s.global(k)] {
					t.Fatalf("request %d is two workers'", s.global(k))
				}
				seen[s.global(k)] = true
			}
			planned += p.planned()
			shares[i].Reason = "was lost"
		}
		if all := whole.schedule(time.Time{}).total; len(seen) != all || planned != whole.planned() {
			t.Fatalf("%d of %d requests are somebody's, %d of %d measured", len(seen), all, planned, whole.planned())
		}
		r, err := whole.MergeShares(shares)
		if err != nil || r.Planned != whole.planned() || r.Unsent != r.Planned || r.Verdict != Invalid {
			t.Fatalf("all lost: %+v, %v", r, err)
		}
	})
}

// shareOf is what worker i came to when all went well.
func shareOf(t *testing.T, whole Plan, i, of int) Share {
	t.Helper()
	plans, err := whole.Split(of)
	if err != nil {
		t.Fatal(err)
	}
	r := newResult()
	for range plans[i].planned() {
		r.sent(ClassOK, 2*time.Millisecond, 3*time.Millisecond, time.Microsecond)
	}
	r.Start = time.Unix(1000, 0).Add(time.Duration(i) * time.Millisecond)
	r.End = r.Start.Add(whole.Duration)
	r.Verdict = Pass
	return Share{Result: r, Worker: Worker{Pod: fmt.Sprintf("pod-%d", i), Node: "node"}}
}

func TestMergeShares(t *testing.T) {
	whole := Plan{Requests: []Request{{URL: "http://127.0.0.1:1"}}, Rate: 100, Duration: time.Second, SLO: &SLO{P99: time.Second, ErrorRate: 0}}
	for _, tt := range []struct {
		name    string
		change  func(shares []Share)
		verdict Verdict
		reason  string
		sent    uint64
	}{
		{"all is well", func([]Share) {}, Pass, "", 100},
		{"one was lost", func(s []Share) {
			s[2] = Share{Worker: Worker{Pod: "pod-2", Node: "node", Reason: "its pod was deleted"}}
		},
			Invalid, "worker 2 (pod pod-2, node node): its pod was deleted; its 25 requests count as unsent", 75},
		{"the last was lost", func(s []Share) { s[3] = Share{Worker: Worker{Pod: "pod-3", Node: "node", Reason: "was killed"}} },
			Invalid, "worker 3 (pod pod-3, node node): was killed; its 25 requests count as unsent", 75},
		{"one lagged", func(s []Share) { s[1].Result.Verdict, s[1].Result.Reason = Invalid, "the generator lagged" },
			Invalid, "worker 1 (pod pod-1, node node): the generator lagged", 100},
		{"one clock is off", func(s []Share) {
			s[0].Clock, s[3].Clock, s[3].ClockError = -40*time.Millisecond, 58*time.Millisecond, 3*time.Millisecond
		},
			Invalid, "the clocks of worker 0 (node node) and worker 3 (node node) may be 101ms apart, allowed 100ms", 100},
		{"all clocks are off together", func(s []Share) {
			for i := range s {
				s[i].Clock = time.Hour
			}
		}, Pass, "", 100},
		{"never all at once", func(s []Share) { s[0].Result.End = s[3].Result.Start.Add(-time.Microsecond) }, Invalid, "at no time all workers were at work", 100},
		{"the objective is of the whole", func(s []Share) {
			r := newResult()
			for range 25 {
				r.sent(ClassHTTP, time.Millisecond, time.Millisecond, 0)
			}
			r.Start, r.End, r.Verdict = s[0].Result.Start, s[0].Result.End, Pass
			s[0].Result = r
		}, Fail, "25 of 100 requests failed", 100},
	} {
		shares := make([]Share, 4)
		for i := range shares {
			shares[i] = shareOf(t, whole, i, 4)
		}
		tt.change(shares)
		r, err := whole.MergeShares(shares)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if r.Verdict != tt.verdict || !strings.HasPrefix(r.Reason, tt.reason) || (tt.reason == "") != (r.Reason == "") {
			t.Errorf("%s: %s %q, want %s %q", tt.name, r.Verdict, r.Reason, tt.verdict, tt.reason)
		}
		if r.Planned != 100 || r.Sent != tt.sent || r.Sent+r.Unsent != 100 || r.check() != nil {
			t.Errorf("%s: %+v", tt.name, r.Counts)
		}
		if !r.Start.Equal(time.Unix(1000, 0)) || r.End.Before(r.Start) || r.End.Sub(r.Start) > 2*time.Second {
			t.Errorf("%s: from %s to %s", tt.name, r.Start, r.End)
		}
		var planned, sent uint64
		for i, w := range r.Workers {
			planned, sent = planned+w.Planned, sent+w.Sent
			if w.Index != i || w.Pod == "" || w.Verdict == "" {
				t.Errorf("%s: worker %d is %+v", tt.name, i, w)
			}
		}
		if len(r.Workers) != 4 || planned != 100 || sent != tt.sent {
			t.Errorf("%s: the workers planned %d and sent %d", tt.name, planned, sent)
		}
	}
}

func TestMergeSharesMustBeComplete(t *testing.T) {
	whole := Plan{Requests: []Request{{URL: "http://127.0.0.1:1"}}, Rate: 100, Duration: time.Second}
	short, wrong := shareOf(t, whole, 1, 2), shareOf(t, whole, 1, 2)
	short.Result.Planned--
	short.Result.Sent--
	short.Result.OK--
	wrong.Result.Sent--
	for want, shares := range map[string][]Share{
		"worker 1 (pod pod-1, node node) planned 49 requests, its share of the plan is 50": {shareOf(t, whole, 0, 2), short},
		"worker 0 (pod pod-0, node node) planned 50 requests, its share of the plan is 34": {shareOf(t, whole, 0, 2), shareOf(t, whole, 1, 2), {}},
		"counts do not add up":      {shareOf(t, whole, 0, 2), wrong},
		"workers: 0 is not above 0": nil,
	} {
		if _, err := whole.MergeShares(shares); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestCommonSpan(t *testing.T) {
	whole := Plan{Requests: []Request{{URL: "http://127.0.0.1:1"}}, Rate: 100, Duration: time.Second}
	shares := []Share{shareOf(t, whole, 0, 3), shareOf(t, whole, 1, 3), {Worker: Worker{Reason: "was lost"}}}
	r, err := whole.MergeShares(shares)
	if err != nil {
		t.Fatal(err)
	}
	if from, to := shares[1].Result.Start, shares[0].Result.End; r.Common == nil || !r.Common.From.Equal(from) || !r.Common.To.Equal(to) {
		t.Errorf("got %+v, want %s to %s", r.Common, from, to)
	}
}

// heavyTail is a service time such as a mesh's: log-normal, and one in fifty from a Pareto tail.
func heavyTail(r *rand.Rand) time.Duration {
	ms := math.Exp(0.5 * r.NormFloat64())
	if r.Float64() < 0.02 {
		ms = 5 * math.Pow(1-r.Float64(), -1/1.5)
	}
	return min(time.Duration(ms*float64(time.Millisecond)), histMax)
}

// Merged quantiles are those of all values together: the same bucket as in one histogram, and within its width of the truth.
func TestMergedAgainstPooled(t *testing.T) {
	const requests = 400_000
	for _, workers := range []int{2, 8, 64} {
		random := rand.New(rand.NewPCG(7, uint64(workers))) // #nosec G404 -- a repeatable sample
		results := make([]*Result, workers)
		for i := range results {
			results[i] = newResult()
			results[i].Verdict = Pass
		}
		var pooled Hist
		all := make([]time.Duration, requests)
		for k := range all {
			d := heavyTail(random)
			// A worker's machine may be slower than another's: the shares are not alike.
			d = min(d*time.Duration(1+k%workers)/time.Duration(workers)+time.Millisecond, histMax)
			all[k] = d
			pooled.Record(d)
			results[k%workers].sent(ClassOK, d, d, 0)
		}
		var sum Sum
		for _, r := range results {
			b, err := json.Marshal(r) // on its way from the pod
			if err != nil {
				t.Fatal(err)
			}
			var back Result
			if err := json.Unmarshal(b, &back); err != nil {
				t.Fatal(err)
			}
			if err := sum.Add(&back); err != nil {
				t.Fatal(err)
			}
		}
		merged, err := sum.Result()
		if err != nil || merged.OK != requests {
			t.Fatalf("%v, %d requests", err, merged.OK)
		}
		slices.Sort(all)
		for _, q := range []float64{0.5, 0.99, 0.999} {
			got, _ := merged.Service.Quantile(q)
			one, _ := pooled.Quantile(q)
			truth := all[int(math.Ceil(q*requests))-1]
			if got != one {
				t.Errorf("%d workers: p%g merged is %s, pooled %s", workers, 100*q, got, one)
			}
			if off := math.Abs(float64(got-truth)) / float64(truth); off > 0.001 {
				t.Errorf("%d workers: p%g merged is %s, of the values themselves %s: %.3f %% off", workers, 100*q, got, truth, 100*off)
			}
		}
	}
}

// resultFile is what a worker writes.
func resultFile(b *testing.B, seed uint64, requests, seconds int) []byte {
	b.Helper()
	random := rand.New(rand.NewPCG(1, seed)) // #nosec G404 -- a repeatable sample
	r := newResult()
	r.Verdict, r.Start, r.End = Pass, time.Unix(1000, 0), time.Unix(1000+int64(seconds), 0)
	for at := range seconds {
		s := Second{At: at, Slice: newSlice()}
		for range requests / seconds {
			d, lag := heavyTail(random), time.Duration(random.ExpFloat64()*float64(50*time.Microsecond))
			class := ClassOK
			if random.IntN(100) == 0 {
				class = ClassHTTP
			}
			s.sent(class, d, d+lag, lag)
			r.sent(class, d, d+lag, lag)
		}
		r.Seconds = append(r.Seconds, s)
	}
	r.Backends["echo-0"], r.Codes["200"] = uint64(requests), uint64(requests)
	text, err := json.Marshal(Output{Result: r})
	if err != nil {
		b.Fatal(err)
	}
	return text
}

// BenchmarkMerge1000 merges the result files of 1,000 workers, one at a time, as somebody would who runs them without a coordinator.
func BenchmarkMerge1000(b *testing.B) {
	const workers, perWorker, seconds = 1000, 1000, 10
	dir := b.TempDir()
	var texts [][]byte // fewer than there are workers: what they hold does not matter
	for i := range 25 {
		texts = append(texts, resultFile(b, uint64(i), perWorker, seconds))
	}
	var size int64
	for i := range workers {
		text := texts[i%len(texts)]
		size += int64(len(text))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), text, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b.ReportAllocs()
	var peak uint64
	for b.Loop() {
		var sum Sum
		for i := range workers {
			text, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)))
			if err != nil {
				b.Fatal(err)
			}
			var out Output
			if err := json.Unmarshal(text, &out); err != nil {
				b.Fatal(err)
			}
			if err := sum.Add(out.Result); err != nil {
				b.Fatal(err)
			}
			if i%100 == 0 {
				runtime.ReadMemStats(&after)
				peak = max(peak, after.HeapInuse-min(after.HeapInuse, before.HeapInuse))
			}
		}
		r, err := sum.Result()
		if err != nil || r.Planned != workers*perWorker || r.Response.Count() != r.OK {
			b.Fatalf("%v, %+v", err, r.Counts)
		}
	}
	b.ReportMetric(float64(size)/(1<<20), "MB-read/op")
	b.ReportMetric(float64(peak)/(1<<20), "MB-heap-peak")
	b.ReportMetric(workers*perWorker, "requests/op")
}
