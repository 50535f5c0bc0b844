// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"harness.example/harness/cluster"
)

// downTimeout bounds clean-up, which goes on after the run's own context has ended.
const downTimeout = 5 * time.Minute

func (a *app) downCommand() *cobra.Command {
	var env environmentFlags
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove the environment and everything it made, except the caches",
		Long: `down removes cluster, containers, network namespace, mounts and temporary files, also of an environment that was
killed half-way. Running it twice is fine. Compiled components and images stay in the cache.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := env.config()
			if err != nil {
				return err
			}
			p := a.progress()
			// Inside, the engine finds the cluster's bridge. What cannot be entered is removed from outside.
			if err := a.enter(cfg, nil); err != nil {
				p.line("removing from outside: %v", err)
			}
			leaks, err := tearDown(cmd.Context(), cfg, p)
			p.close()
			for _, leak := range leaks {
				fmt.Fprintln(a.stdout, "left behind:", leak)
			}
			if err == nil && len(leaks) > 0 {
				err = fmt.Errorf("%d things of environment %q are still there", len(leaks), cfg.Name)
			}
			if err != nil {
				return &failure{code: exitUnjudged, err: err, hint: "run `harness down` again; what stays can be removed by hand"}
			}
			fmt.Fprintf(a.stdout, "Environment %q is down; nothing is left behind.\n", cfg.Name)
			return nil
		},
	}
	env.addOwn(cmd)
	return cmd
}

// tearDown removes the environment and says what is still there. It goes on after an interrupt, within a time of its own:
// stopping half-way is what leaves things behind.
func tearDown(ctx context.Context, cfg cluster.Config, p *progress) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	err := cluster.Down(ctx, cfg, p.event)
	if err != nil {
		err = fmt.Errorf("bring down: %w", err)
	}
	leaks, leakErr := cluster.Leaks(ctx, cfg)
	if leakErr != nil {
		err = errors.Join(err, fmt.Errorf("look for what is left: %w", leakErr))
	}
	return leaks, err
}
