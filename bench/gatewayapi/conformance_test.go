// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance is the suite of the Gateway API project, as it is.
func TestConformance(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("needs a cluster: run `make benchgatewayapi`")
	}
	conformance.RunConformance(t)
}
