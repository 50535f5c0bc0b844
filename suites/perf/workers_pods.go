// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"harness.example/harness/fixtures"
)

// podProxy calls pods through the API server, one request each: there is no connection that a long load could lose. It does
// not use client-go's Request.Do, which turns an answer that is no success into an error without its status.
func podProxy(config *rest.Config, namespace string) (caller, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	kube, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return func(ctx context.Context, pod, method, path string, body []byte) (status int, answer []byte, err error) {
		url := kube.CoreV1().RESTClient().Get().Namespace(namespace).Resource("pods").Name("http:" + pod + ":8081").SubResource("proxy").Suffix(path).URL()
		request, err := http.NewRequestWithContext(ctx, method, url.String(), bytes.NewReader(body))
		if err != nil {
			return 0, nil, err
		}
		response, err := client.Do(request)
		if err != nil {
			return 0, nil, err
		}
		defer func() { _ = response.Body.Close() }()
		answer, err = io.ReadAll(response.Body)
		return response.StatusCode, answer, err
	}, nil
}

// watched is the pod of a member as it was seen last.
type watched struct {
	mu    sync.Mutex
	last  *corev1.Pod
	ready chan struct{} // closed once it is; the member's Pod and Node are set then
}

// watch follows the pods of the namespace until stop.
func (c *crew) watch(kube kubernetes.Interface, namespace string) (stop func(), err error) {
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(namespace))
	see := func(o any, gone bool) {
		if final, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = final.Obj
		}
		if pod, ok := o.(*corev1.Pod); ok {
			c.see(pod, gone)
		}
	}
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { see(o, false) },
		UpdateFunc: func(_, o any) { see(o, false) },
		DeleteFunc: func(o any) { see(o, true) },
	})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	done := make(chan struct{})
	factory.Start(done)
	return func() { close(done); factory.Shutdown() }, nil
}

// see takes in what became of a pod. A member keeps the first that it had: another one knows nothing of its job.
func (c *crew) see(pod *corev1.Pod, gone bool) {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 || i >= len(c.members) {
		return
	}
	m := c.members[i]
	m.pod.mu.Lock()
	defer m.pod.mu.Unlock()
	if m.pod.last != nil && m.pod.last.UID != pod.UID {
		return
	}
	m.pod.last = pod
	if why := ended(pod); why != "" {
		m.lose(errors.New(why))
	} else if gone {
		m.lose(errors.New("its pod was deleted"))
	}
	select {
	case <-m.pod.ready:
		return
	default:
	}
	if fixtures.PodReady(pod) {
		m.Pod, m.Node = pod.Name, pod.Spec.NodeName
		close(m.pod.ready)
	}
}

// ended says how a pod ended, "" while it is there.
func ended(p *corev1.Pod) string {
	var why []string
	add := func(parts ...string) {
		for _, part := range parts {
			if part != "" {
				why = append(why, part)
			}
		}
	}
	// An eviction or a node's taint says so here, a plain deletion has no such condition.
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			add(c.Reason, c.Message)
		}
	}
	if p.Status.Phase == corev1.PodFailed {
		add(p.Status.Reason, p.Status.Message)
	}
	exited := false
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && s.Name == "worker" {
			exited = true
			add(t.Reason, fmt.Sprintf("exit code %d", t.ExitCode), strings.TrimSpace(t.Message))
		}
	}
	what := ""
	switch {
	case exited:
		what = "its process ended before its result was fetched"
	case p.DeletionTimestamp != nil:
		what = "its pod was deleted"
	case p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded:
		what = "its pod ended"
	default:
		return ""
	}
	if len(why) > 0 {
		what += " (" + strings.Join(why, ", ") + ")"
	}
	return what
}

// awaitReady waits until every member's pod is ready; one that ended before is an error.
func (c *crew) awaitReady() error {
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	for _, m := range c.members {
		select {
		case <-m.pod.ready:
			continue
		case <-m.ctx.Done():
			return fmt.Errorf("worker %d was not ready: %w", m.Index, context.Cause(m.ctx))
		case <-timeout.C:
			return c.lacking()
		}
	}
	return nil
}

// lacking says which pods are not ready, and why the first of them are not.
func (c *crew) lacking() error {
	const told = 3
	var why []string
	for _, m := range c.members {
		select {
		case <-m.pod.ready:
			continue
		default:
		}
		m.pod.mu.Lock()
		why = append(why, fmt.Sprintf("worker %d %s", m.Index, waitsFor(m.pod.last)))
		m.pod.mu.Unlock()
	}
	return fmt.Errorf("%d of %d workers are not ready after %s: %s",
		len(why), len(c.members), readyTimeout, strings.Join(why[:min(told, len(why))], "; "))
}

// waitsFor says what a pod that is not ready lacks.
func waitsFor(p *corev1.Pod) string {
	if p == nil {
		return "has no pod"
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return fmt.Sprintf("is not scheduled: %s", c.Message)
		}
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil {
			return fmt.Sprintf("waits on node %s: %s %s", p.Spec.NodeName, w.Reason, w.Message)
		}
	}
	return fmt.Sprintf("is %s on node %s and not ready", p.Status.Phase, p.Spec.NodeName)
}

// nodes is on how many nodes the members are.
func (c *crew) nodes() int {
	names := map[string]bool{}
	for _, m := range c.members {
		names[m.Node] = true
	}
	return len(names)
}
