// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"harness.example/harness/reports"
	"harness.example/harness/suites"
)

// sampleSession is a session whose report goes to a temporary directory.
func sampleSession(t *testing.T) (s *session, stdout, stderr *bytes.Buffer) {
	t.Helper()
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	a := &app{stdout: stdout, stderr: stderr, args: []string{"test"}, logFormat: "text"}
	flags := &testFlags{reportDir: t.TempDir(), repeat: 1}
	flags.env.own.Name = "harness"
	return a.newSession("test", flags), stdout, stderr
}

// exitOf is the exit code that an error leads to.
func exitOf(err error) int { return (&app{stderr: &bytes.Buffer{}}).exit(err) }

func TestReportExistsHoweverTheRunEnds(t *testing.T) {
	boom := errors.New("disk full")
	for name, c := range map[string]struct {
		body    func(context.Context, *session, context.CancelFunc) error
		exit    int
		verdict string
		says    string
	}{
		"error": {
			func(context.Context, *session, context.CancelFunc) error { return boom },
			3, reports.Errored, "disk full",
		},
		"panic": {
			func(context.Context, *session, context.CancelFunc) error { panic("index out of range") },
			3, reports.Errored, "panic: index out of range",
		},
		"interrupt": {
			func(ctx context.Context, _ *session, cancel context.CancelFunc) error { cancel(); return ctx.Err() },
			3, reports.Interrupted, "interrupted",
		},
		"interrupt and trouble": {
			func(_ context.Context, _ *session, cancel context.CancelFunc) error { cancel(); return boom },
			3, reports.Interrupted, "interrupted",
		},
		"nothing ran": {
			func(context.Context, *session, context.CancelFunc) error { return nil },
			3, reports.Errored, "no case ran",
		},
		"leak": {
			func(_ context.Context, s *session, _ context.CancelFunc) error {
				s.run.Cases = append(s.run.Cases, reports.Case{Name: "Service/ClusterIP", Outcome: reports.Pass})
				s.run.Leaks = []string{"container harness-worker"}
				return nil
			},
			3, reports.Errored, "leak",
		},
		"fail": {
			func(_ context.Context, s *session, _ context.CancelFunc) error {
				s.run.Cases = append(s.run.Cases, reports.Case{Name: "Service/ClusterIP", Outcome: reports.Fail})
				return nil
			},
			1, reports.Failed, "Service/ClusterIP",
		},
		"pass": {
			func(_ context.Context, s *session, _ context.CancelFunc) error {
				s.run.Cases = append(s.run.Cases, reports.Case{Name: "Service/ClusterIP", Outcome: reports.Pass})
				return nil
			},
			0, reports.Passed, "1 case passed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, stdout, _ := sampleSession(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := s.conduct(ctx, func(ctx context.Context) error { return c.body(ctx, s, cancel) })
			if got := exitOf(err); got != c.exit {
				t.Errorf("exit code %d, want %d (%v)", got, c.exit, err)
			}
			r, err := reports.Read(s.dir)
			if err != nil {
				t.Fatal(err)
			}
			if r.Exit != c.exit || r.Verdict != c.verdict || !strings.Contains(r.Reason+strings.Join(r.Errors, "\n"), c.says) {
				t.Errorf("report says %q, exit %d: %s; want %q, exit %d, %q", r.Verdict, r.Exit, r.Reason, c.verdict, c.exit, c.says)
			}
			if _, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(s.dir), "latest")); err != nil {
				t.Error(err)
			}
			lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
			if last := lines[len(lines)-1]; !strings.HasSuffix(last, " skipped") {
				t.Errorf("the last line is %q, want the counts", last)
			}
		})
	}
}

func TestUsageErrorLeavesNoReport(t *testing.T) {
	s, stdout, _ := sampleSession(t)
	err := s.conduct(t.Context(), func(context.Context) error { return usage("", "no such thing") })
	if exitOf(err) != exitUsage {
		t.Errorf("exit code %d, want %d", exitOf(err), exitUsage)
	}
	if _, err := reports.Read(s.dir); err == nil || stdout.Len() > 0 {
		t.Errorf("a report was written (%v) or something printed: %q", err, stdout)
	}
}

func TestResultsAreJournaledAsTheyCome(t *testing.T) {
	s, _, stderr := sampleSession(t)
	journal, err := reports.OpenJournal(s.dir, s.run)
	if err != nil {
		t.Fatal(err)
	}
	s.journal = journal
	s.done(suites.Result{Case: suites.All()[0]})
	s.p.close()
	// As after a kill: nothing was closed.
	r, err := reports.Rebuild(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Cases) != 1 || r.Cases[0].Name != suites.All()[0].Name || !r.Interrupted {
		t.Errorf("rebuilt %d cases, interrupted %v; want the one that ended, in an interrupted run", len(r.Cases), r.Interrupted)
	}
	if want := "--- FAIL: " + suites.All()[0].Name; !strings.Contains(stderr.String(), want) {
		t.Errorf("no line %q in %q: a result without an outcome is no pass", want, stderr)
	}
	if err := journal.Close(); err != nil {
		t.Error(err)
	}
}

func TestTestLines(t *testing.T) {
	c := reports.Case{
		Name: "Service/ClusterIP", Outcome: reports.Blind, Reason: "missed\na control", Seconds: 1.234, Attempt: 2,
		Controls: []reports.Control{
			{Break: "delete Service", Outcome: reports.Caught, Got: "refused"},
			{Break: "Service spec.type=NodePort", Outcome: reports.Missed, Reason: "the check held"},
		},
	}
	want := []string{
		"--- FAIL: Service/ClusterIP#02 (1.23s)",
		"    blind: missed a control",
		"    --- PASS: Service/ClusterIP#02/control/delete Service (0.00s) caught: refused",
		"    --- FAIL: Service/ClusterIP#02/control/Service spec.type=NodePort (0.00s) missed: the check held",
	}
	if got := testLines(c, true); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRerunNamesTheClusterAndTheSeed(t *testing.T) {
	s, _, _ := sampleSession(t)
	defer s.p.close()
	s.t.env.attach.Context, s.t.seed = "staging", 7
	want := "harness test '^Gateway/HTTP$' --context staging --shuffle=7"
	if got := s.rerun(reports.Case{Name: "Gateway/HTTP"}); got != want {
		t.Errorf("rerun %q, want %q", got, want)
	}
}

func TestResumedTravelsOnce(t *testing.T) {
	t.Setenv(resumeVariable, `{"id":"r1","started":"2030-01-01T00:00:00Z","steps":[{"Step":"images","State":"done"}]}`)
	r, err := takeResumed()
	if err != nil || r.ID != "r1" || len(r.Steps) != 1 {
		t.Fatalf("got %+v, %v", r, err)
	}
	if again, err := takeResumed(); again != nil || err != nil {
		t.Errorf("a child would resume too: %+v, %v", again, err)
	}
}

func TestParseSLO(t *testing.T) {
	slo, err := parseSLO("p99<20ms, error<0.1%")
	if err != nil || slo.P99.String() != "20ms" || slo.ErrorRate < 0.000999 || slo.ErrorRate > 0.001001 {
		t.Errorf("got %+v, %v", slo, err)
	}
	if slo, err := parseSLO("p99<1s"); err != nil || slo.ErrorRate != 1 {
		t.Errorf("an objective that is not named is judged: %+v, %v", slo, err)
	}
	for _, bad := range []string{"", "p99", "p99<-1s", "p99<x", "error<1", "error<101%", "error<NaN%", "p50<1s"} {
		if slo, err := parseSLO(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, slo)
		}
	}
}
