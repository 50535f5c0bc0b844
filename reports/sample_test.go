// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files and schema.json")

// golden compares with testdata/name, or rewrites it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run with -update to make it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got; rewrite with -update):\n%s", name, diff)
	}
}

func render(t testing.TB, f func(io.Writer, Run) error, r Run) string {
	t.Helper()
	var b bytes.Buffer
	if err := f(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func plainConsole(w io.Writer, r Run) error { return Console(w, r, false) }
func colorConsole(w io.Writer, r Run) error { return Console(w, r, true) }

// renderers is every format, for tests that hold for all.
var renderers = map[string]func(io.Writer, Run) error{
	"json": JSON, "junit": JUnit, "markdown": Markdown, "html": HTML, "metrics": Metrics, "console": plainConsole, "colour": colorConsole,
}

func ms(v float64) *float64 { return &v }

// sample has one case of every outcome, a repeated one, an HPA timeline, load and a failed clean-up.
func sample() Run {
	start := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	r := Run{
		ID: "20260314-150926", Name: "e2e on kind", Started: start, Ended: start.Add(212 * time.Second),
		Command: []string{"harness", "e2e", "--keep"}, Seed: 18446744073709551615,
		Environment: Environment{Kubernetes: "v1.37.2", Istio: "1.31.4", Envoy: "1.39.1", Harness: "v0.1.0", Commit: "abc1234", Go: "go1.26.8",
			Host: "runner-7", Images: "source sha256:5f2c", Provider: "podman", Source: "kind-harness", Nodes: 3},
		BringUp: []Step{
			{Name: "images", Started: start, Seconds: 4.2, Outcome: Pass, Detail: "all cached"},
			{Name: "cluster", Started: start.Add(4 * time.Second), Seconds: 36, Outcome: Pass},
			{Name: "start nodes", Parent: "cluster", Started: start.Add(5 * time.Second), Seconds: 11.5, Outcome: Pass},
			{Name: "istio", Started: start.Add(20 * time.Second), Seconds: 20.1, Outcome: Pass},
		},
		Leaks: []string{"namespace harness-7f/terminating"},
	}
	hpa := func(name, unit string, values ...float64) Series {
		s := Series{Name: name, Unit: unit}
		for i, v := range values {
			s.Points = append(s.Points, Point{At: float64(15 * i), Value: v})
		}
		return s
	}
	r.Cases = []Case{
		{Name: "Gateway/HTTP", Resource: "Gateway", Doc: "A Gateway server on port 80 admits its host and no other.", Outcome: Pass, Started: start.Add(60 * time.Second), Seconds: 2.4,
			Phases: []Phase{{"apply", 0.2}, {"live", 0.9}, {"check", 0.3}, {"controls", 0.8}, {"clean-up", 0.2}}, Judged: "exact: 20 of 20 answers",
			Covers: []string{"Gateway.spec.servers[].hosts"}, Labels: map[string]string{"resource": "gateway", "speed": "fast"},
			Controls: []Control{{Break: "spec.servers[0].hosts[0]=other.example", Fails: "404", Outcome: Caught, Got: "20 of 20 answers were 404", Seconds: 0.8}},
			Rerun:    "harness test 'Gateway/HTTP' --seed 7"},
		{Name: "DestinationRule/RoundRobin", Resource: "DestinationRule", Doc: "ROUND_ROBIN gives every endpoint its turn.", Outcome: Fail,
			Reason: "echo-c received 61 of 300 requests, expected 100 (band 98 to 102, n=300)", Started: start.Add(63 * time.Second), Seconds: 8.7,
			Phases: []Phase{{"apply", 0.4}, {"live", 1.1}, {"check", 7}, {"clean-up", 0.2}}, Judged: "exact: with one Envoy worker, max − min ≤ 1",
			Want: "every backend 100 of 300", Got: "echo-a 138\necho-b 101\necho-c 61\nno other backend",
			Distribution: []Bar{{"echo-a", 138, 98, 102, 100}, {"echo-b", 101, 98, 102, 100}, {"echo-c", 61, 98, 102, 100}},
			Evidence: []File{
				{Name: "response.txt", Path: "cases/DestinationRule_RoundRobin/response.txt", Body: "HTTP/1.1 200 OK\r\nx-echo-pod: echo-a\r\n\r\n{\"pod\":\"echo-a\"}\n"},
				{Name: "envoy/clusters.json", Path: "cases/DestinationRule_RoundRobin/envoy/clusters.json"}},
			Rerun: "harness test 'DestinationRule/RoundRobin' --seed 7"},
		{Name: "VirtualService/Weights", Resource: "VirtualService", Doc: "Weights 80/20 are met.", Outcome: Blind, Reason: "the control 50/50 was not noticed", Seconds: 12,
			Controls:     []Control{{Break: "spec.http[0].route[0].weight=50", Fails: "80 %", Outcome: Missed}, {Break: "spec.http[0].route[1].weight=0", Fails: "20 %", Outcome: Caught, Got: "0 of 1000"}},
			Distribution: []Bar{{"v1", 803, 760, 838, 800}, {"v2", 197, 162, 240, 200}}, Rerun: "harness test 'VirtualService/Weights' --seed 7"},
		{Name: "Service/NodePort", Resource: "Service", Outcome: Error, Reason: "could not reach node worker-2: i/o timeout", Seconds: 30.04,
			Evidence: []File{{Name: "events.txt", Body: "Warning  BackOff  pod/echo-a"}}, Rerun: "harness test 'Service/NodePort' --seed 7"},
		{Name: "Service/LoadBalancer", Resource: "Service", Outcome: Skip, Reason: "this cluster hands out no load balancer addresses"},
		{Name: "HPA/ScaleOut", Resource: "HorizontalPodAutoscaler", Doc: "CPU over target adds replicas, up to the maximum.", Outcome: Pass, Seconds: 131,
			Timeline: []Series{hpa("load", "requests/s", 0, 200, 200, 200, 200), hpa("metric", "% of target", 3, 95, 180, 120, 61), hpa("desired", "replicas", 1, 1, 2, 4, 4),
				hpa("ready", "replicas", 1, 1, 1, 2, 4), hpa("empty", "replicas")},
			Figures: []Figure{{"signal to decision", 15.2, "s"}, {"pod created to ready", 2.8, "s"}},
			Load: []Load{{Name: "gateway", Planned: 12000, Sent: 11990, Unsent: 10, OK: 11988, Errors: 2, Seconds: 60, P50: ms(2.25), P90: ms(8), Max: ms(312.5), Verdict: "INVALID",
				Reason: "10 requests were never sent: the generator was the limit", PerSecond: []Second{{0, 199, 1, ms(9.5)}, {1, 200, 0, ms(4)}, {2, 198, 1, nil}}}},
			Controls: []Control{{Break: "spec.maxReplicas=1", Fails: "stayed at 1", Outcome: Caught, Got: "stayed at 1 replica for 60 s"}}},
		{Name: "Pod/Readiness", Resource: "Pod", Outcome: Pass, Attempt: 1, Seconds: 1},
		{Name: "Pod/Readiness", Resource: "Pod", Outcome: Fail, Attempt: 2, Seconds: 1.5, Reason: "an unready pod received 3 requests", Rerun: "harness test 'Pod/Readiness' --repeat 2"},
		{Name: "Pod/Readiness", Resource: "Pod", Outcome: Error, Attempt: 3, Seconds: 0.5, Reason: "the pod was evicted"},
	}
	r.Settle()
	return r
}

// nasty is text a cluster may send: markup, the end of CDATA, terminal control, NUL, broken UTF-8, table syntax.
const nasty = "<script>alert(1)</script>]]>\x1b[31mred\x1b[0m\x1b]0;title\x07\x00|`x```y|\xff\u202e\" onload=\"x\n## heading @someone #1 ${{x}}\r\n\x9b2J"

// hostile puts nasty text everywhere text may stand, and numbers that no format can hold.
func hostile() Run {
	long := strings.Repeat(nasty, 600)
	nan, inf := math.NaN(), math.Inf(1)
	r := Run{ID: nasty, Name: nasty, Seed: 1, Command: []string{nasty}, Leaks: []string{nasty}, Errors: []string{long},
		Environment: Environment{Kubernetes: nasty, Host: nasty, Images: long},
		BringUp:     []Step{{Name: nasty, Parent: nasty, Detail: long, Outcome: nasty, Seconds: nan}}}
	for i, o := range []string{Fail, Blind, Error, Skip, Pass, "", nasty} {
		if i == 2 { // two long ones show as much as seven
			long = nasty
		}
		r.Cases = append(r.Cases, Case{Name: fmt.Sprint(i, nasty), Resource: nasty, Doc: long, Outcome: o, Reason: long, Judged: nasty, Covers: []string{nasty},
			Labels: map[string]string{nasty: nasty}, Want: long, Got: long, Rerun: nasty, Seconds: inf, Phases: []Phase{{nasty, nan}},
			Controls:     []Control{{Break: nasty, Fails: nasty, Outcome: nasty, Got: long, Reason: nasty, Seconds: nan}},
			Distribution: []Bar{{nasty, nan, -inf, inf, 1}, {long, 5, 0, inf, 2}},
			Evidence:     []File{{Name: "../../../etc/" + nasty, Body: long}, {Name: nasty, Body: nasty}, {Name: nasty, Body: nasty}, {Name: "x", Path: "../../etc/passwd"}, {Name: "y", Path: "javascript:alert(1)"}},
			Timeline:     []Series{{nasty, nasty, []Point{{nan, 1}, {1, inf}, {2, 3}}}, {nasty, nasty, []Point{{1e308, 1e308}, {-1e308, -1e308}}}, {nasty, "x", nil}},
			Figures:      []Figure{{nasty, nan, nasty}, {nasty, 1, nasty}, {nasty, 2, nasty}},
			Load:         []Load{{Name: nasty, Verdict: nasty, Reason: long, P50: &nan, P99: ms(1), PerSecond: []Second{{0, 1, 2, &nan}}}, {Name: nasty, P99: ms(2)}},
		})
	}
	r.Settle()
	return r
}

// many is a run with n cases of some size.
func many(n int) Run {
	s := sample()
	r := s
	r.Cases = nil
	for i := range n {
		c := s.Cases[i%6]
		c.Name = fmt.Sprintf("%s%04d", c.Name, i)
		r.Cases = append(r.Cases, c)
	}
	r.Settle()
	return r
}
