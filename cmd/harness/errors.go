// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes, the same for every command.
const (
	exitOK       = 0 // all selected passed, and at least one ran
	exitFailed   = 1 // fail, blind or regression
	exitUsage    = 2 // usage or configuration
	exitUnjudged = 3 // could not judge: environment, generator, leak, or a skip under --strict
)

// failure is an error that knows its exit code and what the user can do next. With a nil err nothing is printed: what went
// wrong has been said already.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit code %d", f.code)
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// usage is a mistake in what was asked for.
func usage(hint, format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...), hint: hint}
}

// unjudged is trouble that says nothing about the product.
func unjudged(hint, format string, args ...any) error {
	return &failure{code: exitUnjudged, err: fmt.Errorf(format, args...), hint: hint}
}

// silent ends the program with this code and no message; nil for 0.
func silent(code int) error {
	if code == exitOK {
		return nil
	}
	return &failure{code: code}
}

// hinted is implemented by errors of other packages that carry a remedy.
type hinted interface{ Hint() string }

// exit prints an error as "ERROR: what" and "Hint: what to do", and returns its code. An error without a code is trouble with
// the environment: every usage error is made by usage.
func (a *app) exit(err error) int {
	if err == nil {
		return exitOK
	}
	f := &failure{code: exitUnjudged, err: err}
	if known := (*failure)(nil); errors.As(err, &known) {
		f = known
		if f.err == nil {
			return f.code
		}
	}
	hint := f.hint
	if h := (hinted)(nil); hint == "" && errors.As(err, &h) {
		hint = h.Hint()
	}
	fmt.Fprintf(a.stderr, "%s %v\n", a.style(a.stderr, red, "ERROR:"), err)
	if hint != "" {
		fmt.Fprintf(a.stderr, "Hint: %s\n", hint)
	}
	return f.code
}

// flagError turns pflag's errors into usage errors, with the nearest flag's name where there is one.
func flagError(cmd *cobra.Command, err error) error {
	hint := "run `" + cmd.CommandPath() + " --help` for its flags"
	if unknown := (*pflag.NotExistError)(nil); errors.As(err, &unknown) {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := nearest(unknown.GetSpecifiedName(), names); len(near) > 0 {
			hint = "did you mean --" + near[0] + "? " + hint
		}
	}
	return usage(hint, "%w", err)
}

// noArgs and exactArgs are cobra's validators as usage errors.
func noArgs(cmd *cobra.Command, args []string) error { return checkArgs(cobra.NoArgs, cmd, args) }

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return checkArgs(cobra.MaximumNArgs(n), cmd, args) }
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return checkArgs(cobra.ExactArgs(n), cmd, args) }
}

func checkArgs(check cobra.PositionalArgs, cmd *cobra.Command, args []string) error {
	if err := check(cmd, args); err != nil {
		return usage("usage: "+cmd.UseLine(), "%w", err)
	}
	return nil
}

// didYouMean is a hint with the nearest names, or the fallback when none is near.
func didYouMean(word string, names []string, fallback string) string {
	near := nearest(word, names)
	if len(near) == 0 {
		return fallback
	}
	return "did you mean " + strings.Join(near, " or ") + "?"
}

// nearest returns up to three names close to word, the closest first: few edits away, or word is a part of them.
func nearest(word string, names []string) []string {
	type candidate struct {
		name string
		dist int
	}
	w := strings.ToLower(word)
	var found []candidate
	for _, name := range names {
		n := strings.ToLower(name)
		d := edits(w, n)
		// A case is often called by one side of its slash.
		if before, after, ok := strings.Cut(n, "/"); ok {
			d = min(d, edits(w, before), edits(w, after))
		}
		if d <= max(2, len(w)/3) || len(w) > 2 && strings.Contains(n, w) {
			found = append(found, candidate{name, d})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.dist - b.dist })
	var out []string
	for _, c := range found[:min(3, len(found))] {
		out = append(out, c.name)
	}
	return out
}

// edits is the Levenshtein distance in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
