// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) coverageCommand() *cobra.Command {
	var selection selectionFlags
	var output string
	cmd := &cobra.Command{
		Use:   "coverage [PATTERN...]",
		Short: "Say which fields of the APIs the cases assert",
		Long: "coverage reads every field that concerns traffic and scale from the APIs' own descriptors and says, kind by kind, how many the\n" +
			"selected cases assert, only use in a manifest, or never set. With -o wide it lists the fields and the cases.",
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			cases, err := selection.cases(args)
			if err != nil {
				return err
			}
			kinds, err := coverageOf(cases)
			if err != nil {
				return err
			}
			return a.printAs(output, kinds, func(wide bool) error {
				tw := newTable(a.stdout)
				fmt.Fprintln(tw, "KIND\tASSERTED\tUSED\tABSENT\tPART")
				for _, k := range kinds {
					fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%s\n", k.Kind, k.Asserted, k.Used, k.Absent, k.Part())
				}
				if wide {
					fmt.Fprintln(tw, "\nFIELD\tSTATE\tCASES")
					for _, k := range kinds {
						for _, f := range k.Fields {
							fmt.Fprintf(tw, "%s\t%s\t%s\n", f.Path, f.State, dash(strings.Join(f.Cases, ", ")))
						}
					}
				}
				return tw.Flush()
			})
		},
	}
	selection.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}
