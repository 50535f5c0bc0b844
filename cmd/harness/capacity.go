// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"harness.example/harness/loadgen"
)

const (
	stepDuration    = 5 * time.Second // of a step, when --duration is not given
	ceilingDuration = 2 * time.Second // of the load that shows the generator's own limit
)

// capacityFlags are those of the search for the highest rate.
type capacityFlags struct {
	find bool
	max  float64
}

func (c *capacityFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&c.find, "find-capacity", false, "find the highest rate at which --slo holds; --duration is then that of a step (default 5s)")
	f.Float64Var(&c.max, "max-rate", 50_000, "highest rate that --find-capacity tries")
}

func (c *capacityFlags) check(l *loadFlags) error {
	switch {
	case !c.find:
		return nil
	case l.plan.SLO == nil:
		return usage("add --slo 'p99<50ms,error<1%'", "--find-capacity needs an objective")
	case l.plan.Closed:
		return usage("give the first rate to try", "--rate max has no rate to go up from")
	case c.max < l.plan.Rate:
		return usage("", "--max-rate %g is below --rate %g", c.max, l.plan.Rate)
	}
	return nil
}

func (a *app) findCapacity(ctx context.Context, l *loadFlags, runner loadgen.Runner, p *progress) error {
	do := func(ctx context.Context, plan loadgen.Plan) (*loadgen.Result, error) {
		out, err := runner.Do(ctx, loadgen.Job{Plan: &plan})
		return out.Result, err
	}
	search := loadgen.Search{From: l.plan.Rate, Max: l.capacity.max, SLO: *l.plan.SLO}
	// Only HTTP/1.1 in plain text is what that server speaks.
	if l.protocol == string(loadgen.HTTP1) {
		ceiling, err := do(ctx, loadgen.Plan{Null: true, Closed: true, Duration: ceilingDuration, Connections: l.plan.Connections})
		if err != nil {
			return fmt.Errorf("measure the generator: %w", err)
		}
		search.Ceiling = float64(ceiling.OK) / ceilingDuration.Seconds()
		p.line(" • the generator's own limit is %.0f requests/s", search.Ceiling)
	}
	plan := l.plan
	plan.SLO = nil
	found, err := search.Run(ctx, func(ctx context.Context, rate float64) (*loadgen.Result, error) {
		p.line(" • %.4g requests/s for %s to %s from %s", rate, plan.Duration, l.to, l.from)
		step := plan
		step.Rate = rate
		return do(ctx, step)
	})
	if err != nil && len(found.Steps) == 0 {
		return err
	}
	if err := a.printAs(l.output, found, func(bool) error { return a.printCapacity(found, l) }); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return unjudged("", "the search was interrupted")
	case err != nil:
		return err
	case found.Limit == loadgen.LimitGenerator:
		return silent(exitUnjudged)
	case found.Rate == 0:
		return silent(exitFailed)
	}
	return nil
}

func (a *app) printCapacity(c *loadgen.Capacity, l *loadFlags) error {
	tw := newTable(a.stdout)
	fmt.Fprintln(tw, "OFFERED/s\tANSWERED WELL/s\tRESPONSE p50\tp99\tVERDICT\t")
	for _, s := range c.Steps {
		fmt.Fprintf(tw, "%.4g\t%.4g\t%s\t%s\t%s%s\t\n", s.Rate, s.Goodput, s.P50, s.P99, s.Verdict, suffixed(": ", s.Reason))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	switch {
	case c.Limit == "":
	case c.Rate == 0:
		fmt.Fprintf(a.stdout, "\nno rate held: %s\n", c.Reason)
	case c.Limit == loadgen.LimitSystem:
		fmt.Fprintf(a.stdout, "\ncapacity of %s from %s: %.4g requests/s with %s; %s\n", l.to, l.from, c.Rate, l.slo, c.Reason)
	default:
		fmt.Fprintf(a.stdout, "\n%s from %s carries at least %.4g requests/s with %s; %s\n", l.to, l.from, c.Rate, l.slo, c.Reason)
	}
	return nil
}
