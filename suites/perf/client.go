// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"fmt"
	"strconv"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// A Client is one pod that load comes from.
type Client struct {
	loadgen.Pod
	lab *Lab
}

// NewClient makes a namespace with one pod, with a sidecar where mesh is set, and waits until it is ready. On an error nothing
// is left.
func NewClient(ctx context.Context, c Cluster, mesh bool) (*Client, error) {
	lab, err := newLab(c, "client")
	if err != nil {
		return nil, fmt.Errorf("load client: %w", err)
	}
	if err := lab.apply(ctx, "client.yaml", fixtures.Vars{"INJECT": strconv.FormatBool(mesh)}); err != nil {
		return nil, fmt.Errorf("load client: %w", lab.abandon(ctx, err))
	}
	return &Client{lab: lab, Pod: loadgen.Pod{Config: c.Config, Namespace: lab.Namespace, Name: "client", Container: "client"}}, nil
}

// Remove deletes what NewClient made, also when ctx has ended.
func (c *Client) Remove(ctx context.Context) error { return c.lab.Remove(ctx) }
