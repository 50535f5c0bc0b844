// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"harness.example/harness/suites/envoy"
	"harness.example/harness/suites/forward"
)

// An endpoint is where one of an Envoy's clusters sends to.
type endpoint struct{ cluster, ip string }

// envoyRequests is how many requests an Envoy has sent to each endpoint of the clusters whose name begins with one of the
// prefixes, since it has known the endpoint.
func envoyRequests(ctx context.Context, forwards *forward.Forwards, pod *corev1.Pod, prefixes ...string) (map[endpoint]uint64, error) {
	quoted := make([]string, len(prefixes))
	for i, p := range prefixes {
		quoted[i] = regexp.QuoteMeta(p)
	}
	filter := "^(" + strings.Join(quoted, "|") + ").*"
	body, err := forwards.Get(ctx, pod, envoy.AdminPort, "/clusters?format=json&filter="+url.QueryEscape(filter))
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
	clusters, err := envoy.Clusters(body)
	if err != nil {
		return nil, err
	}
	out := map[endpoint]uint64{}
	for _, c := range clusters {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(c.Name, p) }) {
			continue
		}
		for _, h := range c.Hosts {
			out[endpoint{c.Name, h.Address.Socket.Address}] += h.Requests()
		}
	}
	return out, nil
}

// envoyMemory is what an Envoy says it has allocated, and what it holds of the machine's memory, in bytes.
func envoyMemory(ctx context.Context, forwards *forward.Forwards, pod *corev1.Pod) (allocated, physical uint64, err error) {
	body, err := forwards.Get(ctx, pod, envoy.AdminPort, "/memory")
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
