// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"harness.example/harness/fixtures"
)

func TestAllCasesAreWellWritten(t *testing.T) {
	cases := All()
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	if err := Validate(fixtures.FS, cases); err != nil {
		t.Error(err)
	}
}

func TestValidateFindsMistakes(t *testing.T) {
	good := Case{
		Name: "Gateway/Good", Doc: "Serves.", Fixture: "gateway/http.yaml", Judged: "exactly", Covers: []string{"Gateway.spec"},
		Check:    func(context.Context, *Env) error { return nil },
		Controls: []Control{{Break: "delete Gateway", Fails: "404"}},
	}
	for want, change := range map[string]func(*Case){
		"must look like Resource/Behaviour": func(c *Case) { c.Name = "gateway" },
		"full stop":                         func(c *Case) { c.Doc = "Serves" },
		"Judged is empty":                   func(c *Case) { c.Judged = "" },
		"Covers is empty":                   func(c *Case) { c.Covers = nil },
		"Check is nil":                      func(c *Case) { c.Check = nil },
		"has no control":                    func(c *Case) { c.Controls = nil },
		"Break and Fails":                   func(c *Case) { c.Controls = []Control{{Break: "delete Gateway"}} },
		"is not path=value":                 func(c *Case) { c.Controls = []Control{{Break: "Gateway nonsense", Fails: "x"}} },
		"is no kind":                        func(c *Case) { c.Controls = []Control{{Break: "gateway a=b", Fails: "x"}} },
		"namespace of its own":              func(c *Case) { c.Injection = true },
		"fixture":                           func(c *Case) { c.Fixture = "missing.yaml" },
	} {
		c := good
		change(&c)
		if err := Validate(fixtures.FS, []Case{c}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := Validate(fixtures.FS, []Case{good, good}); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a name used twice: %v", err)
	}
}

// A fixed sleep is either too short, and then the verdict is a coin toss, or too long for everybody.
func TestNoSleeps(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(file, "_test.go") && strings.Contains(string(text), "time."+"Sleep") {
			t.Errorf("%s sleeps: wait for a state instead", file)
		}
	}
}
