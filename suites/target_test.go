// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"strings"
	"testing"
)

func TestWhatATargetLacks(t *testing.T) {
	have := map[string]string{string(CustomMetrics): ""}
	for name, c := range map[string]struct {
		target Target
		need   Capability
		says   string // "" = nothing is missing
	}{
		"APIs of the whole cluster":      {Target{Capabilities: have, Disruptive: true}, CustomMetrics, ""},
		"on a cluster that is not ours":  {Target{Capabilities: have}, CustomMetrics, "--disruptive"},
		"that somebody serves already":   {Target{Capabilities: map[string]string{string(CustomMetrics): "is served"}, Disruptive: true}, CustomMetrics, "is served"},
		"what this Kubernetes knows":     {Target{Versions: map[string]string{"kubernetes": "v1.37.2"}}, ScaleToZero, ""},
		"what an older one does not yet": {Target{Versions: map[string]string{"kubernetes": "v1.36.4"}}, ScaleToZero, "since Kubernetes 1.37"},
		"what nobody has heard of":       {Target{}, Capability("Wings"), "unknown capability"},
	} {
		if got := c.target.Missing(c.need); got != "" && c.says == "" || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, want %q", name, got, c.says)
		}
	}
}
