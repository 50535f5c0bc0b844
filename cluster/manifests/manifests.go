// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package manifests holds what is installed on a cluster that the harness
// brings up itself.
package manifests

import _ "embed"

//go:generate go run gen.go

// The rendered manifests. Istio's image tag is the word ISTIO_TAG: the two ways
// to get images have different builds of one release line.
var (
	//go:embed istio.yaml
	Istio string
	//go:embed metallb.yaml
	MetalLB string
	//go:embed metrics-server.yaml
	MetricsServer string
)

// IstioTag is the placeholder in Istio.
const IstioTag = "ISTIO_TAG"
