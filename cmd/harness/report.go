// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"harness.example/harness/reports"
)

// defaultReportDir is where runs are kept, relative to the working directory.
const defaultReportDir = "harness-reports"

func (a *app) reportCommand() *cobra.Command {
	var formats []string
	var rebuild bool
	cmd := &cobra.Command{
		Use:   "report [DIR]",
		Short: "Render a run's report again, or rebuild it from the journal of a run that was killed",
		Long: `report reads DIR/report.json (default: harness-reports/latest) and writes the other files from it. Where a killed run left
no report.json, or with --rebuild, the report is made from its journal. The summary goes to standard output.
It exits 0 when the report was written, whatever the run's verdict.`,
		Args: func(cmd *cobra.Command, args []string) error { return checkArgs(cobra.MaximumNArgs(1), cmd, args) },
		RunE: func(_ *cobra.Command, args []string) error {
			for _, f := range formats {
				if !slices.Contains(reports.Formats(), f) {
					return usage("use "+strings.Join(reports.Formats(), ", "), "unknown --format %q", f)
				}
			}
			dir := filepath.Join(defaultReportDir, "latest")
			if len(args) > 0 {
				dir = args[0]
			}
			return a.report(dir, formats, rebuild)
		},
	}
	cmd.Flags().StringSliceVar(&formats, "format", nil, "only these: "+strings.Join(reports.Formats(), ", "))
	cmd.Flags().BoolVar(&rebuild, "rebuild", false, "make the report from the journal although there is one")
	fixed(cmd, "format", reports.Formats()...)
	return cmd
}

func (a *app) report(dir string, formats []string, rebuild bool) error {
	info, err := os.Stat(dir)
	if err != nil {
		return usage("give the directory of a run: it holds report.json or events.jsonl", "read report: %w", err)
	}
	if !info.IsDir() {
		dir = filepath.Dir(dir)
	}
	// The link "latest" is made beside the run, so the run itself must be named.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return fmt.Errorf("read report: %w", err)
	}
	run, err := reports.Read(dir)
	if rebuild || errors.Is(err, fs.ErrNotExist) {
		run, err = reports.Rebuild(dir)
		if err == nil {
			fmt.Fprintf(a.stderr, "The report is rebuilt from the journal in %s.\n", dir)
		}
	}
	if err != nil {
		return usage("give the directory of a run: it holds report.json or events.jsonl", "%w", err)
	}
	if err := reports.Write(dir, run, formats...); err != nil {
		return unjudged("", "%w", err)
	}
	return reports.Console(a.stdout, run, colored(a.stdout))
}
