// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/joshdk/go-junit"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	nethtml "golang.org/x/net/html"
)

func TestGolden(t *testing.T) {
	r := sample()
	before := render(t, JSON, r)
	for name, file := range map[string]string{"json": "report.json", "junit": "junit.xml", "markdown": "summary.md", "html": "index.html", "metrics": "metrics.prom", "console": "console.txt", "colour": "colour.txt"} {
		t.Run(name, func(t *testing.T) {
			got := render(t, renderers[name], r)
			golden(t, file, []byte(got))
			if again := render(t, renderers[name], r); again != got {
				t.Error("rendering twice gives two texts")
			}
		})
	}
	if after := render(t, JSON, r); after != before {
		t.Error("rendering changed the run")
	}
}

// TestHostile renders text and numbers that no cluster should send.
func TestHostile(t *testing.T) {
	for name, f := range renderers {
		t.Run(name, func(t *testing.T) {
			got := render(t, f, hostile())
			if !utf8.ValidString(got) {
				t.Error("not UTF-8")
			}
			for _, c := range []string{"\x1b]", "\x1b[31mred", "\x00", "\x07", "\u009b", "\u202e"} {
				if strings.Contains(got, c) && name != "json" {
					t.Errorf("contains %q", c)
				}
			}
			if name != "colour" && strings.Contains(got, "\x1b") {
				t.Error("contains an escape")
			}
			if name == "html" || name == "markdown" {
				outside := got
				if name == "markdown" { // inside a fence it is text
					outside = regexp.MustCompile("(?s)\n(````+)text\n.*?\n````+\n").ReplaceAllString(got, "")
				}
				if strings.Contains(outside, "<script>alert") {
					t.Error("an echoed script is markup")
				}
			}
			if strings.Contains(got, "NaN") || strings.Contains(got, "+Inf") {
				t.Error("contains a number that is none")
			}
		})
	}
}

// TestEmpty renders runs that never got anywhere: a report exists on every path.
func TestEmpty(t *testing.T) {
	for name, f := range renderers {
		for _, r := range []Run{{}, {Cases: []Case{{}}}, {BringUp: []Step{{}}, Interrupted: true}} {
			if render(t, f, r) == "" {
				t.Errorf("%s renders nothing of an unsettled run", name)
			}
			r.Settle()
			if name != "json" && name != "metrics" && name != "junit" && !strings.Contains(strings.ToLower(render(t, f, r)), r.Verdict) {
				t.Errorf("%s does not say %s", name, r.Verdict)
			}
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriterErrors(t *testing.T) {
	for name, f := range renderers {
		if err := f(brokenWriter{}, sample()); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestFailure(t *testing.T) {
	for _, r := range []Run{sample(), hostile(), {Cases: []Case{{}}}} {
		for _, c := range tidy(r).Cases {
			lines := strings.Split(strings.TrimSuffix(Failure(c), "\n"), "\n")
			if len(lines) > 25 {
				t.Errorf("%d lines:\n%s", len(lines), Failure(c))
			}
			for _, l := range lines {
				if len(l) > blockWidth {
					t.Errorf("a line of %d bytes: %s", len(l), l)
				}
			}
			if c.Reason != "" && !strings.Contains(lines[0], c.Name[:3]) {
				t.Errorf("the first line does not name the case: %s", lines[0])
			}
			if c.Rerun != "" && !strings.Contains(lines[len(lines)-1], "rerun") {
				t.Errorf("the last line is not the rerun command: %s", lines[len(lines)-1])
			}
		}
	}
	got := Failure(sample().Cases[1])
	if out, in := strings.Index(got, "echo-c  "), strings.Index(got, "echo-b  "); out < 0 || out > in {
		t.Errorf("the backend outside its band does not come first:\n%s", got)
	}
	for name, f := range map[string]func(io.Writer, Run) error{"junit": JUnit, "markdown": Markdown, "html": HTML, "console": plainConsole} {
		text := html.UnescapeString(render(t, f, sample()))
		for _, l := range strings.Split(strings.TrimSpace(got), "\n") {
			if !strings.Contains(text, strings.TrimSpace(l)) {
				t.Errorf("%s lacks the line %q", name, l)
			}
		}
	}
}

func TestJUnitReadBack(t *testing.T) {
	suites, err := junit.Ingest([]byte(render(t, JUnit, sample())))
	if err != nil {
		t.Fatal(err)
	}
	if len(suites) != 1 {
		t.Fatalf("%d suites", len(suites))
	}
	got := map[string]string{}
	for _, tc := range suites[0].Tests {
		got[tc.Classname+" "+tc.Name] = string(tc.Status)
	}
	want := map[string]string{
		"harness.Gateway Gateway/HTTP": "passed", "harness.DestinationRule DestinationRule/RoundRobin": "failed", "harness.VirtualService VirtualService/Weights": "failed",
		"harness.Service Service/NodePort": "error", "harness.Service Service/LoadBalancer": "skipped", "harness.HorizontalPodAutoscaler HPA/ScaleOut": "passed",
		"harness.Pod Pod/Readiness": "failed", "harness Run": "error",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	rr := suites[0].Tests[1]
	if !strings.HasPrefix(rr.Message, "echo-c received 61") || !strings.HasSuffix(rr.Message, "rerun: harness test 'DestinationRule/RoundRobin' --seed 7") {
		t.Errorf("message is %q", rr.Message)
	}
	if p := suites[0].Properties["kubernetes"]; p != "v1.37.2" {
		t.Errorf("kubernetes is %q", p)
	}
	pod := suites[0].Tests[6]
	if pod.Duration != 3*time.Second || !strings.Contains(pod.Message, "unready pod") {
		t.Errorf("the repeated case took %v and says %q", pod.Duration, pod.Message)
	}
}

// TestJUnitNeverGreenByAccident: a run without a case, or with trouble outside the cases, has an error in its file.
func TestJUnitNeverGreenByAccident(t *testing.T) {
	pass := []Case{{Name: "A", Outcome: Pass}}
	for name, r := range map[string]Run{"nothing": {}, "leak": {Cases: pass, Leaks: []string{"x"}}, "interrupted": {Cases: pass, Interrupted: true},
		"only skips": {Cases: []Case{{Name: "A", Outcome: Skip}}}, "bring-up": {BringUp: []Step{{Name: "n", Outcome: Error}}}} {
		r.Settle()
		suites, err := junit.Ingest([]byte(render(t, JUnit, r)))
		if err != nil {
			t.Fatal(err)
		}
		if suites[0].Totals.Error == 0 {
			t.Errorf("%s: no error in junit.xml", name)
		}
	}
}

func TestJUnitHostileIsXML(t *testing.T) {
	text := render(t, JUnit, hostile())
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := junit.Ingest([]byte(text)); err != nil {
		t.Error(err)
	}
	if len(text) > 1<<20 {
		t.Errorf("%d bytes for %d cases", len(text), len(hostile().Cases))
	}
}

func TestMarkdown(t *testing.T) {
	for _, n := range []int{0, 1, 150, 2000, 6000} {
		text := render(t, Markdown, many(n))
		if len(text) >= 1<<20 {
			t.Errorf("%d cases make %d bytes", n, len(text))
		}
		if n == 6000 && strings.Count(text, "did not fit here") != 2 {
			t.Error("nothing says what was left out")
		}
		if n > 0 && !strings.Contains(text, "## Cases") {
			t.Errorf("%d cases: no table", n)
		}
	}
	if bad, table := strings.Index(render(t, Markdown, sample()), "## What needs action"), strings.Index(render(t, Markdown, sample()), "## Cases"); bad < 0 || bad > table {
		t.Error("what needs action does not come first")
	}
	// Every row of a table has as many cells as its head.
	cells := func(l string) int { return strings.Count(strings.ReplaceAll(l, `\|`, ""), "|") }
	head, fence := 0, ""
	for l := range strings.Lines(render(t, Markdown, hostile())) {
		l = strings.TrimSuffix(l, "\n")
		ticks := l[:len(l)-len(strings.TrimLeft(l, "`"))]
		switch {
		case fence != "":
			if l == fence {
				fence = ""
			}
		case len(ticks) >= 3:
			fence = ticks
		case !strings.HasPrefix(l, "|"):
			head = 0
		case head == 0:
			head = cells(l)
		case cells(l) != head:
			t.Errorf("%d cells under %d: %.200s", cells(l), head, l)
		}
	}
	if fence != "" {
		t.Error("a code block is not closed")
	}
}

func TestMetricsParse(t *testing.T) {
	for name, r := range map[string]Run{"sample": sample(), "hostile": hostile(), "empty": {}} {
		p := expfmt.NewTextParser(model.UTF8Validation)
		families, err := p.TextToMetricFamilies(strings.NewReader(render(t, Metrics, r)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		seen := map[string]bool{}
		for n, f := range families {
			for _, m := range f.GetMetric() {
				key := n + fmt.Sprint(m.GetLabel())
				if seen[key] {
					t.Errorf("%s: two samples of %s", name, key)
				}
				seen[key] = true
			}
		}
		if name == "sample" && len(families["harness_case_seconds"].GetMetric()) != 7 {
			t.Errorf("%d case times", len(families["harness_case_seconds"].GetMetric()))
		}
	}
}

func TestHTML(t *testing.T) {
	text := render(t, HTML, sample())
	for _, want := range []string{`✗ failed: `, `href="#case-DestinationRule_RoundRobin"`, `id="case-Pod_Readiness.2"`, "prefers-color-scheme: dark", "<polyline", "[98, 102]", "✗ outside", "Broken on purpose", "signal to decision", `href="cases/DestinationRule_RoundRobin/envoy/clusters.json"`} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if bad, all := strings.Index(text, "What needs action"), strings.Index(text, ">Cases<"); bad < 0 || bad > all {
		t.Error("what needs action does not come first")
	}
	script := regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindStringSubmatch(text)
	if script == nil {
		t.Fatal("no script")
	}
	sum := sha256.Sum256([]byte(script[1]))
	if !strings.Contains(html.UnescapeString(text), "sha256-"+base64.StdEncoding.EncodeToString(sum[:])) {
		t.Error("the policy does not allow the page's own script")
	}
	if m := regexp.MustCompile(`(?:src|href)="(?:https?:)?//`).FindString(text); m != "" {
		t.Errorf("asks the network: %s", m)
	}
}

// TestHTMLTree parses the pages: one script, no handler, unique ids, links that lead somewhere, tags that are closed.
func TestHTMLTree(t *testing.T) {
	for name, r := range map[string]Run{"empty": {}, "sample": sample(), "hostile": hostile(), "many": many(150)} {
		text := render(t, HTML, r)
		doc, err := nethtml.Parse(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		ids, links, scripts := map[string]int{}, []string{}, 0
		for n := range doc.Descendants() {
			if n.Type != nethtml.ElementNode {
				continue
			}
			if n.Data == "script" {
				scripts++
			}
			for _, a := range n.Attr {
				switch {
				case a.Key == "id":
					ids[a.Val]++
				case a.Key == "href" && strings.HasPrefix(a.Val, "#"):
					links = append(links, a.Val[1:])
				case a.Key == "href" && strings.HasPrefix(strings.ToLower(a.Val), "javascript"), strings.HasPrefix(a.Key, "on"), a.Key == "style":
					t.Errorf("%s: <%s %s=%q>", name, n.Data, a.Key, a.Val)
				case a.Key == "href" && strings.Contains(a.Val, ".."):
					t.Errorf("%s: link out of the directory: %s", name, a.Val)
				}
			}
		}
		if scripts != 1 {
			t.Errorf("%s: %d scripts", name, scripts)
		}
		for id, n := range ids {
			if n > 1 {
				t.Errorf("%s: id %s %d times", name, id, n)
			}
		}
		for _, l := range links {
			if ids[l] == 0 && l != "ZgotmplZ" {
				t.Errorf("%s: link to %s leads nowhere", name, l)
			}
		}
		for _, tag := range []string{"table", "details", "div", "svg", "pre", "tr", "td"} {
			if o, c := strings.Count(text, "<"+tag+">")+strings.Count(text, "<"+tag+" "), strings.Count(text, "</"+tag+">"); o != c {
				t.Errorf("%s: %d <%s> and %d </%s>", name, o, tag, c, tag)
			}
		}
	}
}

func TestThin(t *testing.T) {
	var points []Point
	for i := range 100_000 {
		points = append(points, Point{At: float64(i), Value: 1})
	}
	points[54_321].Value = 1000
	got := thin(points)
	if len(got) > chartPoints {
		t.Errorf("%d points", len(got))
	}
	peak := 0.0
	for i, p := range got {
		peak = max(peak, p.Value)
		if i > 0 && p.At < got[i-1].At {
			t.Fatalf("point %d goes back in time", i)
		}
	}
	if peak != 1000 {
		t.Error("the spike is lost")
	}
}

func TestConsoleColour(t *testing.T) {
	plain, colour := render(t, plainConsole, sample()), render(t, colorConsole, sample())
	if strings.Contains(plain, "\x1b") || !strings.Contains(colour, "\x1b[31m") {
		t.Error("colours do not follow the parameter")
	}
	if ansi.ReplaceAllString(colour, "") != plain {
		t.Error("colour changes more than colour")
	}
	if strings.Count(render(t, plainConsole, many(2000)), "Gateway/HTTP") > 0 {
		t.Error("a large run lists its passes")
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{"a\x1b[1;31mb\x1b[0mc": "abc", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\": "link", "a\r\nb\rc": "a\nb\nc", "\xff": "\ufffd", "a\x00b\ufffe": "ab", "±5 → ok": "±5 → ok", "\x1b": "", "\x1b[": "["} {
		if got := clean(in); got != want && !(in == "\x1b[" && got == "") {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	for n := range 40 {
		got := middle("αβγδεζηθικλμνξοπρστυφχψω", n)
		if len(got) > n || !utf8.ValidString(got) {
			t.Errorf("middle to %d is %q", n, got)
		}
	}
	for v, want := range map[float64]string{0: "0", 120: "120", 2.256: "2.26", 0.0421: "0.042", 1e20: "1e+20", -3.5: "-3.50", 312.56: "312.6"} {
		if got := num(v); got != want {
			t.Errorf("num(%v) = %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0 ms", 0.25: "250 ms", 2.4: "2.4 s", 59.6: "60 s", 212: "3 min 32 s", 119.6: "2 min 00 s"} {
		if got := seconds(v); got != want {
			t.Errorf("seconds(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestJSONRoundTrip(t *testing.T) {
	var got Run
	if err := json.Unmarshal([]byte(render(t, JSON, sample())), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tidy(sample()), got); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkRender2000(b *testing.B) {
	r := many(2000)
	for _, name := range []string{"json", "junit", "markdown", "html", "metrics", "console"} {
		b.Run(name, func(b *testing.B) {
			size := 0
			for b.Loop() {
				size = len(render(b, renderers[name], r))
			}
			b.ReportMetric(float64(size)/1024, "KiB")
		})
	}
}
