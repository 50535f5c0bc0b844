// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"harness.example/harness/cluster"
)

func (a *app) upCommand() *cobra.Command {
	var env environmentFlags
	var output string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the environment up, or mend one that is half up",
		Long: `up makes a kind cluster with Istio, MetalLB and metrics-server and waits until each of them serves. What is there and
healthy is reused; what an earlier run left half-made is recovered. Images are pulled or compiled once and kept.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			cfg, err := env.config()
			if err != nil {
				return err
			}
			p := a.progress()
			access, err := a.bringUp(cmd.Context(), cfg, p, &resumed{})
			p.close()
			if err != nil {
				return &failure{code: exitUnjudged, err: err, hint: "run `harness up` again to carry on, or `harness down` to remove what was made"}
			}
			return a.printAs(output, access, func(bool) error {
				a.printAccess(access)
				fmt.Fprintf(a.stdout, "\nNext: harness test%s\n", nameFlag(cfg))
				return nil
			})
		},
	}
	env.addOwn(cmd)
	outputFlag(cmd, &output)
	return cmd
}

// bringUp prepares outside the namespace, enters it, and brings the cluster up. p has every step at the end, those before the
// re-execution included; carry travels across it.
func (a *app) bringUp(ctx context.Context, cfg cluster.Config, p *progress, carry *resumed) (*cluster.Access, error) {
	if a.resumed == nil {
		if err := cluster.Prepare(ctx, cfg, p.event); err != nil {
			return nil, fmt.Errorf("prepare: %w", err)
		}
		carry.Steps = p.ended()
		p.clear()
		if err := a.enter(cfg, carry); err != nil {
			return nil, err
		}
	} else {
		p.adopt(a.resumed.Steps)
	}
	access, err := cluster.Up(ctx, cfg, p.event)
	p.timings()
	if err != nil {
		return nil, fmt.Errorf("bring up: %w", err)
	}
	return access, nil
}

// nameFlag repeats --name in a command that is suggested, where it is not the default.
func nameFlag(cfg cluster.Config) string {
	if cfg.Name == "harness" {
		return ""
	}
	return " --name " + cfg.Name
}
