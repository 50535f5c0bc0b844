// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"harness.example/harness/loadgen"
)

func TestCheckWorkers(t *testing.T) {
	for _, tt := range []struct {
		workers int
		from    string
		want    string
	}{
		{0, fromHost, ""}, {1, fromPod, ""}, {8, fromMesh, ""}, {maxWorkers, fromPod, ""},
		{1, fromHost, "--from is host"}, {-1, fromPod, "--workers -1 is out of range"}, {maxWorkers + 1, fromPod, "--workers 1001 is out of range"},
	} {
		err := (&loadFlags{workers: tt.workers, from: tt.from}).checkWorkers()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d from %s: %v, want %q", tt.workers, tt.from, err, tt.want)
		}
	}
}

func TestPrintWorkers(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out}
	a.printWorkers(&loadgen.Result{})
	if out.Len() > 0 {
		t.Errorf("a load from one place says %q", out.String())
	}
	from := time.Unix(1000, 0)
	a.printWorkers(&loadgen.Result{
		Workers: []loadgen.Worker{{Index: 1, Pod: "workers-1-x", Node: "node-2", Planned: 20, Sent: 19, OK: 18, Clock: -time.Millisecond, ClockError: 500 * time.Microsecond, Verdict: loadgen.Invalid}},
		Common:  &loadgen.Span{From: from, To: from.Add(1500 * time.Millisecond)},
	})
	for _, want := range []string{"1       20       19    18  0s", "-1.0ms ±0.5  INVALID  workers-1-x  node-2", "all workers were at work for 1.5s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}
