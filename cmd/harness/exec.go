// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) execCommand() *cobra.Command {
	var env environmentFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARG...]",
		Short: "Run a command where the cluster can be reached",
		Long: `exec runs a command inside the environment's network namespace, with KUBECONFIG set, and HARNESS_TARGET naming a file
that describes the cluster for go test ./suites. The exit code is the command's own.`,
		Args: func(cmd *cobra.Command, args []string) error {
			return checkArgs(cobra.MinimumNArgs(1), cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			access, _, err := a.access(cmd.Context(), &env)
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "harness-exec-")
			if err != nil {
				return fmt.Errorf("exec: %w", err)
			}
			defer func() { _ = os.RemoveAll(dir) }()
			target, err := json.Marshal(targetOf(access))
			if err != nil {
				return fmt.Errorf("exec: %w", err)
			}
			file := filepath.Join(dir, "target.json")
			if err := os.WriteFile(file, target, 0o600); err != nil {
				return fmt.Errorf("exec: %w", err)
			}
			return a.runCommand(cmd.Context(), args, "KUBECONFIG="+access.Kubeconfig, "HARNESS_TARGET="+file)
		},
	}
	cmd.DisableFlagsInUseLine = true
	cmd.Flags().SetInterspersed(false) // the command's own flags are not ours
	env.addOwn(cmd)
	env.addAttach(cmd)
	return cmd
}

// runCommand runs a command on our streams and returns its exit code as ours. An interrupt reaches it first, so that it can
// clean up.
func (a *app) runCommand(ctx context.Context, argv []string, env ...string) error {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // running what the user names is the purpose
	c.Stdin, c.Stdout, c.Stderr = a.stdin, a.stdout, a.stderr
	c.Env = append(os.Environ(), env...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	err := c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return silent(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}
