// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"time"
)

var (
	//go:embed page/page.html.tmpl
	pageHTML string
	//go:embed page/style.css
	pageStyle string
	//go:embed page/filter.js
	pageScript string

	pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
		"clean": cleanText, "line": oneLine, "symbol": symbol, "seconds": seconds, "num": num, "millis": millis, "band": band, "stamp": stamp,
	}).Parse(pageHTML))
)

// page is what the template shows. It holds no decisions of its own: those are made here, where they are tested.
type page struct {
	Run
	Style   template.CSS
	Script  template.JS
	Policy  string
	Word    string
	Facts   []fact
	Outside []string
	Bad     []caseView
	All     []caseView
	Steps   []stepView
}

type caseView struct {
	Case
	ID, Title, Result, Why, Caught, Block string
	Bars                                  []barView
	Bounded                               bool
	Charts                                []chart
}

type stepView struct {
	Step
	X, Width float64
}

// HTML writes one page that needs nothing else: no network, no script to be complete (the script only filters), no colour to be
// understood. Everything that came from a cluster is escaped, and a content security policy forbids what an escape might miss.
func HTML(w io.Writer, r Run) error {
	r = tidy(r)
	sum := sha256.Sum256([]byte(pageScript))
	p := page{
		Run:     r,
		Style:   template.CSS(pageStyle), //nolint:gosec // our own file
		Script:  template.JS(pageScript), //nolint:gosec // our own file
		Policy:  "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'",
		Word:    firstLine(r.Verdict, "no verdict"),
		Facts:   append(append(fingerprint(r), fact{"Seed", fmt.Sprint(r.Seed)}), certaintyFacts(r)...),
		Outside: append(prefixed("error: ", r.Errors), prefixed("leak: ", r.Leaks)...),
		Steps:   waterfall(r.BringUp),
	}
	for _, c := range byUrgency(r.Cases) {
		v := viewCase(c)
		p.All = append(p.All, v)
		if rank(v.Result) < rank(Pass) {
			p.Bad = append(p.Bad, v)
		}
	}
	if err := pageTemplate.Execute(w, p); err != nil {
		return fmt.Errorf("write HTML: %w", err)
	}
	return nil
}

func viewCase(c Case) caseView {
	v := caseView{Case: c, ID: c.ID(), Title: caseTitle(c), Result: outcome(c), Why: firstLine(c.Reason, ""), Caught: caughtOf(c.Controls)}
	if rank(v.Result) < rank(Pass) {
		v.Block = Failure(c)
	}
	v.Bars, v.Bounded = viewBars(c.Distribution), hasBand(c.Distribution)
	if ch, ok := newChart("Timeline of "+v.Title, c.Timeline); ok {
		v.Charts = append(v.Charts, ch)
	}
	for _, l := range c.Load {
		if ch, ok := newChart("Load "+firstLine(l.Name, "")+" over time", loadSeries(l)); ok {
			v.Charts = append(v.Charts, ch)
		}
	}
	return v
}

func loadSeries(l Load) []Series {
	ok, bad, p99 := Series{Name: "answered", Unit: "requests/s"}, Series{Name: "errors", Unit: "requests/s"}, Series{Name: "p99", Unit: "ms"}
	for _, s := range l.PerSecond {
		at := float64(s.At)
		ok.Points = append(ok.Points, Point{at, float64(s.OK)})
		bad.Points = append(bad.Points, Point{at, float64(s.Errors)})
		if s.P99 != nil {
			p99.Points = append(p99.Points, Point{at, *s.P99})
		}
	}
	return []Series{ok, bad, p99}
}

// waterfall places each step on the time axis of the whole bring-up, in hundredths of its length.
func waterfall(steps []Step) []stepView {
	var from, to time.Time
	for _, s := range steps {
		if s.Started.IsZero() {
			continue
		}
		if end := s.Started.Add(time.Duration(s.Seconds * float64(time.Second))); end.After(to) {
			to = end
		}
		if from.IsZero() || s.Started.Before(from) {
			from = s.Started
		}
	}
	total := to.Sub(from).Seconds()
	out := make([]stepView, len(steps))
	for i, s := range steps {
		out[i] = stepView{Step: s}
		if total > 0 && !s.Started.IsZero() {
			out[i].X = round(100 * s.Started.Sub(from).Seconds() / total)
			out[i].Width = max(0.5, round(100*s.Seconds/total))
		}
	}
	return out
}
