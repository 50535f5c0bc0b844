// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"harness.example/harness/cluster"
	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
	"harness.example/harness/reports"
	"harness.example/harness/suites"
	"harness.example/harness/suites/perf"
)

// This file is the only place where one package's data becomes another's: cluster, suites and reports do not know each other.

// targetOf is what the suites need to know of a cluster.
func targetOf(a *cluster.Access) suites.Target {
	t := suites.Target{
		Kubeconfig: a.Kubeconfig, Context: a.Context,
		Gateway: suites.Gateway{
			Namespace: a.Gateway.Namespace, Service: a.Gateway.Service, Selector: a.Gateway.Selector, Host: a.Gateway.Host, Ports: a.Gateway.Ports,
		},
		Image: a.Image, IstioNamespace: a.IstioNamespace, Disruptive: a.Disruptive, Capabilities: a.Capabilities, Versions: a.Versions,
	}
	for _, n := range a.Nodes {
		t.Nodes = append(t.Nodes, suites.Node{Name: n.Name, Address: n.Address, ControlPlane: n.ControlPlane, Exec: n.Exec})
	}
	return t
}

// perfCluster is what a measurement needs to know of a cluster; every call begins a run of its own.
func perfCluster(a *cluster.Access) (perf.Cluster, error) {
	config, err := restConfig(a.Kubeconfig, a.Context)
	if err != nil {
		return perf.Cluster{}, err
	}
	gateway := perf.Gateway{Namespace: a.Gateway.Namespace, Service: a.Gateway.Service, Selector: a.Gateway.Selector}
	return perf.Cluster{Config: config, Image: a.Image, Run: newRunID(time.Now()), Gateway: gateway}, nil
}

// environmentOf adds what the cluster is to what is known of the program.
func environmentOf(e reports.Environment, a *cluster.Access) reports.Environment {
	e.Kubernetes, e.Istio, e.Envoy = a.Versions["kubernetes"], a.Versions["istio"], a.Versions["envoy"]
	e.Images, e.Provider, e.Source, e.Nodes = a.Images, a.Provider, a.Context, len(a.Nodes)
	return e
}

// stepsOf are the steps that ended.
func stepsOf(events []cluster.Event) []reports.Step {
	var out []reports.Step
	for _, e := range events {
		s := reports.Step{Name: e.Step, Started: e.At.Add(-e.Elapsed), Seconds: e.Elapsed.Seconds(), Detail: e.Detail, Parent: e.Parent}
		switch e.State {
		case cluster.Done:
			s.Outcome = reports.Pass
		case cluster.Skipped:
			s.Outcome = reports.Skip
		case cluster.Failed:
			s.Outcome = reports.Error
		default:
			continue
		}
		out = append(out, s)
	}
	return out
}

// restConfig is the way to the API server.
func restConfig(kubeconfig, context string) (*rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	return config, nil
}

// caseOf is a result as the report keeps it.
func caseOf(r suites.Result) reports.Case {
	c := reports.Case{
		Name: r.Case.Name, Resource: r.Case.Resource(), Doc: r.Case.Doc, Judged: r.Case.Judged, Covers: r.Case.Covers, Labels: r.Case.AllLabels(),
		Outcome: string(r.Outcome), Reason: r.Reason, Attempt: r.Attempt, Started: r.Started, Seconds: r.Elapsed.Seconds(), Want: r.Want, Got: r.Got,
	}
	for _, p := range r.Phases {
		c.Phases = append(c.Phases, reports.Phase{Name: p.Name, Seconds: p.Elapsed.Seconds()})
	}
	for _, k := range r.Controls {
		c.Controls = append(c.Controls, reports.Control{
			Break: k.Break, Fails: k.Fails, Outcome: k.Outcome, Got: k.Got, Reason: k.Reason, Seconds: k.Elapsed.Seconds(), Live: k.Live.Seconds(),
		})
	}
	for _, s := range r.Case.Samples {
		c.Samples = append(c.Samples, reports.Sample(s))
	}
	for _, b := range r.Distribution {
		c.Distribution = append(c.Distribution, reports.Bar(b))
	}
	for _, f := range r.Figures {
		c.Figures = append(c.Figures, reports.Figure(f))
	}
	for _, s := range r.Series {
		points := make([]reports.Point, len(s.Points))
		for i, p := range s.Points {
			points[i] = reports.Point(p)
		}
		c.Timeline = append(c.Timeline, reports.Series{Name: s.Name, Unit: s.Unit, Points: points})
	}
	for _, l := range r.Loads {
		c.Load = append(c.Load, loadOf(l.Name, l.Result))
	}
	if len(r.Notes) > 0 {
		c.Evidence = append(c.Evidence, reports.File{Name: "notes.txt", Body: strings.Join(r.Notes, "\n") + "\n"})
	}
	for _, e := range r.Evidence {
		c.Evidence = append(c.Evidence, reports.File{Name: e.Name, Body: e.Body})
	}
	return c
}

// coverageOf is what the cases make of the APIs' fields, as the report keeps it.
func coverageOf(cases []suites.Case) ([]reports.Coverage, error) {
	kinds, err := suites.CoverageOf(fixtures.FS, cases)
	if err != nil {
		return nil, err
	}
	out := make([]reports.Coverage, len(kinds))
	for i, k := range kinds {
		out[i] = reports.Coverage{Kind: k.Kind, Asserted: k.Count(suites.Asserted), Used: k.Count(suites.Used), Absent: k.Count(suites.Absent)}
		for _, f := range k.Fields {
			out[i].Fields = append(out[i].Fields, reports.Field{Path: f.Path, State: string(f.State), Cases: f.Cases})
		}
	}
	return out, nil
}

// loadOf is a load result as the report keeps it: milliseconds, and only quantiles that there were enough requests for.
func loadOf(name string, r *loadgen.Result) reports.Load {
	l := reports.Load{
		Name: name, Planned: r.Planned, Sent: r.Sent, Unsent: r.Unsent, OK: r.OK, Errors: r.Sent - r.OK,
		Seconds: r.End.Sub(r.Start).Seconds(), Verdict: string(r.Verdict), Reason: r.Reason,
		P50: milliseconds(r.Response, 0.5), P90: milliseconds(r.Response, 0.9), P99: milliseconds(r.Response, 0.99),
	}
	if r.Response.Count() > 0 {
		most := float64(r.Response.Max().Microseconds()) / 1000
		l.Max = &most
	}
	for _, s := range r.Seconds {
		l.PerSecond = append(l.PerSecond, reports.Second{At: s.At, OK: s.OK, Errors: s.Sent - s.OK, P99: milliseconds(s.Response, 0.99)})
	}
	return l
}

func milliseconds(h *loadgen.Hist, q float64) *float64 {
	d, enough := h.Quantile(q)
	if !enough {
		return nil
	}
	ms := float64(d.Microseconds()) / 1000
	return &ms
}
