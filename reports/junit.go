// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Bounds of junit.xml, in bytes. GitLab drops a file over 30 MB; viewers cut long messages in their middle.
const (
	junitMessage = 1 << 10
	junitOut     = 16 << 10
	junitOutAll  = 16 << 20
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     junitTime    `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       junitTime       `xml:"time,attr"`
	Timestamp  string          `xml:"timestamp,attr,omitempty"`
	Hostname   string          `xml:"hostname,attr,omitempty"`
	Properties []junitProperty `xml:"properties>property,omitempty"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitCase struct {
	Classname  string          `xml:"classname,attr"`
	Name       string          `xml:"name,attr"`
	Time       junitTime       `xml:"time,attr"`
	Properties []junitProperty `xml:"properties>property,omitempty"`
	Failure    *junitProblem   `xml:"failure"`
	Error      *junitProblem   `xml:"error"`
	Skipped    *junitProblem   `xml:"skipped"`
	// Rerun holds the further bad attempts of a repeated case, as Surefire writes them.
	Rerun     []junitProblem `xml:"rerunFailure"`
	SystemOut *junitText     `xml:"system-out"`
}

// junitText is CDATA, which keeps line ends as they are; as character data each would be written as &#xA;.
type junitText struct {
	Body string `xml:",cdata"`
}

type junitProblem struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Body    string `xml:",cdata"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitTime float64

func (t junitTime) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%.3f", float64(t)), nil }

// JUnit writes the run in Surefire's dialect: one testcase for each case, however often it was repeated, with the worst
// attempt as its outcome. A failure is the product's (fail, blind), an error the environment's. What went wrong outside any
// case is a testcase of its own named Run, so that a run that died early is never an empty, green file.
func JUnit(w io.Writer, r Run) error {
	r = tidy(r)
	suite := junitSuite{Name: firstLine(r.Name, "harness"), Hostname: oneLine(r.Environment.Host), Properties: runProperties(r)}
	if !r.Started.IsZero() {
		suite.Timestamp = r.Started.UTC().Format("2006-01-02T15:04:05")
	}
	if d := r.Ended.Sub(r.Started); d > 0 && !r.Started.IsZero() {
		suite.Time = junitTime(d.Seconds())
	}
	out := junitOutAll
	for _, attempts := range byName(r.Cases) {
		suite.Cases = append(suite.Cases, junitCaseOf(attempts, &out))
	}
	if r.Verdict == Errored || r.Verdict == Interrupted || len(r.Errors)+len(r.Leaks) > 0 || len(suite.Cases) == 0 {
		suite.Cases = append(suite.Cases, junitRun(r))
	}
	for _, c := range suite.Cases {
		suite.Tests++
		switch {
		case c.Failure != nil:
			suite.Failures++
		case c.Error != nil:
			suite.Errors++
		case c.Skipped != nil:
			suite.Skipped++
		}
	}
	all := junitSuites{Name: suite.Name, Tests: suite.Tests, Failures: suite.Failures, Errors: suite.Errors,
		Skipped: suite.Skipped, Time: suite.Time, Suites: []junitSuite{suite}}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return fmt.Errorf("write JUnit: %w", err)
	}
	return nil
}

// byName groups the attempts at each case, in order of first appearance; within a group the worst comes first.
func byName(cases []Case) [][]Case {
	var out [][]Case
	at := map[string]int{}
	for _, c := range cases {
		i, ok := at[c.Name]
		if !ok {
			i = len(out)
			at[c.Name] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], c)
	}
	for _, attempts := range out {
		slices.SortStableFunc(attempts, func(a, b Case) int { return rank(outcome(a)) - rank(outcome(b)) })
	}
	return out
}

func junitCaseOf(attempts []Case, out *int) junitCase {
	c := attempts[0]
	jc := junitCase{Classname: "harness." + firstLine(c.Resource, "Case"), Name: firstLine(c.Name, "unnamed"), Properties: caseProperties(c, len(attempts))}
	for i, a := range attempts {
		jc.Time += junitTime(a.Seconds)
		if i > 0 && rank(outcome(a)) < rank(Pass) {
			jc.Rerun = append(jc.Rerun, *problem(a))
		}
	}
	switch outcome(c) {
	case Pass:
		return jc
	case Skip:
		jc.Skipped = &junitProblem{Message: firstLine(c.Reason, "no reason was given")}
		return jc
	case Error:
		jc.Error = problem(c)
	default:
		jc.Failure = problem(c)
	}
	if text := head(evidenceText(c), min(junitOut, *out)); text != "" {
		jc.SystemOut = &junitText{text}
		*out -= len(text)
	}
	return jc
}

// problem puts the reason first and the rerun command last, because viewers cut the middle; the body stands on its own.
func problem(c Case) *junitProblem {
	msg, rerun := firstLine(c.Reason, "no reason was given"), ""
	if c.Rerun != "" {
		rerun = " | rerun: " + middle(oneLine(c.Rerun), junitMessage/2)
	}
	return &junitProblem{Message: middle(msg, junitMessage-len(rerun)) + rerun, Type: outcome(c), Body: "\n" + Failure(c)}
}

func junitRun(r Run) junitCase {
	jc := junitCase{Classname: "harness", Name: "Run"}
	var body strings.Builder
	for _, s := range r.BringUp {
		fmt.Fprintf(&body, "step %s: %s, %s %s\n", oneLine(s.Name), firstLine(s.Outcome, "no outcome"), seconds(s.Seconds), oneLine(s.Detail))
	}
	for _, e := range r.Errors {
		fmt.Fprintf(&body, "error: %s\n", cleanText(e))
	}
	for _, l := range r.Leaks {
		fmt.Fprintf(&body, "leak: %s\n", oneLine(l))
	}
	reason := middle(firstLine(r.Reason, "the run did not say how it ended"), junitMessage)
	if r.Verdict == Failed { // the verdict is the cases'; this testcase is about the rest
		reason = count(len(r.Errors), "error") + " and " + count(len(r.Leaks), "leak") + " outside any case"
	}
	jc.Error = &junitProblem{Message: reason, Type: firstLine(r.Verdict, Error), Body: "\n" + head(body.String(), junitOut)}
	return jc
}

func runProperties(r Run) []junitProperty {
	ps := []junitProperty{{"run", oneLine(r.ID)}, {"verdict", oneLine(r.Verdict)}, {"reason", firstLine(r.Reason, "")}, {"seed", fmt.Sprint(r.Seed)}}
	for _, f := range fingerprint(r) {
		ps = append(ps, junitProperty{strings.ToLower(f.Name), f.Value})
	}
	return slices.DeleteFunc(ps, func(p junitProperty) bool { return p.Value == "" })
}

func caseProperties(c Case, attempts int) []junitProperty {
	caught := 0
	for _, k := range c.Controls {
		if k.Outcome == Caught {
			caught++
		}
	}
	ps := []junitProperty{{"id", c.ID()}, {"outcome", outcome(c)}, {"doc", oneLine(c.Doc)}, {"judged", oneLine(c.Judged)}}
	if len(c.Controls) > 0 {
		ps = append(ps, junitProperty{"controls", fmt.Sprintf("%d of %d caught", caught, len(c.Controls))})
	}
	if attempts > 1 {
		ps = append(ps, junitProperty{"attempts", fmt.Sprint(attempts)})
	}
	for _, k := range sortedKeys(c.Labels) {
		ps = append(ps, junitProperty{"label." + oneLine(k), oneLine(c.Labels[k])})
	}
	for _, f := range c.Figures {
		ps = append(ps, junitProperty{"figure." + oneLine(f.Name), strings.TrimSpace(num(f.Value) + " " + oneLine(f.Unit))})
	}
	ps = append(ps, junitProperty{"rerun", oneLine(c.Rerun)})
	ps = slices.DeleteFunc(ps, func(p junitProperty) bool { return p.Value == "" })
	for i := range ps {
		ps[i].Value = middle(ps[i].Value, junitMessage)
	}
	return ps
}

// evidenceText joins the evidence kept inline; the rest is in the run's directory.
func evidenceText(c Case) string {
	var b strings.Builder
	for _, f := range c.Evidence {
		fmt.Fprintf(&b, "--- %s", oneLine(f.Name))
		if f.Path != "" {
			fmt.Fprintf(&b, " (%s)", oneLine(f.Path))
		}
		b.WriteString("\n")
		if body := strings.TrimRight(cleanText(f.Body), "\n"); body != "" {
			b.WriteString(body + "\n")
		}
	}
	return b.String()
}

type fact struct{ Name, Value string }

// fingerprint lists what is known of the environment, as name and value.
func fingerprint(r Run) []fact {
	e := r.Environment
	nodes := ""
	if e.Nodes > 0 {
		nodes = fmt.Sprint(e.Nodes)
	}
	all := []fact{{"Kubernetes", e.Kubernetes}, {"Istio", e.Istio}, {"Envoy", e.Envoy}, {"Harness", e.Harness}, {"Commit", e.Commit},
		{"Go", e.Go}, {"Host", e.Host}, {"Images", e.Images}, {"Provider", e.Provider}, {"Source", e.Source}, {"Nodes", nodes}}
	out := all[:0]
	for _, f := range all {
		if f.Value = oneLine(f.Value); f.Value != "" {
			out = append(out, f)
		}
	}
	return out
}

// stamp is a time for readers; UTC, because a report is read elsewhere.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
