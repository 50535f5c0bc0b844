// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"harness.example/harness/suites/perf"
)

func (a *app) overheadCommand() *cobra.Command {
	var env environmentFlags
	var plan perf.OverheadPlan
	var output string
	cmd := &cobra.Command{
		Use:   "overhead",
		Short: "Measure what each way through the mesh costs",
		Long: `overhead brings up clients and backends in a namespace of its own and sends the same load over five ways: to the pod's
address, to a Service's, through the ingress gateway, through the client's sidecar, and through both sidecars with mutual TLS. The
ways take turns in blocks. It prints how long requests took, the ratio to the direct way with its 95 % interval over the blocks
(which needs 6 of them), and what the proxies used.

Every load is counted in three books, the client's, the backends' and each Envoy's on the way: when they disagree, it prints
them and exits 1. A load that the generator could not keep up is repeated twice; then it exits 3. With --plant it exits 1 when a
delay that it has put there itself is not found.`,
		Example: `  harness overhead
  harness overhead --rate 200 --duration 10s --blocks 10 -o json
  harness overhead --plant 5ms`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if err := plan.Check(); err != nil {
				return usage("run `harness overhead --help` for its flags", "--%w", err)
			}
			return a.overhead(cmd.Context(), &env, plan, output)
		},
	}
	f := cmd.Flags()
	f.Float64Var(&plan.Rate, "rate", 100, "requests per second of each load")
	f.DurationVar(&plan.Duration, "duration", 5*time.Second, "how long each load is measured")
	f.DurationVar(&plan.Warmup, "warmup", 2*time.Second, "load before what is measured, at the same rate and on the same connections")
	f.IntVar(&plan.Blocks, "blocks", 6, "how often each way has its turn")
	f.IntVar(&plan.Connections, "connections", 8, "connections of each load")
	f.DurationVar(&plan.MaxLag, "max-lag", 0, "how late requests may be sent for a load to count, at the 99th percentile (default: 1ms or a tenth of the median)")
	f.DurationVar(&plan.Idle, "idle", 30*time.Second, "how long at least to watch the proxies without load, for what they use then")
	f.DurationVar(&plan.Plant, "plant", 0, "control: add a way through the gateway that an Istio fault delays by so much, which must be found")
	env.addOwn(cmd)
	env.addAttach(cmd)
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) overhead(ctx context.Context, env *environmentFlags, plan perf.OverheadPlan, output string) error {
	access, _, err := a.access(ctx, env)
	if err != nil {
		return err
	}
	c, err := perfCluster(access)
	if err != nil {
		return err
	}
	if c.Gateway.Service == "" || c.Gateway.Namespace == "" {
		return usage("give --gateway NAMESPACE/SERVICE", "overhead measures an ingress gateway that is there")
	}
	p := a.progress()
	defer p.close()
	report, err := perf.MeasureOverhead(ctx, c, plan, func(text string) { p.line(" • %s", text) })
	var disagreement *perf.Disagreement
	var invalid *perf.Invalid
	switch {
	case err != nil && ctx.Err() != nil:
		return unjudged("", "the measurement was interrupted")
	case errors.As(err, &disagreement):
		return &failure{code: exitFailed, err: err, hint: "requests were lost, repeated or copied on the way, or somebody else uses it"}
	case errors.As(err, &invalid):
		return unjudged("use a lower --rate, a quieter machine, or a looser --max-lag", "%w", err)
	case err != nil:
		return err
	}
	if err := a.printAs(output, report, func(bool) error { return printOverhead(a.stdout, report) }); err != nil {
		return err
	}
	if report.Plant != nil && !report.Plant.Found {
		return silent(exitFailed)
	}
	return nil
}

func printOverhead(w io.Writer, o *perf.Overhead) error {
	fmt.Fprintf(w, "%g requests/s for %s on each way in each of %d blocks, from node %s to node %s\n", o.Plan.Rate, o.Plan.Duration, o.Plan.Blocks, o.Nodes.Client, o.Nodes.Server)
	for _, of := range []string{"service", "response"} {
		fmt.Fprintf(w, "\n%s time, and its ratio to direct (95 %% interval)\n", of)
		tw := newTable(w)
		fmt.Fprintln(tw, "  way\tp50\t\tp90\t\tp99\t")
		for _, way := range o.Ways {
			fmt.Fprintf(tw, "  %s", way.Name)
			for _, f := range way.Figures {
				if f.Of != of {
					continue
				}
				if f.Millis == nil {
					fmt.Fprint(tw, "\t(too few)\t–")
				} else {
					fmt.Fprintf(tw, "\t%.3g ms\t%s", *f.Millis, f.Ratio)
				}
			}
			fmt.Fprintln(tw)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "\nproxies on the way, and requests in each of the three books")
	tw := newTable(w)
	fmt.Fprintln(tw, "  way\tCPU ms per 1,000\tMB working set\twithout load\tMB by Envoy\trequests\t")
	for _, way := range o.Ways {
		note := ""
		if way.Foreign != 0 {
			note = fmt.Sprintf("%d requests of others passed the proxies meanwhile", way.Foreign)
		}
		if way.CPUPerThousand == nil {
			fmt.Fprintf(tw, "  %s\t–\t–\t–\t–\t%d\t\n", way.Name, way.Requests)
			continue
		}
		fmt.Fprintf(tw, "  %s\t%s\t%.1f\t%.1f\t%.1f\t%d\t%s\n", way.Name, way.CPUPerThousand, way.WorkingSetMB, way.IdleMB, way.AllocatedMB, way.Requests, note)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if o.Plant != nil {
		verdict := "found"
		if !o.Plant.Found {
			verdict = "NOT FOUND"
		}
		fmt.Fprintf(w, "\na delay of %s was planted: %s, %s ms were added to the gateway's median\n", o.Plant.Delay, verdict, &o.Plant.Added)
	}
	return nil
}
