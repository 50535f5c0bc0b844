// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A Job is one Burst or one Plan, never both.
type Job struct {
	Burst *Burst `json:"burst,omitempty"`
	Plan  *Plan  `json:"plan,omitempty"`
}

// An Output is what a Job came to: the Exchanges of a Burst or the Result of a Plan.
type Output struct {
	Exchanges []Exchange `json:"exchanges,omitempty"`
	Result    *Result    `json:"result,omitempty"`
	Err       string     `json:"err,omitempty"` // the job could not be run, or not to its end
}

func (j Job) check() error {
	if (j.Burst == nil) == (j.Plan == nil) {
		return errors.New("job: exactly one of burst and plan is needed")
	}
	return nil
}

func (j Job) run(ctx context.Context) (out Output, err error) {
	if err := j.check(); err != nil {
		return Output{Err: err.Error()}, err
	}
	if j.Burst != nil {
		out.Exchanges, err = j.Burst.Run(ctx)
	} else {
		out.Result, err = j.Plan.Run(ctx)
	}
	if err != nil {
		out.Err = err.Error()
	}
	return out, err
}

// Work reads one Job as JSON from r, runs it, and writes one Output as JSON to w: the half that runs inside a pod. A job that
// cannot be run is told in Output.Err; an error means that the job could not be read or the output not be written.
func Work(ctx context.Context, r io.Reader, w io.Writer) error {
	job, err := decodeJob(r)
	if err != nil {
		return err
	}
	out, _ := job.run(ctx) // its error is in out
	if err := json.NewEncoder(w).Encode(out); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func decodeJob(r io.Reader) (job Job, err error) {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&job); err != nil {
		return job, fmt.Errorf("read job: %w", err)
	}
	return job, nil
}

// A Runner is where traffic comes from.
type Runner interface {
	// Do runs the job. The error is non-nil when Output.Err is set, and when no output could be had.
	Do(ctx context.Context, job Job) (Output, error)
	// String names the place for people.
	String() string
}

// Host is this process.
type Host struct{}

// Do runs the job here.
func (Host) Do(ctx context.Context, job Job) (Output, error) { return job.run(ctx) }

func (Host) String() string { return "host" }
