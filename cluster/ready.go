// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// rolledOut waits until workloads, given as deployment/name or daemonset/name,
// have all pods of their newest template ready.
func (b *bringUp) rolledOut(ctx context.Context, namespace string, workloads ...string) error {
	return until(ctx, 3*time.Minute, func(ctx context.Context) error {
		for _, workload := range workloads {
			if err := rollout(ctx, b.client, namespace, workload); err != nil {
				return err
			}
		}
		return nil
	})
}

// rollout says in its error what a workload still lacks, and what its pods say.
func rollout(ctx context.Context, client kubernetes.Interface, namespace, workload string) error {
	kind, name, _ := strings.Cut(workload, "/")
	var want, updated, ready int32
	var selector *metav1.LabelSelector
	var current bool
	switch kind {
	case "deployment":
		d, err := client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		want, updated, ready = *d.Spec.Replicas, d.Status.UpdatedReplicas, d.Status.AvailableReplicas
		selector, current = d.Spec.Selector, d.Status.ObservedGeneration >= d.Generation && d.Status.Replicas == want
	case "daemonset":
		d, err := client.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		want, updated, ready = d.Status.DesiredNumberScheduled, d.Status.UpdatedNumberScheduled, d.Status.NumberAvailable
		selector, current = d.Spec.Selector, d.Status.ObservedGeneration >= d.Generation && want > 0
	default:
		return fmt.Errorf("workload %q is neither deployment/ nor daemonset/", workload)
	}
	if current && updated == want && ready == want && want > 0 {
		return nil
	}
	return fmt.Errorf("%s %s/%s has %d of %d pods ready%s", kind, namespace, name, ready, want, podTrouble(ctx, client, namespace, selector))
}

// podTrouble is why pods are not ready, in one line.
func podTrouble(ctx context.Context, client kubernetes.Interface, namespace string, selector *metav1.LabelSelector) string {
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
	if err != nil {
		return ""
	}
	var reasons []string
	for _, pod := range pods.Items {
		if reason := podReason(&pod); reason != "" {
			reasons = append(reasons, pod.Name+": "+reason)
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	return " (" + strings.Join(reasons, "; ") + ")"
}

func podReason(pod *corev1.Pod) string {
	statuses := append(append([]corev1.ContainerStatus{}, pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...)
	for _, s := range statuses {
		if waiting := s.State.Waiting; waiting != nil && waiting.Reason != "PodInitializing" && waiting.Reason != "ContainerCreating" {
			return strings.TrimSpace(waiting.Reason + " " + waiting.Message)
		}
		if ended := s.LastTerminationState.Terminated; ended != nil && !s.Ready {
			return strings.TrimSpace(fmt.Sprintf("ended with %d %s %s", ended.ExitCode, ended.Reason, ended.Message))
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Message
		}
	}
	return ""
}
