// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func (a *app) listCommand() *cobra.Command {
	var selection selectionFlags
	var output string
	cmd := &cobra.Command{
		Use:   "list [PATTERN...]",
		Short: "List the cases",
		Long:  "list prints the cases that the patterns and flags select, without touching a cluster. A PATTERN is a regular expression matched\nanywhere in a name; one that begins with ! excludes.",
		RunE: func(_ *cobra.Command, args []string) error {
			cases, err := selection.cases(args)
			if err != nil {
				return err
			}
			return a.printCases(output, cases)
		},
	}
	selection.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}
