// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"harness.example/harness/fixtures"
	"harness.example/harness/suites"
)

// TestGeneratedPages compares the pages that are written from the program itself.
func TestGeneratedPages(t *testing.T) {
	for file, got := range map[string][]byte{"CLI.md": reference(), "CONFORMANCE.md": catalogue(), "COVERAGE.md": coveragePage(t)} {
		path := root + "/docs/" + file
		if *update {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v; run: make docs", err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("docs/%s is not what the program says; run: make docs\n%s", file, diff)
		}
	}
}

// catalogue is docs/CONFORMANCE.md.
func catalogue() []byte {
	var b bytes.Buffer
	all := suites.All()
	controls, exact, alpha := 0, 0, 0.0
	for _, c := range all {
		controls += len(c.Controls)
		alpha += c.Alpha()
		if len(c.Samples) == 0 {
			exact++
		}
	}
	fmt.Fprintf(&b, "# Conformance\n\nWritten by `make docs` from the cases themselves; a test compares. %d cases with %d controls. ", len(all), controls)
	fmt.Fprintf(&b, "%d cases are exact; a healthy cluster fails a run of all of them by bad luck with a chance of at most %.2g.\n", exact, alpha)
	fmt.Fprintf(&b, "What is not asserted, and why, is in [COVERAGE](COVERAGE.md) and [below](#left-out).\n")
	resource := ""
	for _, c := range all {
		if c.Resource() != resource {
			resource = c.Resource()
			fmt.Fprintf(&b, "\n## %s\n", resource)
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", c.Name, prose(c.Doc))
		fmt.Fprintf(&b, "- Judged: %s\n", prose(c.Judged))
		for _, s := range c.Samples {
			fmt.Fprintf(&b, "- Sample: %s: n = %d, α = %.2g, power %.6g, smallest shift seen %.3g\n", prose(s.Of), s.N, s.Alpha, s.Power, s.Shift)
		}
		for _, k := range c.Controls {
			fmt.Fprintf(&b, "- Control: `%s` must be caught with “%s”\n", k.Break, prose(k.Fails))
		}
		if len(c.Needs) > 0 {
			var needs []string
			for _, n := range c.Needs {
				needs = append(needs, string(n))
			}
			fmt.Fprintf(&b, "- Needs: %s\n", strings.Join(needs, ", "))
		}
		fmt.Fprintf(&b, "- Fields: `%s`\n", strings.Join(c.Covers, "`, `"))
	}
	b.WriteString("\n## Left out\n\nRows that no case proves, with the reason.\n\n")
	for _, l := range suites.LeftOut() {
		fmt.Fprintf(&b, "- %s: %s\n", prose(l.What), prose(l.Why))
	}
	return b.Bytes()
}

// coveragePage is docs/COVERAGE.md.
func coveragePage(t *testing.T) []byte {
	t.Helper()
	kinds, err := suites.CoverageOf(fixtures.FS, suites.All())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.WriteString("# Coverage of the APIs' fields\n\nWritten by `make docs` from the APIs' descriptors and the cases; a test compares, and another keeps the number of asserted fields from falling.\n\n")
	b.WriteString("*Asserted*: a case fails when the field is not obeyed. *Used*: a manifest sets it, no case asserts it. *Absent*: no manifest sets it.\n\n")
	b.WriteString("| Kind | Asserted | Used | Absent | Part asserted |\n|---|---:|---:|---:|---:|\n")
	for _, k := range kinds {
		fmt.Fprintf(&b, "| [%s](#%s) | %d | %d | %d | %.0f %% |\n", k.Kind, strings.ToLower(k.Kind), k.Count(suites.Asserted), k.Count(suites.Used), k.Count(suites.Absent), 100*k.Part())
	}
	for _, k := range kinds {
		fmt.Fprintf(&b, "\n## %s\n\n| Field | State | Cases |\n|---|---|---|\n", k.Kind)
		for _, f := range k.Fields {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", strings.TrimPrefix(f.Path, k.Kind+"."), f.State, strings.Join(f.Cases, ", "))
		}
		if len(k.Excluded) > 0 {
			b.WriteString("\nNot counted:\n\n")
		}
		for _, e := range k.Excluded {
			fmt.Fprintf(&b, "- `%s`: %s\n", strings.TrimPrefix(e.Path, k.Kind+"."), prose(e.Reason))
		}
	}
	return b.Bytes()
}

// prose keeps text from being read as Markdown.
func prose(s string) string {
	return strings.NewReplacer("<", "&lt;", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "|", `\|`, "\n", " ").Replace(s)
}
