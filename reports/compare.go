// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// A Comparison is what became worse and what became better from one run to a later one. One run of each says nothing about speed:
// its figures are shown side by side and not judged.
type Comparison struct {
	Old         RunRef   `json:"old"`
	New         RunRef   `json:"new"`
	Changed     []Change `json:"changed,omitempty"`     // of the environment: versions, nodes
	Regressions []Change `json:"regressions,omitempty"` // a run with one fails
	Unjudged    []Change `json:"unjudged,omitempty"`    // passed before, could not be judged now: trouble of the environment
	Better      []Change `json:"better,omitempty"`
	Loads       []Pair   `json:"loads,omitempty"`
	// Cases is how many are in both runs and were judged in both.
	Cases int `json:"cases"`
}

// RunRef names a run.
type RunRef struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Exit int    `json:"exit"`
}

// What a Change is.
const (
	NewlyFailing  = "newly failing"
	NewlyBlind    = "newly blind"
	NewlySkipped  = "newly skipped"
	NewlyUnjudged = "not judged now"
	Vanished      = "vanished" // a case or a control that is not there any more
	CoverageLost  = "coverage lost"
	Mended        = "mended"
	Added         = "added"
)

// A Change is one thing that differs.
type Change struct {
	Kind string `json:"kind"`
	What string `json:"what"` // a case, a control, an API field, a version
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// A Pair is one load's 99th percentile in both runs, in milliseconds.
type Pair struct {
	Case   string  `json:"case"`
	Load   string  `json:"load"`
	OldP99 float64 `json:"oldP99Ms"`
	NewP99 float64 `json:"newP99Ms"`
}

// standing is a case over all its attempts: the worst of them.
type standing struct {
	Case
	controls map[string]string // break to the worst outcome
}

func standings(r Run) map[string]*standing {
	out := map[string]*standing{}
	for _, c := range r.Cases {
		s := out[c.Name]
		if s == nil {
			s = &standing{Case: c, controls: map[string]string{}}
			out[c.Name] = s
		} else if rank(c.Outcome) < rank(s.Outcome) {
			s.Outcome, s.Reason = c.Outcome, c.Reason
		}
		for _, k := range c.Controls {
			if s.controls[k.Break] == "" || k.Outcome != Caught {
				s.controls[k.Break] = k.Outcome
			}
		}
	}
	return out
}

// Compare says what became of old in new. Cases of old that selected denies were not to run in new, and are left out.
func Compare(old, new Run, selected func(name string) bool) Comparison {
	c := Comparison{Old: refOf(old), New: refOf(new)}
	before, after := standings(old), standings(new)
	for _, name := range sortedKeys(before) {
		was, is := before[name], after[name]
		switch {
		case !selected(name):
			continue
		case is == nil:
			if !new.Interrupted { // else it was yet to run
				c.worse(Vanished, name, was.Outcome, "")
			}
			continue
		case was.Outcome != Skip && is.Outcome != Skip:
			c.Cases++
		}
		c.outcome(name, was, is)
		for _, k := range sortedKeys(was.controls) {
			now, there := is.controls[k]
			switch {
			case was.controls[k] != Caught || is.Outcome != Pass: // a case that did not pass has said so, and its controls may not have run
			case !there:
				c.worse(Vanished, name+" control "+k, Caught, "")
			case now != Caught:
				c.worse(NewlyBlind, name+" control "+k, Caught, now)
			}
		}
		c.loads(name, was.Case, is.Case)
	}
	for _, name := range sortedKeys(after) {
		if before[name] == nil {
			c.Better = append(c.Better, Change{Kind: Added, What: name, New: after[name].Outcome})
		}
	}
	c.coverage(old, new, after, selected)
	c.environment(old.Environment, new.Environment)
	return c
}

func refOf(r Run) RunRef { return RunRef{ID: r.ID, Name: r.Name, Exit: r.Exit} }

func (c *Comparison) worse(kind, what, old, new string) {
	c.Regressions = append(c.Regressions, Change{Kind: kind, What: what, Old: old, New: new})
}

// outcome compares a case's verdicts.
func (c *Comparison) outcome(name string, was, is *standing) {
	said := is.Outcome
	if is.Reason != "" {
		said += ": " + oneLine(is.Reason)
	}
	switch {
	case was.Outcome == is.Outcome:
	case is.Outcome == Pass:
		c.Better = append(c.Better, Change{Kind: Mended, What: name, Old: was.Outcome, New: is.Outcome})
	case is.Outcome == Fail:
		c.worse(NewlyFailing, name, was.Outcome, said)
	case is.Outcome == Blind && was.Outcome != Fail:
		c.worse(NewlyBlind, name, was.Outcome, said)
	case was.Outcome == Pass && is.Outcome == Skip:
		c.worse(NewlySkipped, name, was.Outcome, said)
	case was.Outcome == Pass:
		c.Unjudged = append(c.Unjudged, Change{Kind: NewlyUnjudged, What: name, Old: was.Outcome, New: said})
	}
}

// loads pairs the loads of one name.
func (c *Comparison) loads(name string, was, is Case) {
	for _, o := range was.Load {
		i := slices.IndexFunc(is.Load, func(n Load) bool { return n.Name == o.Name })
		if i >= 0 && o.P99 != nil && is.Load[i].P99 != nil {
			c.Loads = append(c.Loads, Pair{Case: name, Load: o.Name, OldP99: *o.P99, NewP99: *is.Load[i].P99})
		}
	}
}

// coverage finds fields that were asserted and are not now, although the cases that asserted them passed. What else happened to
// those cases is told already.
func (c *Comparison) coverage(old, new Run, after map[string]*standing, selected func(string) bool) {
	now := map[string]bool{}
	for _, kind := range new.Coverage {
		for _, f := range kind.Fields {
			now[f.Path] = f.State == Asserted
		}
	}
	for _, kind := range old.Coverage {
		for _, f := range kind.Fields {
			passed := !slices.ContainsFunc(f.Cases, func(name string) bool {
				return !selected(name) || after[name] == nil || after[name].Outcome != Pass
			})
			if f.State == Asserted && passed && !now[f.Path] {
				c.worse(CoverageLost, f.Path, "asserted by "+strings.Join(f.Cases, ", "), "")
			}
		}
	}
}

func (c *Comparison) environment(old, new Environment) {
	for _, f := range []struct{ what, old, new string }{
		{"Kubernetes", old.Kubernetes, new.Kubernetes}, {"Istio", old.Istio, new.Istio}, {"Envoy", old.Envoy, new.Envoy},
		{"harness", old.Harness, new.Harness}, {"provider", old.Provider, new.Provider}, {"nodes", fmt.Sprint(old.Nodes), fmt.Sprint(new.Nodes)},
		{"host", old.Host, new.Host},
	} {
		if f.old != f.new {
			c.Changed = append(c.Changed, Change{Kind: "environment", What: f.what, Old: f.old, New: f.new})
		}
	}
}

// Lines are the regressions, one line each.
func (c Comparison) Lines() []string {
	var out []string
	for _, r := range c.Regressions {
		out = append(out, fmt.Sprintf("%s: %s: %s → %s", r.Kind, oneLine(r.What), orNone(r.Old), orNone(r.New)))
	}
	return out
}

// Text writes the comparison for people.
func (c Comparison) Text(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	word := "no regression"
	if n := len(c.Regressions); n > 0 {
		word = count(n, "regression")
	}
	fmt.Fprintf(tw, "Compared with run %s: %s; %s judged in both\n", oneLine(c.Old.ID), word, count(c.Cases, "case"))
	for _, list := range [][]Change{c.Regressions, c.Unjudged, c.Better, c.Changed} {
		for _, change := range list {
			fmt.Fprintf(tw, "  %s\t%s\t%s → %s\n", change.Kind, oneLine(change.What), orNone(oneLine(change.Old)), orNone(oneLine(change.New)))
		}
	}
	if len(c.Loads) > 0 {
		fmt.Fprintln(tw, "99th percentiles of loads, one run each, which shows no change for sure:")
		for _, l := range c.Loads {
			fmt.Fprintf(tw, "  %s\t%s\t%.3g ms → %.3g ms\n", l.Case, oneLine(l.Load), l.OldP99, l.NewP99)
		}
	}
	return tw.Flush()
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
