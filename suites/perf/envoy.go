// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"harness.example/harness/suites/forward"
)

const adminPort = 15000 // Envoy's, on the pod's loopback

// An endpoint is where one of an Envoy's clusters sends to.
type endpoint struct{ cluster, ip string }

// envoyRequests is how many requests an Envoy has sent to each endpoint of the clusters whose name begins with one of the
// prefixes, since it has known the endpoint. These counters are there whatever statistics Istio tells its proxies to leave out.
func envoyRequests(ctx context.Context, forwards *forward.Forwards, pod *corev1.Pod, prefixes ...string) (map[endpoint]uint64, error) {
	quoted := make([]string, len(prefixes))
	for i, p := range prefixes {
		quoted[i] = regexp.QuoteMeta(p)
	}
	filter := "^(" + strings.Join(quoted, "|") + ").*"
	body, err := forwards.Get(ctx, pod, adminPort, "/clusters?format=json&filter="+url.QueryEscape(filter))
	if err != nil {
		return nil, fmt.Errorf("read the clusters of %s: %w", pod.Name, err)
	}
	out, err := requestsOf(body, prefixes)
	if err != nil {
		return nil, fmt.Errorf("the clusters of %s: %w", pod.Name, err)
	}
	return out, nil
}

// requestsOf reads a dump of clusters. An Envoy that does not know the filter gives all of them.
func requestsOf(body []byte, prefixes []string) (map[endpoint]uint64, error) {
	var dump struct {
		Statuses []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
					} `json:"socket_address"`
				} `json:"address"`
				Stats []struct {
					Name  string `json:"name"`
					Value uint64 `json:"value,string"`
				} `json:"stats"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(body, &dump); err != nil {
		return nil, err
	}
	out := map[endpoint]uint64{}
	for _, c := range dump.Statuses {
		if !hasPrefix(c.Name, prefixes) {
			continue
		}
		for _, h := range c.Hosts {
			for _, s := range h.Stats {
				if s.Name == "rq_total" {
					out[endpoint{c.Name, h.Address.Socket.Address}] += s.Value
				}
			}
		}
	}
	return out, nil
}

func hasPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// envoyMemory is what an Envoy says it has allocated, and what it holds of the machine's memory, in bytes.
func envoyMemory(ctx context.Context, forwards *forward.Forwards, pod *corev1.Pod) (allocated, physical uint64, err error) {
	body, err := forwards.Get(ctx, pod, adminPort, "/memory")
	if err != nil {
		return 0, 0, fmt.Errorf("read the memory of %s: %w", pod.Name, err)
	}
	var m struct {
		Allocated uint64 `json:"allocated,string"`
		Physical  uint64 `json:"total_physical_bytes,string"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return 0, 0, fmt.Errorf("the memory of %s: %w", pod.Name, err)
	}
	return m.Allocated, m.Physical, nil
}
