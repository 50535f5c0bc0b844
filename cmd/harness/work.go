// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"harness.example/harness/loadgen"
)

func (a *app) workCommand() *cobra.Command {
	var listen string
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "work",
		Short: "Run one job of traffic read as JSON from standard input: what a client pod does",
		Long: `work runs one job of traffic, read as JSON from standard input, and writes what it came to as JSON to standard output.

With --listen it waits for its job on that address instead, and keeps the output until it was fetched: what the pods of
` + "`harness load --workers`" + ` do. It is then worker JOB_COMPLETION_INDEX, as Kubernetes says to the pods of an Indexed Job.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			relaxGC()
			if cmd.Flags().Changed("listen") {
				return serveWork(cmd.Context(), listen, limit)
			}
			if cmd.Flags().Changed("limit") {
				return usage("add --listen", "--limit is for --listen")
			}
			if err := loadgen.Work(cmd.Context(), a.stdin, a.stdout); err != nil {
				return fmt.Errorf("work: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "address to take the job on over HTTP, such as :8081")
	cmd.Flags().DurationVar(&limit, "limit", 10*time.Minute, "with --listen: how long to live at most")
	return cmd
}

// serveWork is one worker of several.
func serveWork(ctx context.Context, listen string, limit time.Duration) error {
	if limit <= 0 {
		return usage("use a duration like 10m", "--limit %s is not above 0", limit)
	}
	index := -1
	if text, ok := os.LookupEnv("JOB_COMPLETION_INDEX"); ok {
		var err error
		if index, err = strconv.Atoi(text); err != nil || index < 0 {
			return usage("set it to the worker's number, or not at all", "JOB_COMPLETION_INDEX is %q, no index", text)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return usage("use an address like :8081 that is free", "--listen: %w", err)
	}
	if err := loadgen.NewServer(index).Serve(ctx, l, limit); err != nil {
		return fmt.Errorf("work: %w", err)
	}
	return nil
}

// relaxGC lets a process that makes load have some tens of MB of garbage instead of four: it would collect dozens of times a second
// at high rates. What the user has set stays.
func relaxGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(800)
	}
}
