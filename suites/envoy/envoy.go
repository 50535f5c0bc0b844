// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package envoy reads what an Envoy's admin port says.
package envoy

import (
	"encoding/json"
	"fmt"
)

// AdminPort is Envoy's in Istio, on the pod's loopback.
const AdminPort = 15000

// A Cluster is one of an Envoy's clusters.
type Cluster struct {
	Name  string `json:"name"` // "outbound|80|subset|name.namespace.svc.cluster.local"
	Hosts []Host `json:"host_statuses"`
}

// A Host is an endpoint of a Cluster.
type Host struct {
	Address struct {
		Socket struct {
			Address string `json:"address"`
			Port    int    `json:"port_value"`
		} `json:"socket_address"`
	} `json:"address"`
	Health struct {
		EDS string `json:"eds_health_status"`
	} `json:"health_status"`
	Stats []struct {
		Name  string `json:"name"`
		Value uint64 `json:"value,string"`
	} `json:"stats"`
}

// Clusters reads the answer to /clusters?format=json.
func Clusters(body []byte) ([]Cluster, error) {
	var dump struct {
		Statuses []Cluster `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(body, &dump); err != nil {
		return nil, fmt.Errorf("the proxy's clusters: %w", err)
	}
	return dump.Statuses, nil
}

// Requests is how many requests the Envoy has sent to the endpoint since it has known it. This counter is there whatever statistics
// Istio tells its proxies to leave out.
func (h Host) Requests() uint64 {
	for _, s := range h.Stats {
		if s.Name == "rq_total" {
			return s.Value
		}
	}
	return 0
}
