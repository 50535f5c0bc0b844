// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package reports holds a run as plain, versioned data and renders it: one function per format, all from the same value.
//
// report.json is the source of truth; every other file can be rendered again from it. Within one APIVersion the data only
// grows: fields are added, never renamed or given another meaning, so readers ignore what they do not know.
package reports

import (
	"time"
)

// APIVersion and Kind identify a report file. Read accepts nothing else.
const (
	APIVersion = "harness.example/v1"
	Kind       = "RunReport"
)

// Outcomes of a case. Anything else found in Case.Outcome, the empty string included, counts as Error: a case that never
// said how it ended has not passed.
const (
	Pass  = "pass"  // judged, held, and every control was caught
	Fail  = "fail"  // judged, did not hold
	Blind = "blind" // held, but a control was missed: the check cannot fail, so its pass means nothing
	Error = "error" // could not be judged
	Skip  = "skip"  // not applicable here; Reason says why
)

// Outcomes of a control.
const (
	Caught = "caught" // the check failed on the broken fixture, and for the stated reason
	Missed = "missed" // the check did not notice
	// A control whose outcome is Error could not be judged; that is no catch.
)

// Verdicts of a run.
const (
	Passed      = "passed"
	Failed      = "failed"
	Errored     = "error"
	Interrupted = "interrupted"
)

// Run is everything one run found out. Fill it, call Settle, hand it to Write or to a format.
type Run struct {
	APIVersion string `json:"apiVersion" jsonschema:"enum=harness.example/v1"`
	Kind       string `json:"kind" jsonschema:"enum=RunReport"`
	// ID is unique for each run, and usually the name of its directory.
	ID string `json:"id"`
	// Name says what ran, for people: "e2e on kind", "nightly".
	Name    string    `json:"name"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// Verdict, Exit, Reason and Totals are filled by Settle.
	Verdict string `json:"verdict" jsonschema:"enum=passed,enum=failed,enum=error,enum=interrupted"`
	// Exit is the process's exit code: 0 passed, 1 failed, 3 could not be judged.
	Exit int `json:"exit"`
	// Reason is the verdict as one sentence.
	Reason string `json:"reason"`
	// Command is the argument vector that started the run.
	Command []string `json:"command,omitempty"`
	// Seed decided the order of cases and everything random; a string in JSON because it uses all 64 bits.
	Seed uint64 `json:"seed,string"`
	// Strict makes a skipped case an unjudged one.
	Strict bool `json:"strict,omitempty"`
	// Interrupted says that the run was stopped before every selected case had ended.
	Interrupted bool        `json:"interrupted,omitempty"`
	Environment Environment `json:"environment"`
	BringUp     []Step      `json:"bringUp,omitempty"`
	Cases       []Case      `json:"cases"`
	Totals      Totals      `json:"totals"`
	// Alpha bounds the chance that a healthy cluster fails this run by bad luck: the sum over all judged cases. Settle fills it.
	Alpha float64 `json:"alpha,omitempty"`
	// Live is how long it took from a change applied to its proof on every proxy, over all cases and controls. Settle fills it.
	Live *Durations `json:"live,omitempty"`
	// Coverage says what the cases that passed assert of the APIs' fields, kind by kind.
	Coverage []Coverage `json:"coverage,omitempty"`
	// Regressions are what became worse since the baseline that the run was compared with, one line each.
	Regressions []string `json:"regressions,omitempty"`
	// Leaks are the things the run made and could not remove, one line each.
	Leaks []string `json:"leaks,omitempty"`
	// Errors are what went wrong outside any case (bring-up, clean-up, evidence that could not be kept), one line each.
	Errors []string `json:"errors,omitempty"`
}

// Environment is the fingerprint: what must be equal for two runs to be compared. An unknown value is empty.
type Environment struct {
	Kubernetes string `json:"kubernetes,omitempty"`
	Istio      string `json:"istio,omitempty"`
	Envoy      string `json:"envoy,omitempty"`
	Harness    string `json:"harness,omitempty"`
	Commit     string `json:"commit,omitempty"`
	Go         string `json:"go,omitempty"`
	Host       string `json:"host,omitempty"`
	// Images says where images came from, with a digest over their references where known.
	Images string `json:"images,omitempty"`
	// Provider is what runs the nodes: "podman", "docker", or "attached" for a cluster that was already there.
	Provider string `json:"provider,omitempty"`
	// Source is the kubeconfig context or the cluster's name.
	Source string `json:"source,omitempty"`
	Nodes  int    `json:"nodes,omitempty"`
}

// Step is one step of bringing the environment up.
type Step struct {
	Name    string    `json:"name"`
	Started time.Time `json:"started,omitzero"`
	Seconds float64   `json:"seconds"`
	// Outcome is Pass, Error or Skip.
	Outcome string `json:"outcome,omitempty" jsonschema:"enum=pass,enum=error,enum=skip"`
	Detail  string `json:"detail,omitempty"`
	// Parent is the name of the step this one is part of; empty for a step of the first level.
	Parent string `json:"parent,omitempty"`
}

// Case is one attempt at one case.
type Case struct {
	// Name is unique within a run for each Attempt: "DestinationRule/RoundRobin".
	Name string `json:"name"`
	// Resource is the kind the case is about: "DestinationRule".
	Resource string `json:"resource,omitempty"`
	// Doc says what the case proves.
	Doc     string `json:"doc,omitempty"`
	Outcome string `json:"outcome" jsonschema:"enum=pass,enum=fail,enum=blind,enum=error,enum=skip"`
	// Reason is one line: what was observed and what was expected; or why it was skipped or could not be judged.
	Reason string `json:"reason,omitempty"`
	// Attempt counts from 1; 0 means 1.
	Attempt int       `json:"attempt,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Seconds float64   `json:"seconds"`
	// Phases, in order: apply, live, check, controls, clean-up.
	Phases []Phase `json:"phases,omitempty"`
	// Judged says how the verdict was reached: the test, its α, n and power.
	Judged string `json:"judged,omitempty"`
	// Samples are the parts of the judgement that chance can fool; none means that the verdict is exact.
	Samples []Sample `json:"samples,omitempty"`
	// Covers lists the API fields the case exercises: "DestinationRule.spec.host".
	Covers   []string          `json:"covers,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Controls []Control         `json:"controls,omitempty"`
	Want     string            `json:"want,omitempty"`
	Got      string            `json:"got,omitempty"`
	// Distribution is what each backend (or version, or code) received.
	Distribution []Bar    `json:"distribution,omitempty"`
	Evidence     []File   `json:"evidence,omitempty"`
	Timeline     []Series `json:"timeline,omitempty"`
	Figures      []Figure `json:"figures,omitempty"`
	Load         []Load   `json:"load,omitempty"`
	// Rerun is the one command that runs just this case again.
	Rerun string `json:"rerun,omitempty"`
}

// Phase is a part of a case's time.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Control is one deliberate break and what the same check said about it.
type Control struct {
	// Break is what was broken: "loadBalancer.simple=RANDOM".
	Break string `json:"break"`
	// Fails is what the check's mismatch has to contain.
	Fails   string `json:"fails"`
	Outcome string `json:"outcome" jsonschema:"enum=caught,enum=missed,enum=error"`
	// Got is what the check said on the broken fixture; empty if it said nothing.
	Got     string  `json:"got,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	// Live is how many seconds it took until every proxy was proved to serve the break; 0 if it was never proved.
	Live float64 `json:"live,omitempty"`
}

// Sample is one judgement made on N random draws of what Of names. Alpha is the chance that a healthy cluster fails it, Power
// that one whose probability is off by Shift is seen.
type Sample struct {
	Of    string  `json:"of"`
	N     int     `json:"n"`
	Alpha float64 `json:"alpha"`
	Power float64 `json:"power"`
	Shift float64 `json:"shift"`
}

// Durations is a distribution of times, in seconds.
type Durations struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	Max float64 `json:"max"`
}

// States of a field.
const (
	Asserted = "asserted" // a case fails when the field is not obeyed
	Used     = "used"     // a manifest sets it, no case asserts it
	Absent   = "absent"   // no manifest sets it
)

// Coverage is what the cases make of one kind's fields.
type Coverage struct {
	Kind     string  `json:"kind"`
	Asserted int     `json:"asserted"`
	Used     int     `json:"used"`
	Absent   int     `json:"absent"`
	Fields   []Field `json:"fields,omitempty"`
}

// Field is one leaf field of an API and the cases that assert it, or else use it.
type Field struct {
	Path  string   `json:"path"`
	State string   `json:"state" jsonschema:"enum=asserted,enum=used,enum=absent"`
	Cases []string `json:"cases,omitempty"`
}

// Bar is one row of a distribution. Counts are requests or connections. Low and High are the inclusive band in which
// Count is as expected. When every bar of a distribution has Low = High = Expected = 0, nothing was expected.
type Bar struct {
	Name     string  `json:"name"`
	Count    float64 `json:"count"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
	Expected float64 `json:"expected"`
}

// Outside says whether the count lies outside its band.
func (b Bar) Outside() bool { return !(b.Count >= b.Low && b.Count <= b.High) }

// File is one piece of evidence. Give Name and Body; Write and Journal.Append store Body under the run's directory, set Path,
// and keep Body only while it is at most MaxInline bytes.
type File struct {
	Name string `json:"name"`
	// Path is relative to the run's directory, with slashes. A file with a Path is already stored.
	Path string `json:"path,omitempty"`
	Body string `json:"body,omitempty"`
}

// MaxInline is the size in bytes up to which evidence is also kept inside report.json.
const MaxInline = 8 << 10

// Series is one line of a timeline; series of a case share one time axis. Lines in "replicas" or "pods" are drawn as steps.
type Series struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit,omitempty"`
	Points []Point `json:"points,omitempty"`
}

// Point is a value at a time in seconds since the series' common zero.
type Point struct {
	At    float64 `json:"at"`
	Value float64 `json:"value"`
}

// Figure is one measured number.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
}

// Load is one load run. Latencies are milliseconds from the scheduled start of each request; nil when there were too few
// requests to state that quantile.
type Load struct {
	Name string `json:"name"`
	// Planned = Sent + Unsent; Sent = OK + Errors.
	Planned uint64   `json:"planned"`
	Sent    uint64   `json:"sent"`
	Unsent  uint64   `json:"unsent"`
	OK      uint64   `json:"ok"`
	Errors  uint64   `json:"errors"`
	Seconds float64  `json:"seconds,omitempty"`
	P50     *float64 `json:"p50Ms,omitempty"`
	P90     *float64 `json:"p90Ms,omitempty"`
	P99     *float64 `json:"p99Ms,omitempty"`
	Max     *float64 `json:"maxMs,omitempty"`
	// Verdict is "PASS", "FAIL", or "INVALID" when the generator, not the system, was the limit.
	Verdict   string   `json:"verdict,omitempty"`
	Reason    string   `json:"reason,omitempty"`
	PerSecond []Second `json:"perSecond,omitempty"`
}

// Second is one second of a load run.
type Second struct {
	// At counts seconds from the start of the load.
	At     int      `json:"at"`
	OK     uint64   `json:"ok"`
	Errors uint64   `json:"errors"`
	P99    *float64 `json:"p99Ms,omitempty"`
}

// Totals counts attempts by outcome, and controls.
type Totals struct {
	Pass     int `json:"pass"`
	Fail     int `json:"fail"`
	Blind    int `json:"blind"`
	Error    int `json:"error"`
	Skip     int `json:"skip"`
	Controls int `json:"controls"`
	Caught   int `json:"caught"`
	// KillRate is Caught/Controls, and 0 when there were no controls.
	KillRate float64 `json:"killRate"`
}
