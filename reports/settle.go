// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"fmt"
	"slices"
	"strings"
)

// Tally counts cases and controls.
func Tally(cases []Case) Totals {
	var t Totals
	for _, c := range cases {
		switch outcome(c) {
		case Pass:
			t.Pass++
		case Fail:
			t.Fail++
		case Blind:
			t.Blind++
		case Skip:
			t.Skip++
		default:
			t.Error++
		}
		for _, k := range c.Controls {
			t.Controls++
			if k.Outcome == Caught {
				t.Caught++
			}
		}
	}
	if t.Controls > 0 {
		t.KillRate = float64(t.Caught) / float64(t.Controls)
	}
	return t
}

// liveTimes is the distribution of the times from a change to its proof; nil when nothing was proved.
func liveTimes(cases []Case) *Durations {
	var times []float64
	for _, c := range cases {
		for _, p := range c.Phases {
			if p.Name == "live" {
				times = append(times, p.Seconds)
			}
		}
		for _, k := range c.Controls {
			if k.Live > 0 {
				times = append(times, k.Live)
			}
		}
	}
	if len(times) == 0 {
		return nil
	}
	slices.Sort(times)
	at := func(q float64) float64 { return times[int(q*float64(len(times)-1)+0.5)] }
	return &Durations{N: len(times), P50: at(0.5), P90: at(0.9), Max: times[len(times)-1]}
}

// Settle fills APIVersion, Kind, Totals, Alpha, Live, Verdict, Exit and Reason from the rest. The order of the rules is the order of what a
// reader must act on: a product that does not hold, a run that was stopped, a run that could not judge. Nothing empty passes.
// It may be called again after the run has grown.
func (r *Run) Settle() {
	r.APIVersion, r.Kind = APIVersion, Kind
	r.Totals = Tally(r.Cases)
	r.Alpha, r.Live = 0, liveTimes(r.Cases)
	for _, c := range r.Cases {
		if outcome(c) != Skip && outcome(c) != Error {
			for _, s := range c.Samples {
				r.Alpha += s.Alpha
			}
		}
	}
	t := r.Totals
	ran := len(r.Cases) - t.Skip
	switch {
	case t.Fail+t.Blind > 0:
		r.Verdict, r.Exit = Failed, 1
		r.Reason = count(t.Fail+t.Blind, "case") + fmt.Sprintf(" of %d did not hold: ", len(r.Cases)) + names(r.Cases, Fail, Blind)
		if t.Error > 0 {
			r.Reason += fmt.Sprintf("; %d more could not be judged", t.Error)
		}
	case len(r.Regressions) > 0:
		r.Verdict, r.Exit = Failed, 1
		r.Reason = count(len(r.Regressions), "regression") + " since the baseline: " + firstLine(r.Regressions[0], "unnamed") + more(len(r.Regressions)-1)
	case r.Interrupted:
		r.Verdict, r.Exit = Interrupted, 3
		r.Reason = "interrupted after " + count(t.Pass, "passed case")
		if t.Error > 0 {
			r.Reason += fmt.Sprintf(", %d could not be judged", t.Error)
		}
	default:
		if why := r.unjudged(ran); len(why) > 0 {
			r.Verdict, r.Exit = Errored, 3
			r.Reason = "could not judge: " + strings.Join(why, "; ")
			return
		}
		r.Verdict, r.Exit = Passed, 0
		r.Reason = fmt.Sprintf("%s passed, %d of %d controls caught", count(t.Pass, "case"), t.Caught, t.Controls)
		if t.Skip > 0 {
			r.Reason += fmt.Sprintf(", %d skipped", t.Skip)
		}
	}
}

// unjudged lists why a run without a failure still is no pass. The first cause comes first: a bring-up that died explains
// why nothing ran.
func (r *Run) unjudged(ran int) []string {
	var why []string
	for _, s := range r.BringUp {
		if s.Outcome != "" && s.Outcome != Pass && s.Outcome != Skip {
			why = append(why, fmt.Sprintf("bring-up step %q: %s", s.Name, firstLine(s.Detail, "failed")))
			break
		}
	}
	if n := len(r.Errors); n > 0 {
		why = append(why, firstLine(r.Errors[0], "unnamed error")+more(n-1))
	}
	if r.Totals.Error > 0 {
		why = append(why, count(r.Totals.Error, "case")+" in error: "+names(r.Cases, Error))
	}
	if n := len(r.Leaks); n > 0 {
		why = append(why, count(n, "leak")+": "+firstLine(r.Leaks[0], "unnamed")+more(n-1))
	}
	switch {
	case len(r.Cases) == 0:
		why = append(why, "no case ran")
	case ran == 0:
		why = append(why, "no case ran: all "+fmt.Sprint(len(r.Cases))+" skipped")
	}
	// The runner calls such a case blind or error; a report that says otherwise contradicts itself.
	if t := r.Totals; t.Error == 0 && t.Caught < t.Controls {
		why = append(why, count(t.Controls-t.Caught, "control")+" not caught in cases said to have passed")
	}
	if r.Strict && ran > 0 && r.Totals.Skip > 0 {
		why = append(why, "strict: "+count(r.Totals.Skip, "case")+" skipped: "+names(r.Cases, Skip))
	}
	return why
}

// outcome maps whatever a case says to one of the five outcomes.
func outcome(c Case) string {
	switch c.Outcome {
	case Pass, Fail, Blind, Skip:
		return c.Outcome
	}
	return Error
}

// rank orders outcomes for readers: what needs action first.
func rank(outcome string) int {
	switch outcome {
	case Fail:
		return 0
	case Blind:
		return 1
	case Error:
		return 2
	case Pass:
		return 3
	}
	return 4
}

// names lists the first few different cases with one of these outcomes.
func names(cases []Case, outcomes ...string) string {
	const most = 3
	var out []string
	seen := map[string]bool{}
	for _, o := range outcomes {
		for _, c := range cases {
			if outcome(c) != o || seen[c.Name] {
				continue
			}
			seen[c.Name] = true
			if len(out) < most {
				name := firstLine(c.Name, "unnamed")
				if o == Blind {
					name += " (blind)"
				}
				out = append(out, name)
			}
		}
	}
	return strings.Join(out, ", ") + more(len(seen)-len(out))
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
