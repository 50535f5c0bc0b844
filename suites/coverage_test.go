// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"slices"
	"strings"
	"testing"

	"harness.example/harness/fixtures"
)

// asserted is the ratchet: so many fields of each kind are asserted, and never fewer.
var asserted = map[string]int{
	"Gateway": 18, "VirtualService": 114, "DestinationRule": 74, "Service": 24, "Deployment": 12, "HorizontalPodAutoscaler": 44,
}

func TestCoverageNeverFalls(t *testing.T) {
	kinds, err := CoverageOf(fixtures.FS, All())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		switch n := k.Count(Asserted); {
		case n < asserted[k.Kind]:
			t.Errorf("%s: %d fields are asserted, there were %d", k.Kind, n, asserted[k.Kind])
		case n > asserted[k.Kind]:
			t.Errorf("%s: %d fields are asserted: set the ratchet, which is at %d", k.Kind, n, asserted[k.Kind])
		}
	}
}

// Every path that a list names is a field of its API: a typing error would let a field slip out of the figure.
func TestScopesNameRealFields(t *testing.T) {
	for _, s := range scopes {
		wide := scope{kind: s.kind, in: []string{s.kind}}
		if s.kind == "Deployment" || s.kind == "Pod" {
			wide.in = s.in // a Pod holds more than can be listed
		}
		leaves := wide.leaves()
		paths := append(slices.Clone(s.in), slices.Collect(func(yield func(string) bool) {
			for path := range s.out {
				if !yield(path) {
					return
				}
			}
		})...)
		for _, path := range paths {
			if !slices.ContainsFunc(leaves, func(l leaf) bool { return below(l.path, path) }) {
				t.Errorf("%s is no field of %s", path, s.kind)
			}
		}
	}
	for _, w := range whole {
		if !strings.Contains(w, ".spec.") {
			t.Errorf("%s is no part of a spec", w)
		}
	}
}

func TestResolve(t *testing.T) {
	for entry, want := range map[string]string{
		"VirtualService.spec.http[].route[].weight":                          "",
		"DestinationRule.spec.trafficPolicy.loadBalancer.simple=ROUND_ROBIN": "",
		"DestinationRule.spec.trafficPolicy.loadBalancer.simple=ROUNDROBIN":  "no such value",
		"Service.spec.selector": "no field \"selector\"",
		"Service.spec.ports[]":  "not a single field",
		"HorizontalPodAutoscaler.spec.metrics[].resource.target.averageUtilization": "",
		"Job.spec.template": "no kind \"Job\"",
		"Service":           "not a single field",
	} {
		err := resolve(entry)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", entry, err, want)
		}
	}
}
