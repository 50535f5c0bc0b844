// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func everything(string) bool { return true }

func caseOf(name, outcome string, controls ...Control) Case {
	return Case{Name: name, Outcome: outcome, Controls: controls}
}

func TestCompare(t *testing.T) {
	caught, missed := Control{Break: "b", Outcome: Caught}, Control{Break: "b", Outcome: "missed"}
	asserted := func(cases ...string) []Coverage {
		return []Coverage{{Kind: "Service", Fields: []Field{{Path: "Service.spec.x", State: Asserted, Cases: cases}}}}
	}
	for _, tt := range []struct {
		name     string
		old, new Run
		selected func(string) bool
		want     []string // kinds of the regressions
		unjudged int
	}{
		{name: "the same", old: Run{Cases: []Case{caseOf("A", Pass, caught)}, Coverage: asserted("A")}, new: Run{Cases: []Case{caseOf("A", Pass, caught)}, Coverage: asserted("A")}},
		{name: "fails", old: Run{Cases: []Case{caseOf("A", Pass)}}, new: Run{Cases: []Case{caseOf("A", Fail)}}, want: []string{NewlyFailing}},
		{name: "fails in one attempt", old: Run{Cases: []Case{caseOf("A", Pass)}}, new: Run{Cases: []Case{caseOf("A", Pass), caseOf("A", Fail), caseOf("A", Pass)}}, want: []string{NewlyFailing}},
		{name: "failed before", old: Run{Cases: []Case{caseOf("A", Fail)}}, new: Run{Cases: []Case{caseOf("A", Fail)}}},
		{name: "mended", old: Run{Cases: []Case{caseOf("A", Fail)}}, new: Run{Cases: []Case{caseOf("A", Pass)}}},
		{name: "blind", old: Run{Cases: []Case{caseOf("A", Pass, caught)}}, new: Run{Cases: []Case{caseOf("A", Blind, missed)}}, want: []string{NewlyBlind}},
		{name: "a control is missed", old: Run{Cases: []Case{caseOf("A", Pass, caught)}}, new: Run{Cases: []Case{caseOf("A", Pass, missed)}}, want: []string{NewlyBlind}},
		{name: "a control is gone", old: Run{Cases: []Case{caseOf("A", Pass, caught)}}, new: Run{Cases: []Case{caseOf("A", Pass)}}, want: []string{Vanished}},
		{name: "a case is gone", old: Run{Cases: []Case{caseOf("A", Pass)}}, new: Run{}, want: []string{Vanished}},
		{name: "a case is yet to run", old: Run{Cases: []Case{caseOf("A", Pass)}}, new: Run{Interrupted: true}},
		{name: "a case was not to run", old: Run{Cases: []Case{caseOf("A", Pass)}}, new: Run{}, selected: func(string) bool { return false }},
		{name: "skipped", old: Run{Cases: []Case{caseOf("A", Pass)}}, new: Run{Cases: []Case{caseOf("A", Skip)}}, want: []string{NewlySkipped}},
		{name: "not judged", old: Run{Cases: []Case{caseOf("A", Pass)}}, new: Run{Cases: []Case{caseOf("A", Error)}}, unjudged: 1},
		{name: "coverage is lost", old: Run{Cases: []Case{caseOf("A", Pass)}, Coverage: asserted("A")}, new: Run{Cases: []Case{caseOf("A", Pass)}}, want: []string{CoverageLost}},
		{name: "coverage of a case that failed", old: Run{Cases: []Case{caseOf("A", Pass)}, Coverage: asserted("A")}, new: Run{Cases: []Case{caseOf("A", Fail)}}, want: []string{NewlyFailing}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.selected == nil {
				tt.selected = everything
			}
			c := Compare(tt.old, tt.new, tt.selected)
			var got []string
			for _, r := range c.Regressions {
				got = append(got, r.Kind)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || len(c.Unjudged) != tt.unjudged {
				t.Errorf("%d not judged; want - got +\n%s", len(c.Unjudged), diff)
			}
			tt.new.Regressions = c.Lines()
			if tt.new.Settle(); len(got) > 0 && !tt.new.Interrupted && tt.new.Exit != 1 {
				t.Errorf("a run with a regression exits %d", tt.new.Exit)
			}
		})
	}
}

func TestCompareShowsAndDoesNotJudge(t *testing.T) {
	old := Run{ID: "one", Environment: Environment{Istio: "1.30"}, Cases: []Case{{Name: "A", Outcome: Pass, Load: []Load{{Name: "l", P99: ms(1)}}}}}
	now := Run{ID: "two", Environment: Environment{Istio: "1.31\x1b[2J"}, Cases: []Case{{Name: "A", Outcome: Pass, Load: []Load{{Name: "l", P99: ms(9)}}}}}
	c := Compare(old, now, everything)
	var b bytes.Buffer
	if err := c.Text(&b); err != nil || len(c.Regressions) > 0 {
		t.Fatalf("%v, %+v", err, c.Regressions)
	}
	for _, want := range []string{"no regression", "1 ms → 9 ms", "1.30 → 1.31"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Error("a control sequence came through")
	}
}
