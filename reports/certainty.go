// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// certainty says in short how sure the verdict is and how fast changes were live.
func certainty(r Run) []string {
	var out []string
	for _, f := range certaintyFacts(r) {
		out = append(out, f.Name+" "+f.Value)
	}
	return out
}

func certaintyFacts(r Run) []fact {
	var out []fact
	switch {
	case r.Alpha > 0:
		out = append(out, fact{"chance of a false alarm", fmt.Sprintf("at most %.2g", r.Alpha)})
	case len(r.Cases) > 0:
		out = append(out, fact{"chance of a false alarm", "none, every verdict is exact"})
	}
	if d := r.Live; d != nil {
		out = append(out, fact{"apply to live", fmt.Sprintf("p50 %s, p90 %s, max %s over %d changes", seconds(d.P50), seconds(d.P90), seconds(d.Max), d.N)})
	}
	return out
}

// slowestCases is how many cases the table of the slowest has.
const slowestCases = 10

func slowest(cases []Case) []Case {
	out := slices.Clone(cases)
	slices.SortStableFunc(out, func(a, b Case) int { return cmp.Compare(b.Seconds, a.Seconds) })
	return out[:min(len(out), slowestCases)]
}

// spent says where a case's time went, longest part first.
func spent(c Case) string {
	phases := slices.Clone(c.Phases)
	slices.SortStableFunc(phases, func(a, b Phase) int { return cmp.Compare(b.Seconds, a.Seconds) })
	var out []string
	for _, p := range phases {
		name := firstLine(p.Name, "unnamed")
		if name == "controls" {
			name = fmt.Sprintf("%d controls", len(c.Controls))
		}
		out = append(out, name+" "+seconds(p.Seconds))
	}
	return strings.Join(out, ", ")
}

// Part is the asserted part of the kind's fields, as a percentage.
func (c Coverage) Part() string {
	return fmt.Sprintf("%.0f %%", 100*float64(c.Asserted)/float64(max(c.Asserted+c.Used+c.Absent, 1)))
}
