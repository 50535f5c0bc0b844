// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"testing"
	"time"

	"harness.example/harness/fixtures"
)

// manifestVars are, per manifest, the variables that it takes beside NAMESPACE and IMAGE, with a value.
var manifestVars = map[string]fixtures.Vars{
	"client.yaml":         {"INJECT": "true"},
	"workers.yaml":        {"INJECT": "true", "N": "2", "LIFE": "300"},
	"overhead.yaml":       {"SERVER_NODE": "a", "CLIENT_NODE": "b", "GATEWAY": "ingressgateway"},
	"overhead_plant.yaml": {"PLANT": seconds(5 * time.Millisecond)},
}

func TestManifestsLoad(t *testing.T) {
	entries, err := manifests.ReadDir(".")
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d manifests: %v", len(entries), err)
	}
	for _, e := range entries {
		vars, ok := manifestVars[e.Name()]
		if !ok {
			t.Errorf("%s is not in manifestVars", e.Name())
			continue
		}
		vars["NAMESPACE"], vars["IMAGE"] = "harness-perf-1", "harness:1"
		if objects, err := fixtures.Load(manifests, e.Name(), vars); err != nil || len(objects) < 1 {
			t.Errorf("%s: %d objects: %v", e.Name(), len(objects), err)
		}
	}
}
