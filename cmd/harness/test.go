// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"

	"harness.example/harness/reports"
	"harness.example/harness/suites"
)

// testFlags is what test and e2e have in common.
type testFlags struct {
	env       environmentFlags
	selection selectionFlags

	cases     []suites.Case
	shuffle   string
	seed      uint64
	repeat    int
	parallel  int
	failFast  bool
	strict    bool
	reportDir string
	baseline  string
	old       *reports.Run // the baseline, once read
}

func (t *testFlags) add(cmd *cobra.Command) {
	t.env.addOwn(cmd)
	t.env.addAttach(cmd)
	t.selection.add(cmd)
	f := cmd.Flags()
	f.StringVar(&t.shuffle, "shuffle", "", "run in random order; a number is the seed of an earlier run")
	f.Lookup("shuffle").NoOptDefVal = "random"
	f.IntVar(&t.repeat, "repeat", 1, "run every case this many times")
	f.IntVar(&t.parallel, "parallel", 0, "cases that run side by side (default: chosen from the machine)")
	f.BoolVar(&t.failFast, "fail-fast", false, "start no further case after the first that does not pass")
	f.BoolVar(&t.strict, "strict", false, "count a skipped case as one that could not be judged")
	f.StringVar(&t.baseline, "baseline", "", "earlier run (its directory or report.json) to compare with; what became worse fails the run")
	f.StringVar(&t.reportDir, "report-dir", defaultReportDir, "directory of reports; every run gets one of its own inside")
}

// seedArgument is a bare number: no case is called by one, so it can only be the seed in `--shuffle 42`.
var seedArgument = regexp.MustCompile(`^[0-9]+$`)

// parse checks everything that can be checked without a cluster.
func (t *testFlags) parse(args []string) error {
	if t.shuffle == "random" {
		for i, arg := range args {
			if seedArgument.MatchString(arg) {
				t.shuffle, args = arg, append(args[:i:i], args[i+1:]...)
				break
			}
		}
	}
	switch t.shuffle {
	case "":
	case "random":
		t.seed = rand.Uint64() | 1 // 0 would mean no shuffling
	default:
		seed, err := strconv.ParseUint(t.shuffle, 10, 64)
		if err != nil || seed == 0 {
			return usage("give a number above 0, or none for a random order", "--shuffle %q is no seed", t.shuffle)
		}
		t.seed = seed
	}
	if t.repeat < 1 {
		return usage("give 1 or more", "--repeat %d runs nothing", t.repeat)
	}
	if t.parallel < 0 {
		return usage("give 1 or more", "--parallel %d runs nothing", t.parallel)
	}
	cases, err := t.selection.cases(args)
	if err != nil {
		return err
	}
	t.cases = cases
	if err := t.readBaseline(); err != nil {
		return err
	}
	return t.env.check()
}

func (a *app) testCommand() *cobra.Command {
	var t testFlags
	var dryRun bool
	var output string
	cmd := &cobra.Command{
		Use:   "test [PATTERN...]",
		Short: "Run the cases on the environment that is up, or on an attached cluster",
		Long: `test runs the cases that the patterns and flags select. Each is applied, proved live, judged once, and then broken on purpose:
the same check must now fail, or the case is blind and the run fails. A PATTERN is a regular expression matched anywhere in
a name; one that begins with ! excludes.`,
		Example: `  harness test DestinationRule Gateway/HTTP
  harness test --label resource=service --shuffle --repeat 5
  harness test --kubeconfig ~/.kube/config --context staging '!HPA'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if err := t.parse(args); err != nil {
				return err
			}
			if dryRun {
				return a.printCases(output, t.cases)
			}
			if output != outputTable {
				return usage("the run's own formats are files in its report directory", "--output is for --dry-run")
			}
			return a.test(cmd.Context(), &t)
		},
	}
	t.add(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "list what would run, and touch nothing")
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) test(ctx context.Context, t *testFlags) error {
	s := a.newSession("test", t)
	return s.conduct(ctx, func(ctx context.Context) error {
		access, events, err := a.access(ctx, &t.env)
		if err != nil {
			return err
		}
		s.bringUp(events)
		return s.judge(ctx, access)
	})
}

// label names the run for people.
func (t *testFlags) label(what string) string {
	if t.env.attached() {
		return fmt.Sprintf("%s on an attached cluster", what)
	}
	return fmt.Sprintf("%s on %s", what, t.env.own.Name)
}
