// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSettle(t *testing.T) {
	c := func(outcomes ...string) []Case {
		var out []Case
		for i, o := range outcomes {
			out = append(out, Case{Name: "Case/" + string(rune('A'+i)), Outcome: o})
		}
		return out
	}
	missed := []Case{{Name: "A", Outcome: Pass, Controls: []Control{{Outcome: Caught}, {Outcome: Missed}}}}
	tests := []struct {
		name    string
		run     Run
		verdict string
		exit    int
		says    string
	}{
		{"all pass", Run{Cases: c(Pass, Pass)}, Passed, 0, "2 cases passed"},
		{"one pass, one skip", Run{Cases: c(Pass, Skip)}, Passed, 0, "1 case passed, 0 of 0 controls caught, 1 skipped"},
		{"strict skip", Run{Strict: true, Cases: c(Pass, Skip)}, Errored, 3, "strict: 1 case skipped: Case/B"},
		{"strict without a skip", Run{Strict: true, Cases: c(Pass)}, Passed, 0, "1 case passed"},
		{"one fail", Run{Cases: c(Pass, Fail)}, Failed, 1, "1 case of 2 did not hold: Case/B"},
		{"blind is failed", Run{Cases: c(Blind)}, Failed, 1, "Case/A (blind)"},
		{"fail outweighs error, leak and interrupt", Run{Cases: c(Fail, Error), Leaks: []string{"ns"}, Interrupted: true}, Failed, 1, "1 more could not be judged"},
		{"error", Run{Cases: c(Pass, Error)}, Errored, 3, "1 case in error: Case/B"},
		{"outcome nobody knows", Run{Cases: c("ok")}, Errored, 3, "1 case in error"},
		{"no outcome", Run{Cases: c(Pass, "")}, Errored, 3, "Case/B"},
		{"leak", Run{Cases: c(Pass), Leaks: []string{"namespace x", "y"}}, Errored, 3, "2 leaks: namespace x and 1 more"},
		{"error outside a case", Run{Cases: c(Pass), Errors: []string{"clean-up: timeout"}}, Errored, 3, "clean-up: timeout"},
		{"nothing", Run{}, Errored, 3, "no case ran"},
		{"only skips", Run{Cases: c(Skip, Skip)}, Errored, 3, "no case ran: all 2 skipped"},
		{"bring-up died", Run{BringUp: []Step{{Name: "a", Outcome: Pass}, {Name: "nodes", Outcome: Error, Detail: "no cgroups\nmore"}}}, Errored, 3, `bring-up step "nodes": no cgroups; no case ran`},
		{"interrupted", Run{Cases: c(Pass, Error), Interrupted: true}, Interrupted, 3, "interrupted after 1 passed case, 1 could not be judged"},
		{"interrupted before anything", Run{Interrupted: true}, Interrupted, 3, "after 0 passed cases"},
		{"a pass with a missed control", Run{Cases: missed}, Errored, 3, "1 control not caught"},
		{"many failures", Run{Cases: c(Fail, Fail, Fail, Blind, Fail)}, Failed, 1, "Case/A, Case/B, Case/C and 2 more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.run
			for range 2 { // settling again changes nothing
				r.Settle()
				if r.Verdict != tt.verdict || r.Exit != tt.exit || !strings.Contains(r.Reason, tt.says) {
					t.Errorf("got %s, exit %d, %q; want %s, exit %d, containing %q", r.Verdict, r.Exit, r.Reason, tt.verdict, tt.exit, tt.says)
				}
				if r.APIVersion != APIVersion || r.Kind != Kind {
					t.Errorf("identity is %q %q", r.APIVersion, r.Kind)
				}
			}
		})
	}
}

func TestTally(t *testing.T) {
	got := Tally(sample().Cases)
	want := Totals{Pass: 3, Fail: 2, Blind: 1, Error: 2, Skip: 1, Controls: 4, Caught: 3, KillRate: 0.75}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if k := Tally(nil).KillRate; k != 0 {
		t.Errorf("kill rate without controls is %v", k)
	}
}

func TestBarOutside(t *testing.T) {
	for _, b := range []Bar{{"", 1, 0, 0, 0}, {"", 9, 10, 20, 15}, {"", 21, 10, 20, 15}, {"", math.NaN(), 0, 1, 0}} {
		if !b.Outside() {
			t.Errorf("%+v is said to be inside", b)
		}
	}
	for _, b := range []Bar{{"", 0, 0, 0, 0}, {"", 10, 10, 20, 15}, {"", 20, 10, 20, 15}} {
		if b.Outside() {
			t.Errorf("%+v is said to be outside", b)
		}
	}
}
