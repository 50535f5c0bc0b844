// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/spf13/cobra"

	"harness.example/harness/reports"
	"harness.example/harness/suites"
)

func (a *app) compareCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "compare OLD NEW",
		Short: "Say what became worse from one run to another",
		Long: `compare reads two runs (directories or report.json files) and lists what became worse: cases that fail now, controls that are no
longer caught, cases, controls and asserted API fields that are gone. The figures of loads are shown and not judged, because one run
of each decides nothing about speed.

It exits 1 when something became worse, and 3 when nothing did but the new run was interrupted or could not judge what the old
one did.`,
		Example: `  harness compare harness-reports/20300101-000000-aaaaaa harness-reports/latest
  harness compare nightly.json report.json -o json`,
		Args: exactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			var runs [2]reports.Run
			for i, path := range args {
				var err error
				if runs[i], err = reports.Read(path); err != nil {
					return usage("give the directory of a run, or its report.json", "%w", err)
				}
			}
			c := reports.Compare(runs[0], runs[1], func(string) bool { return true })
			if err := a.printAs(output, c, func(bool) error { return c.Text(a.stdout) }); err != nil {
				return err
			}
			switch {
			case len(c.Regressions) > 0:
				return silent(exitFailed)
			case runs[1].Interrupted:
				return unjudged("compare a run that came to its end", "run %s was interrupted", runs[1].ID)
			case len(c.Unjudged) > 0:
				return silent(exitUnjudged)
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// readBaseline reads the run that this one is to be compared with, before anything is touched.
func (t *testFlags) readBaseline() error {
	if t.baseline == "" {
		return nil
	}
	run, err := reports.Read(t.baseline)
	if err != nil {
		return usage("give the directory of an earlier run, or its report.json", "--baseline: %w", err)
	}
	t.old = &run
	return nil
}

// compare holds the run against its baseline, as far as its cases were to run.
func (s *session) compare() {
	if s.t.old == nil {
		return
	}
	all := len(s.t.cases) == len(suites.All())
	s.comparison = reports.Compare(*s.t.old, s.run, func(name string) bool {
		is := func(c suites.Case) bool { return c.Name == name }
		return slices.ContainsFunc(s.t.cases, is) || all && !slices.ContainsFunc(suites.All(), is) // one that there is no more
	})
	s.run.Regressions = s.comparison.Lines()
}
