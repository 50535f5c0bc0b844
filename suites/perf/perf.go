// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package perf measures on a cluster: from where load comes, what a way through the mesh costs, and whether one is slower than
// another. What it makes is in namespaces of its own and is gone when a measurement ends.
package perf

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"harness.example/harness/fixtures"
)

//go:embed *.yaml
var manifests embed.FS

// A Cluster is where a measurement takes place.
type Cluster struct {
	Config  *rest.Config
	Image   string // of the backends, present on every node or pullable
	Run     string // id of the run, a valid label value
	Gateway Gateway
}

// Gateway is the ingress gateway's workload, as seen from inside the cluster.
type Gateway struct {
	Namespace string
	Service   string            // "" where there is none
	Selector  map[string]string // labels of its pods; "istio" is what a Gateway selects
}

// A Lab is a namespace of one measurement and what was applied in it.
type Lab struct {
	Namespace string
	fixtures  *fixtures.Client
	vars      fixtures.Vars
}

// newLab makes nothing yet. what is part of the namespace's name; one run has one Lab of a name.
func newLab(c Cluster, what string) (*Lab, error) {
	client, err := fixtures.NewClient(c.Config, c.Run)
	if err != nil {
		return nil, err
	}
	namespace := fmt.Sprintf("harness-%s-%s", what, c.Run)
	return &Lab{Namespace: namespace, fixtures: client, vars: fixtures.Vars{"NAMESPACE": namespace, "IMAGE": c.Image}}, nil
}

// apply applies a manifest and waits until what it holds is ready. vars are added to NAMESPACE and IMAGE.
func (l *Lab) apply(ctx context.Context, manifest string, vars fixtures.Vars) error {
	applied, err := l.create(ctx, manifest, vars)
	if err != nil {
		return err
	}
	return l.fixtures.WaitReady(ctx, applied...)
}

// create is apply without the wait.
func (l *Lab) create(ctx context.Context, manifest string, vars fixtures.Vars) ([]*unstructured.Unstructured, error) {
	all := maps.Clone(l.vars)
	maps.Copy(all, vars)
	objects, err := fixtures.Load(manifests, manifest, all)
	if err != nil {
		return nil, err
	}
	return l.fixtures.Apply(ctx, objects...)
}

// abandon removes everything after err.
func (l *Lab) abandon(ctx context.Context, err error) error { return errors.Join(err, l.Remove(ctx)) }

const removeTimeout = 3 * time.Minute

// Remove deletes everything of the run, also when ctx has ended.
func (l *Lab) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if err := l.fixtures.DeleteRun(ctx); err != nil {
		return fmt.Errorf("remove namespace %s: %w", l.Namespace, err)
	}
	return nil
}
