// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// Stamped by the Makefile with -ldflags -X.
var (
	version = "dev"
	commit  = ""
)

func (a *app) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of harness",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"harness": version, "commit": commit, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return a.printAs(output, v, func(bool) error {
				_, err := fmt.Fprintf(a.stdout, "harness %s%s, %s, %s\n", v["harness"], suffixed(" commit ", commit), v["go"], v["platform"])
				return err
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// suffixed is prefix+value, or nothing where there is no value.
func suffixed(prefix, value string) string {
	if value == "" {
		return ""
	}
	return prefix + value
}
