// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) e2eCommand() *cobra.Command {
	var t testFlags
	var keep bool
	cmd := &cobra.Command{
		Use:   "e2e [PATTERN...]",
		Short: "The whole way: bring up, test, report, bring down",
		Long: `e2e is up, test and down in one, with one report, which is written however the run ends. An environment that is up already is
used, and brought down as well unless --keep is given. An attached cluster is neither brought up nor down.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := t.parse(args); err != nil {
				return err
			}
			return a.e2e(cmd.Context(), &t, keep)
		},
	}
	t.add(cmd)
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the environment up")
	return cmd
}

func (a *app) e2e(ctx context.Context, t *testFlags, keep bool) error {
	if t.env.attached() {
		return a.test(ctx, t)
	}
	cfg, err := t.env.config()
	if err != nil {
		return err
	}
	s := a.newSession("e2e", t)
	return s.conduct(ctx, func(ctx context.Context) error {
		err := guard(func() error {
			access, err := a.bringUp(ctx, cfg, s.p, &resumed{ID: s.run.ID, Started: s.run.Started})
			s.bringUp(s.p.ended())
			if err != nil {
				return err
			}
			return s.judge(ctx, access)
		})
		if keep {
			return err
		}
		// Should bringing down hang and be killed, the answer is on disk.
		s.interim(ctx, err)
		leaks, downErr := tearDown(ctx, cfg, s.p)
		s.run.Leaks = append(s.run.Leaks, leaks...)
		return errors.Join(err, downErr)
	})
}
