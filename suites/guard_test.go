// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A panic anywhere in a case's own code is that case's error, and the other cases go on.
func TestPanicsStayInTheirCase(t *testing.T) {
	f := newFakeCluster()
	inDo, inPrepare, fine := roundRobin(f), roundRobin(f), roundRobin(f)
	inDo.Name, inPrepare.Name = "DestinationRule/InDo", "DestinationRule/InPrepare"
	inDo.Controls = []Control{{Break: "a panic", Fails: "not a cycle", Do: func(context.Context, *Env) error { panic("boo") }}}
	inPrepare.Prepare = func(*Env) error { panic("boo") }
	results, err := runFake(t, t.Context(), f, Options{Parallel: 1}, inDo, inPrepare, fine)
	if err != nil || len(results) != 3 {
		t.Fatalf("%v, %d results", err, len(results))
	}
	for i, want := range []string{"the control panicked: boo", "the preparation panicked: boo", ""} {
		if r := results[i]; !strings.Contains(r.Reason, want) || (r.Outcome == Pass) != (want == "") {
			t.Errorf("%s: %s %q, want %q", r.Case.Name, r.Outcome, r.Reason, want)
		}
	}
}

// A case that sleeps hopes; it has to wait for what it needs.
func TestNothingSleeps(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 20 {
		t.Fatalf("%v, %d files", err, len(files))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, pause := range []string{"time.Sleep" + "(", "time.After" + "("} {
			if strings.Contains(string(text), pause) {
				t.Errorf("%s has %s: use Env.Until or Env.within", file, pause)
			}
		}
	}
}
