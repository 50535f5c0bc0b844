// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// Status is what Inspect found.
type Status struct {
	State      string // absent, running, stopped or broken
	Nodes      []Node
	Components []Component
	Access     *Access
	BringUp    []Event // how it came up
}

// Component is one part of the environment.
type Component struct {
	Name    string
	Ready   bool
	Detail  string
	Version string
}

// Inspect looks at the environment without changing it.
func Inspect(ctx context.Context, c Config) (*Status, error) {
	s, err := c.load()
	if errors.Is(err, ErrAbsent) {
		return &Status{State: "absent"}, nil
	}
	if err != nil {
		return nil, err
	}
	status := &Status{State: "broken", Access: s.Access, BringUp: s.Steps}
	engine, err := findEngine(ctx, s.Engine, c.StateDir)
	if err != nil {
		return nil, err
	}
	k := newKind(c, engine)
	found, err := k.nodes(ctx)
	if err != nil {
		return nil, err
	}
	running := 0
	for _, node := range found {
		detail := "stopped"
		if node.Running {
			detail = "running"
			running++
		}
		status.Components = append(status.Components, Component{Name: "node " + node.Name, Ready: node.Running, Detail: detail})
	}
	switch {
	case len(found) == 0:
		status.State = "absent"
		return status, nil
	case running == 0:
		status.State = "stopped"
		return status, nil
	case s.Access == nil || !k.healthy(ctx, found, c.Workers+1):
		return status, nil
	}
	status.State, status.Nodes = "running", s.Access.Nodes
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.Timeout = 10 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	status.Components = append(status.Components, components(ctx, client, s.Access)...)
	return status, nil
}

// components looks at every workload that the environment is made of.
func components(ctx context.Context, client kubernetes.Interface, access *Access) []Component {
	var found []Component
	for _, w := range []struct{ name, namespace, workload string }{
		{"coredns", "kube-system", "deployment/coredns"},
		{"kube-proxy", "kube-system", "daemonset/kube-proxy"},
		{"metrics-server", "kube-system", "deployment/metrics-server"},
		{"istio", "istio-system", "deployment/istiod"},
		{"gateway", "istio-system", "deployment/" + gatewayService},
		{"metallb", "metallb-system", "deployment/controller"},
		{"metallb speaker", "metallb-system", "daemonset/speaker"},
	} {
		c := Component{Name: w.name, Ready: true, Version: access.Versions[w.name], Detail: strings.ReplaceAll(w.workload, "/", " ")}
		if err := rollout(ctx, client, w.namespace, w.workload); err != nil {
			c.Ready, c.Detail = false, err.Error()
		}
		found = append(found, c)
	}
	return found
}
