// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"harness.example/harness/cluster"
	"harness.example/harness/loadgen"
	"harness.example/harness/suites/perf"
)

// maxWorkers is far above what one cluster has room for; beyond it a number is a typing mistake.
const maxWorkers = 1000

func (l *loadFlags) checkWorkers() error {
	switch {
	case l.workers < 0 || l.workers > maxWorkers:
		return usage(fmt.Sprintf("use 1 to %d", maxWorkers), "--workers %d is out of range", l.workers)
	case l.workers > 0 && l.from == fromHost:
		return usage("add --from pod or --from mesh", "--workers are pods of the cluster, and --from is %s", l.from)
	}
	return nil
}

// loadWorkers are the pods that send l's plan together. They are made when it begins and removed when it ends.
func loadWorkers(access *cluster.Access, l *loadFlags, p *progress) (loadgen.Runner, error) {
	if _, err := l.plan.Split(l.workers); err != nil {
		return nil, usage("run `harness load --help` for what a plan is made of", "load: %w", err)
	}
	c, err := perfCluster(access)
	if err != nil {
		return nil, err
	}
	return perf.Workers{Cluster: c, N: l.workers, Mesh: l.from == fromMesh, Say: p.line}, nil
}

// printWorkers says what each worker sent.
func (a *app) printWorkers(r *loadgen.Result) {
	if len(r.Workers) == 0 {
		return
	}
	w := newTable(a.stdout)
	fmt.Fprintln(w, "  worker\tplanned\tsent\tok\tlag p99\tclock\tverdict\tpod\tnode")
	for _, k := range r.Workers {
		clock := fmt.Sprintf("%+.1fms ±%.1f", float64(k.Clock)/float64(time.Millisecond), float64(k.ClockError)/float64(time.Millisecond))
		fmt.Fprintf(w, "  %d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", k.Index, k.Planned, k.Sent, k.OK, k.LagP99, clock, k.Verdict, k.Pod, k.Node)
	}
	_ = w.Flush() // to standard output, like fmt.Fprintf
	if c := r.Common; c != nil {
		fmt.Fprintf(a.stdout, "  all workers were at work for %.1fs\n", c.To.Sub(c.From).Seconds())
	}
}
