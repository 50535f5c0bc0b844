// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import "time"

// Outcome is how a case ended.
type Outcome string

// The outcomes of a case.
const (
	Pass    Outcome = "pass"  // the check held, and failed under every control
	Failed  Outcome = "fail"  // the cluster was seen to behave otherwise
	Blind   Outcome = "blind" // the check held although its object was broken: it proves nothing
	Errored Outcome = "error" // could not be judged
	Skipped Outcome = "skip"  // the cluster lacks what the case needs
)

// The outcomes of a control. An error is no catch.
const (
	Caught = "caught"
	Missed = "missed"
)

// Result is one attempt at one case.
type Result struct {
	Case         Case
	Attempt      int // from 1
	Outcome      Outcome
	Reason       string // one line; empty on a pass
	Started      time.Time
	Elapsed      time.Duration
	Phases       []Phase
	Want, Got    string
	Distribution []Bar
	Controls     []ControlResult
	Figures      []Figure
	Series       []Series
	Loads        []Load
	Notes        []string
	Evidence     []Evidence
}

// Phase is a named part of a case's time.
type Phase struct {
	Name    string
	Elapsed time.Duration
}

// ControlResult says what the check made of one break.
type ControlResult struct {
	Break, Fails string
	Outcome      string // Caught, Missed or "error"
	Got          string // what the check said
	Reason       string // why it is not a catch
	Elapsed      time.Duration
	Live         time.Duration // from the break to its proof on every proxy; 0 = never proved
}

// Evidence is one file that helps to understand a result.
type Evidence struct {
	Name string // file name, with / for folders
	Body string
}

// phase times do and appends it to the result.
func (r *Result) phase(name string, do func() error) error {
	start := time.Now()
	err := do()
	r.Phases = append(r.Phases, Phase{Name: name, Elapsed: time.Since(start)})
	return err
}

// adopt takes over what the check recorded.
func (r *Result) adopt(rec record) {
	r.Figures = append(r.Figures, rec.figures...)
	r.Series = append(r.Series, rec.series...)
	r.Loads = append(r.Loads, rec.loads...)
	r.Notes = append(r.Notes, rec.notes...)
}
