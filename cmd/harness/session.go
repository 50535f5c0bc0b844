// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"harness.example/harness/cluster"
	"harness.example/harness/reports"
	"harness.example/harness/suites"
)

// session is one run: what is known of it, kept on disk as it goes on, and its report at the end. It touches no file before
// the network namespace is entered, because entering starts the command again.
type session struct {
	a *app
	t *testFlags
	p *progress

	dir     string
	mu      sync.Mutex // cases end in several goroutines
	run     reports.Run
	journal *reports.Journal

	comparison reports.Comparison // with the baseline, if there is one
}

func (a *app) newSession(what string, t *testFlags) *session {
	now := time.Now()
	s := &session{a: a, t: t, p: a.progress(), run: reports.Run{
		ID: newRunID(now), Name: t.label(what), Started: now, Command: append([]string{"harness"}, a.args...), Seed: t.seed, Strict: t.strict,
		Environment: ownEnvironment(), Cases: []reports.Case{},
	}}
	if a.resumed != nil && a.resumed.ID != "" {
		s.run.ID, s.run.Started = a.resumed.ID, a.resumed.Started
	}
	s.dir = filepath.Join(t.reportDir, s.run.ID)
	return s
}

// newRunID is unique on one cluster and fit for a label's value and a directory's name; it sorts by time.
func newRunID(now time.Time) string {
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	return now.UTC().Format("20060102-150405-") + hex.EncodeToString(b)
}

// ownEnvironment is what is known before there is a cluster.
func ownEnvironment() reports.Environment {
	host, _ := os.Hostname() // a nameless host is an empty field
	return reports.Environment{Harness: version, Commit: commit, Go: runtime.Version(), Host: fmt.Sprintf("%s %s/%s", host, runtime.GOOS, runtime.GOARCH)}
}

// conduct runs body and leaves a report however it ends: error, interrupt or panic. Only a usage error leaves none: nothing
// was run.
func (s *session) conduct(ctx context.Context, body func(context.Context) error) error {
	err := guard(func() error { return body(ctx) })
	s.p.close()
	if known := (*failure)(nil); errors.As(err, &known) && known.code == exitUsage {
		return errors.Join(err, s.close())
	}
	s.note(ctx, err)
	s.cover()
	s.compare()
	s.run.Settle()
	if s.journal != nil {
		s.problem(s.journal.End(s.run))
	}
	// When files could not be written, the summary below still goes out and says so.
	s.problem(reports.Write(s.dir, s.run))
	s.run.Settle()
	if err := s.print(); err != nil {
		return fmt.Errorf("print the summary: %w", err)
	}
	// Trouble outside the cases is said on standard error too, with what to do about it.
	if err != nil && !s.run.Interrupted {
		f := &failure{code: s.run.Exit, err: err}
		if known := (*failure)(nil); errors.As(err, &known) {
			f.hint = known.hint
		}
		return f
	}
	return silent(s.run.Exit)
}

// cover says what the cases that passed assert of the APIs' fields.
func (s *session) cover() {
	passed := map[string]bool{}
	for _, c := range s.run.Cases {
		before, seen := passed[c.Name]
		passed[c.Name] = c.Outcome == reports.Pass && (before || !seen)
	}
	cases := slices.DeleteFunc(slices.Clone(s.t.cases), func(c suites.Case) bool { return !passed[c.Name] })
	if len(cases) == 0 {
		return
	}
	coverage, err := coverageOf(cases)
	s.problem(err)
	s.run.Coverage = coverage
}

// close ends the journal of a run that has no report.
func (s *session) close() error {
	if s.journal == nil {
		return nil
	}
	return s.journal.Close()
}

// guard turns a panic into an error with its stack, so that clean-up and report still happen.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

// note writes into the run how its work ended.
func (s *session) note(ctx context.Context, err error) {
	s.run.Ended = time.Now()
	switch {
	case ctx.Err() != nil:
		s.run.Interrupted = true
		// Every wait that the interrupt ended says so; only what is more than that is news.
		if err != nil && !errors.Is(err, context.Canceled) {
			s.problem(err)
		}
	// A step of bring-up that failed says the same already.
	case err != nil && slices.ContainsFunc(s.run.BringUp, func(step reports.Step) bool {
		return step.Outcome == reports.Error && step.Detail != "" && strings.Contains(err.Error(), step.Detail)
	}):
	default:
		s.problem(err)
	}
}

// problem records trouble outside any case.
func (s *session) problem(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := err.Error(); !slices.Contains(s.run.Errors, text) {
		s.run.Errors = append(s.run.Errors, text)
	}
}

// interim writes the report as it stands.
func (s *session) interim(ctx context.Context, err error) {
	s.mu.Lock()
	copied := s.run
	copied.Errors = slices.Clone(s.run.Errors)
	s.mu.Unlock()
	copied.Ended = time.Now()
	copied.Interrupted = ctx.Err() != nil
	if err != nil && !copied.Interrupted {
		copied.Errors = append(copied.Errors, err.Error())
	}
	s.problem(reports.Write(s.dir, copied, "json"))
}

// bringUp records how the environment came up.
func (s *session) bringUp(events []cluster.Event) { s.run.BringUp = stepsOf(events) }

// judge runs the cases on the cluster and keeps each result as it comes.
func (s *session) judge(ctx context.Context, access *cluster.Access) error {
	target := targetOf(access)
	s.run.Environment = environmentOf(s.run.Environment, access)
	journal, err := reports.OpenJournal(s.dir, s.run)
	if err != nil {
		return &failure{code: exitUnjudged, err: err, hint: "choose a directory that can be written with --report-dir"}
	}
	s.journal = journal
	s.p.line("Run %s: %s on %s", s.run.ID, plural(len(s.t.cases), "case"), access.Context)
	return suites.Run(ctx, target, s.t.cases, suites.Options{
		Run: s.run.ID, Seed: s.t.seed, Repeat: s.t.repeat, Parallel: s.t.parallel, FailFast: s.t.failFast,
		Done: s.done,
	})
}

// done keeps and shows one result.
func (s *session) done(r suites.Result) {
	c := caseOf(r)
	c.Rerun = s.rerun(c)
	s.problem(s.journal.Append(c))
	s.mu.Lock()
	s.run.Cases = append(s.run.Cases, c)
	s.mu.Unlock()
	for _, line := range testLines(c, s.a.verbose) {
		s.p.line("%s", line)
	}
}

// rerun is the one command that runs just this case again, on the same cluster and with the same seed.
func (s *session) rerun(c reports.Case) string {
	words := []string{"harness", "test", "'^" + c.Name + "$'"}
	e := s.t.env
	for _, f := range []struct{ flag, value, usual string }{
		{"--name", e.own.Name, "harness"}, {"--kubeconfig", e.attach.Kubeconfig, ""}, {"--context", e.attach.Context, ""},
		{"--image", e.attach.Image, ""}, {"--gateway", e.attach.Gateway, ""},
	} {
		if f.value != f.usual {
			words = append(words, f.flag, f.value)
		}
	}
	if e.disruptive {
		words = append(words, "--disruptive")
	}
	if s.t.seed != 0 {
		words = append(words, fmt.Sprintf("--shuffle=%d", s.t.seed))
	}
	return strings.Join(words, " ")
}

// testLines shows a result as `go test -v` would, so that what counts tests can count cases.
func testLines(c reports.Case, verbose bool) []string {
	name := c.Name
	if c.Attempt > 1 {
		name = fmt.Sprintf("%s#%02d", c.Name, c.Attempt)
	}
	lines := []string{fmt.Sprintf("--- %s: %s (%.2fs)", testWord(c.Outcome), name, c.Seconds)}
	if c.Outcome != reports.Pass && c.Reason != "" {
		lines = append(lines, "    "+c.Outcome+": "+oneLine(c.Reason))
	}
	for _, k := range c.Controls {
		word, said := "PASS", k.Got
		if k.Outcome != reports.Caught {
			word, said = "FAIL", k.Reason
		} else if !verbose {
			said = cut(oneLine(said), 100)
		}
		lines = append(lines, fmt.Sprintf("    --- %s: %s/control/%s (%.2fs) %s: %s", word, name, oneLine(k.Break), k.Seconds, k.Outcome, oneLine(said)))
	}
	return lines
}

func testWord(outcome string) string {
	switch outcome {
	case reports.Pass:
		return "PASS"
	case reports.Skip:
		return "SKIP"
	}
	return "FAIL"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// print writes the run's result to standard output: the summary, where the report is, and the counts alone on the last line.
func (s *session) print() error {
	w := s.a.stdout
	if err := reports.Console(w, s.run, colored(w)); err != nil {
		return err
	}
	if s.t.old != nil {
		if err := s.comparison.Text(w); err != nil {
			return err
		}
	}
	t := s.run.Totals
	word := "ok  "
	if s.run.Exit != exitOK {
		word = "FAIL"
	}
	fmt.Fprintf(w, "Report: %s\n", filepath.Join(s.dir, "index.html"))
	fmt.Fprintf(w, "%s\tharness\t%.3fs\n", word, s.run.Ended.Sub(s.run.Started).Seconds())
	_, err := fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", t.Pass, t.Fail+t.Blind+t.Error, t.Skip)
	return err
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
