// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"harness.example/harness/loadgen"
)

func (a *app) workCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "work",
		Short: "Run one job of traffic read as JSON from standard input: what a client pod does",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			relaxGC()
			if err := loadgen.Work(cmd.Context(), a.stdin, a.stdout); err != nil {
				return fmt.Errorf("work: %w", err)
			}
			return nil
		},
	}
}

// relaxGC lets a process that makes load have some tens of MB of garbage instead of four: it would collect dozens of times a second
// at high rates. What the user has set stays.
func relaxGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(800)
	}
}
