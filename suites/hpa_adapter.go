// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"harness.example/harness/fixtures"
)

// startAdapter brings the run's adapter for custom and external metrics, which serves all its cases. The APIs are
// registered only once it answers: an API whose server is away holds up every deletion of a namespace on the cluster.
func (r *runner) startAdapter(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	objs, err := r.load("base/adapter.yaml", r.vars())
	if err != nil {
		return err
	}
	apis, workload := []*unstructured.Unstructured{}, []*unstructured.Unstructured{}
	for _, o := range objs {
		if o.GetKind() == "APIService" {
			apis = append(apis, o)
		} else {
			workload = append(workload, o)
		}
	}
	for _, api := range apis {
		if err := r.free(ctx, api); err != nil {
			return err
		}
	}
	for _, part := range [][]*unstructured.Unstructured{workload, apis} {
		live, err := r.fx.Apply(ctx, part...)
		if err == nil {
			err = r.fx.WaitReady(ctx, live...)
		}
		if err != nil {
			return fmt.Errorf("set the metrics adapter up: %w", err)
		}
	}
	return nil
}

// free makes sure that nobody else serves an API. What a run that was killed left behind leads to a namespace that is gone.
func (r *runner) free(ctx context.Context, api *unstructured.Unstructured) error {
	live, err := r.fx.Get(ctx, api)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	namespace, _, _ := unstructured.NestedString(live.Object, "spec", "service", "namespace")
	ns, err := r.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && ns.DeletionTimestamp != nil {
		return nil
	}
	return errors.Join(err, fmt.Errorf("%s is served by namespace %s (run %q): end that run, or leave these cases out",
		api.GetName(), namespace, live.GetLabels()[fixtures.RunLabel]))
}

// needsAdapter says whether a case asks the adapter.
func needsAdapter(c Case) bool { return slices.Contains(c.Needs, CustomMetrics) }
