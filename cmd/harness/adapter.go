// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"harness.example/harness/fixtures/adapter"
)

func (a *app) adapterCommand() *cobra.Command {
	cfg := adapter.Config{}
	cmd := &cobra.Command{
		Use:   "adapter",
		Short: "Serve the backends' metrics to autoscalers: what one pod of a run does",
		Long: `adapter serves custom.metrics.k8s.io and external.metrics.k8s.io from what the backends say on their control ports. It
runs in a pod, as the account that the pod has.`,
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := adapter.Run(cmd.Context(), cfg); err != nil {
				return fmt.Errorf("adapter: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&cfg.Port, "port", 6443, "port of the API")
	cmd.Flags().IntVar(&cfg.MetricsPort, "metrics-port", 8081, "port that the backends tell their metrics on")
	return cmd
}
