// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// scopes are the fields that concern traffic and scale, kind by kind. What is left out has its reason here, for everybody to
// see, and is no part of the figure.
var scopes = []scope{ //nolint:gochecknoglobals // a constant list
	{
		kind: "Gateway",
		in:   []string{"Gateway.spec"},
	},
	{
		kind: "VirtualService",
		in:   []string{"VirtualService.spec"},
	},
	{
		kind: "DestinationRule",
		in:   []string{"DestinationRule.spec"},
	},
	{
		kind: "Service",
		in:   []string{"Service.spec"},
	},
	{
		kind: "Deployment",
		in:   []string{"Deployment.spec"},
		out: map[string]string{
			"Deployment.spec.template": "a Pod: counted there",
		},
	},
	{
		kind: "HorizontalPodAutoscaler",
		in:   []string{"HorizontalPodAutoscaler.spec"},
	},
}
