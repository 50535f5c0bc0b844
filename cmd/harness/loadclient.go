// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"embed"
	"fmt"
	"strconv"
	"time"

	"harness.example/harness/cluster"
	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

//go:embed loadclient.yaml
var loadClientFS embed.FS

// loadClient is the pod that load from inside the cluster comes from.
type loadClient struct {
	fixtures *fixtures.Client
	runner   loadgen.Pod
}

// startLoadClient makes a namespace with one pod and waits until it is ready. On an error nothing is left.
func startLoadClient(ctx context.Context, access *cluster.Access, mesh bool, p *progress) (*loadClient, error) {
	config, err := restConfig(access.Kubeconfig, access.Context)
	if err != nil {
		return nil, err
	}
	run := newRunID(time.Now())
	client, err := fixtures.NewClient(config, run)
	if err != nil {
		return nil, fmt.Errorf("load client: %w", err)
	}
	vars := fixtures.Vars{"NAMESPACE": "harness-load-" + run, "IMAGE": access.Image, "INJECT": strconv.FormatBool(mesh)}
	objects, err := fixtures.Load(loadClientFS, "loadclient.yaml", vars)
	if err != nil {
		return nil, fmt.Errorf("load client: %w", err)
	}
	c := &loadClient{
		fixtures: client,
		runner:   loadgen.Pod{Config: config, Namespace: vars["NAMESPACE"], Name: "client", Container: "client"},
	}
	began := time.Now()
	p.event(cluster.Event{Step: "load client", State: cluster.Started, At: began, Detail: vars["NAMESPACE"]})
	applied, err := client.Apply(ctx, objects...)
	if err == nil {
		err = client.WaitReady(ctx, applied...)
	}
	if err != nil {
		p.event(cluster.Event{Step: "load client", State: cluster.Failed, At: time.Now()})
		c.remove(ctx, p)
		return nil, fmt.Errorf("load client: %w", err)
	}
	p.event(cluster.Event{Step: "load client", State: cluster.Done, At: time.Now()})
	return c, nil
}

// remove deletes what was made, also after an interrupt.
func (c *loadClient) remove(ctx context.Context, p *progress) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	if err := c.fixtures.DeleteRun(ctx); err != nil {
		p.line("could not remove namespace %s: %v", c.runner.Namespace, err)
	}
}
