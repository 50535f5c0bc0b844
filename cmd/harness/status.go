// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"harness.example/harness/cluster"
)

func (a *app) statusCommand() *cobra.Command {
	var env environmentFlags
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what is up and where it answers",
		Long: `status looks at the environment, or at an attached cluster, and prints its nodes, components and addresses.
It exits 0 when everything is ready and 3 when not.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if err := env.check(); err != nil {
				return err
			}
			if env.attached() {
				access, _, err := a.access(cmd.Context(), &env)
				if err != nil {
					return err
				}
				return a.printAs(output, access, func(bool) error { a.printAccess(access); return nil })
			}
			cfg, err := env.config()
			if err != nil {
				return err
			}
			// Entering would make the namespace of an environment that is not there.
			if _, _, err := cluster.Load(cfg); err == nil {
				if err := a.enter(cfg, nil); err != nil {
					return err
				}
			} else if !errors.Is(err, cluster.ErrAbsent) {
				return fmt.Errorf("read the state of environment %q: %w", cfg.Name, err)
			}
			status, err := cluster.Inspect(cmd.Context(), cfg)
			if err != nil {
				return fmt.Errorf("look at environment %q: %w", cfg.Name, err)
			}
			if err := a.printAs(output, status, func(wide bool) error { return a.printStatus(cfg, status, wide) }); err != nil {
				return err
			}
			if !ready(status) {
				return silent(exitUnjudged)
			}
			return nil
		},
	}
	env.addOwn(cmd)
	env.addAttach(cmd)
	outputFlag(cmd, &output)
	return cmd
}

// ready says whether the environment could be tested now.
func ready(s *cluster.Status) bool {
	return s.State == "running" && !slices.ContainsFunc(s.Components, func(c cluster.Component) bool { return !c.Ready })
}

func (a *app) printStatus(cfg cluster.Config, s *cluster.Status, wide bool) error {
	fmt.Fprintf(a.stdout, "environment %s: %s\n", cfg.Name, s.State)
	tw := newTable(a.stdout)
	for _, c := range s.Components {
		mark := "✓"
		if !c.Ready {
			mark = "✗"
		}
		fmt.Fprintf(tw, " %s %s\t%s\t%s\n", mark, c.Name, c.Version, c.Detail)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if s.Access != nil {
		a.printAccess(s.Access)
	}
	if wide {
		timings(a.stdout, s.BringUp)
	}
	return nil
}

// printAccess says where a cluster answers and what it can do.
func (a *app) printAccess(access *cluster.Access) {
	tw := newTable(a.stdout)
	defer func() { _ = tw.Flush() }()
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(tw, "%s\t%s\n", name, value)
		}
	}
	row("kubeconfig", access.Kubeconfig)
	row("context", access.Context)
	row("provider", access.Provider)
	row("network namespace", access.Netns)
	for _, name := range sortedKeys(access.Versions) {
		row(name, access.Versions[name])
	}
	row("gateway", access.Gateway.Namespace+"/"+access.Gateway.Service+" at "+access.Gateway.Host)
	for _, name := range sortedKeys(access.Gateway.Ports) {
		row("gateway "+name, fmt.Sprintf("%s:%d", access.Gateway.Host, access.Gateway.Ports[name]))
	}
	for _, n := range access.Nodes {
		role := "worker"
		if n.ControlPlane {
			role = "control plane"
		}
		row("node", n.Name+" at "+n.Address+", "+role)
	}
	for _, name := range sortedKeys(access.Capabilities) {
		if reason := access.Capabilities[name]; reason != "" {
			row("cannot", name+": "+reason)
		}
	}
}
