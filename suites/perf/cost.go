// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"harness.example/harness/fixtures"
	"harness.example/harness/suites/forward"
)

// proxyContainer is Istio's Envoy, in sidecars and in gateways.
const proxyContainer = "istio-proxy"

// sampleWithin bounds the wait for the kubelet's next sample of a container, which it takes every 10 to 20 seconds.
const sampleWithin = time.Minute

// Costs reads what proxies use: CPU and memory from their kubelets, memory and requests from Envoy itself. Envoy does not
// count its own CPU time, so for that there is one source only.
type Costs struct {
	kube     kubernetes.Interface
	forwards *forward.Forwards
	pods     []corev1.Pod
}

// NewCosts is about the proxies of these pods. Close it.
func NewCosts(config *rest.Config, pods ...corev1.Pod) (*Costs, error) {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("read costs: %w", err)
	}
	return &Costs{kube: kube, forwards: forward.New(config), pods: pods}, nil
}

// Close ends the ways to the proxies.
func (c *Costs) Close() { c.forwards.Close() }

// Usage is what each proxy has used since it started, by pod.
type Usage map[string]Sample

// A Sample is one proxy's part.
type Sample struct {
	At         time.Time     // when the kubelet took it, by its node's clock
	CPU        time.Duration // of the container, pilot-agent included
	WorkingSet uint64        // bytes, of the container
	Allocated  uint64        // bytes, by Envoy's own count
	Physical   uint64        // bytes that Envoy's allocator holds
	sent       map[endpoint]uint64
}

// A Cost is what a proxy used between two samples.
type Cost struct {
	Seconds      float64 `json:"seconds"` // between the kubelet's two samples
	CPUSeconds   float64 `json:"cpuSeconds"`
	WorkingSetMB float64 `json:"workingSetMB"`     // at the end, by the kubelet
	AllocatedMB  float64 `json:"envoyAllocatedMB"` // at the end, by Envoy itself
	PhysicalMB   float64 `json:"envoyPhysicalMB"`  // at the end, by Envoy itself
	Requests     uint64  `json:"requests"`         // by Envoy's own count, to endpoints of Services, whoever asked
}

// Read waits until every kubelet has taken a sample that it had not when Read was called, so that all work that had ended by
// then is in it; then it asks the Envoys.
func (c *Costs) Read(ctx context.Context) (Usage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sampleWithin, fmt.Errorf("the kubelet took no new sample within %s", sampleWithin))
	defer cancel()
	first, err := c.kubelets(ctx)
	if err != nil {
		return nil, err
	}
	var usage Usage
	err = waitFor(ctx, "the kubelets have new samples", func(ctx context.Context) (err error) {
		usage, err = c.kubelets(ctx)
		if err != nil {
			return err
		}
		for pod, s := range usage {
			if !s.At.After(first[pod].At) {
				return fmt.Errorf("that of %s is still of %s", pod, s.At.Format(time.TimeOnly))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range c.pods {
		s := usage[p.Name]
		if s.Allocated, s.Physical, err = envoyMemory(ctx, c.forwards, &p); err != nil {
			return nil, err
		}
		if s.sent, err = envoyRequests(ctx, c.forwards, &p, "outbound|", "inbound|"); err != nil {
			return nil, err
		}
		usage[p.Name] = s
	}
	return usage, nil
}

// kubelets reads the newest samples of all proxies.
func (c *Costs) kubelets(ctx context.Context) (Usage, error) {
	usage := Usage{}
	for _, node := range c.nodes() {
		body, err := c.kube.CoreV1().RESTClient().Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("stats/summary").
			Param("only_cpu_and_memory", "true").DoRaw(ctx)
		if err != nil {
			return nil, fmt.Errorf("ask the kubelet of node %s: %w", node, err)
		}
		if err := usage.add(body, c.pods); err != nil {
			return nil, fmt.Errorf("the kubelet of node %s: %w", node, err)
		}
	}
	for _, p := range c.pods {
		if usage[p.Name].At.IsZero() {
			return nil, fmt.Errorf("the kubelet of node %s has no sample of container %s of pod %s", p.Spec.NodeName, proxyContainer, p.Name)
		}
	}
	return usage, nil
}

func (c *Costs) nodes() []string {
	nodes := map[string]bool{}
	for _, p := range c.pods {
		nodes[p.Spec.NodeName] = true
	}
	return slices.Sorted(maps.Keys(nodes))
}

// add takes the pods' samples from a kubelet's summary.
func (u Usage) add(summary []byte, pods []corev1.Pod) error {
	var s struct {
		Pods []struct {
			Ref struct {
				Name string `json:"name"`
				UID  string `json:"uid"`
			} `json:"podRef"`
			Containers []struct {
				Name string `json:"name"`
				CPU  struct {
					Time  time.Time `json:"time"`
					Usage *uint64   `json:"usageCoreNanoSeconds"`
				} `json:"cpu"`
				Memory struct {
					WorkingSet uint64 `json:"workingSetBytes"`
				} `json:"memory"`
			} `json:"containers"`
		} `json:"pods"`
	}
	if err := json.Unmarshal(summary, &s); err != nil {
		return err
	}
	for _, p := range s.Pods {
		if !slices.ContainsFunc(pods, func(want corev1.Pod) bool { return string(want.UID) == p.Ref.UID }) {
			continue
		}
		for _, c := range p.Containers {
			if c.Name == proxyContainer && c.CPU.Usage != nil {
				u[p.Ref.Name] = Sample{At: c.CPU.Time, CPU: time.Duration(*c.CPU.Usage), WorkingSet: c.Memory.WorkingSet} //nolint:gosec // 292 years
			}
		}
	}
	return nil
}

// Sub is what was used since before. A container that was started anew meanwhile is an error: what the old one used is lost.
func (u Usage) Sub(before Usage) (map[string]Cost, error) {
	const mb = 1 << 20
	out := map[string]Cost{}
	for pod, now := range u {
		then, ok := before[pod]
		if !ok || now.CPU < then.CPU {
			return nil, fmt.Errorf("the proxy of %s was started anew meanwhile", pod)
		}
		if !now.At.After(then.At) {
			return nil, fmt.Errorf("both samples of %s are of %s", pod, now.At.Format(time.TimeOnly))
		}
		out[pod] = Cost{
			Seconds: now.At.Sub(then.At).Seconds(), CPUSeconds: (now.CPU - then.CPU).Seconds(), Requests: sentSince(now.sent, then.sent),
			WorkingSetMB: float64(now.WorkingSet) / mb, AllocatedMB: float64(now.Allocated) / mb, PhysicalMB: float64(now.Physical) / mb,
		}
	}
	return out, nil
}

// sentSince is how many requests were sent between two looks. Endpoints come and go, and their counters with them.
func sentSince(now, then map[endpoint]uint64) uint64 {
	total := uint64(0)
	for at, n := range now {
		if before := then[at]; before <= n {
			n -= before
		}
		total += n
	}
	return total
}

// Beyond takes away what the proxy would have used without any load, at the rate of a cost that it had without.
func (c Cost) Beyond(idle Cost) Cost {
	c.CPUSeconds -= idle.CPUSeconds / idle.Seconds * c.Seconds
	return c
}

// perThousand is CPU milliseconds per 1,000 requests of proxies that share them.
func perThousand(costs ...Cost) float64 {
	cpu, requests := 0.0, uint64(0)
	for _, c := range costs {
		cpu, requests = cpu+c.CPUSeconds, requests+c.Requests
	}
	return cpu * 1e6 / float64(requests)
}

// pollEvery is how often a wait looks again. Each look costs the proxies something that is then in what they are said to have used.
const pollEvery = 250 * time.Millisecond

// waitFor tries until there is no error.
func waitFor(ctx context.Context, what string, try func(context.Context) error) error {
	return fixtures.Until(ctx, pollEvery, what, func(ctx context.Context) (bool, error) {
		err := try(ctx)
		return err == nil, err
	})
}
