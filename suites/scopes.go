// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// Reasons that several fields share.
const (
	gatewayFile = "a path in the gateway's own file system, where a stock gateway has no such file; certificates come from Secrets (credentialName)"
	untargeted  = "one type of target for all sources; the autoscaler does not read this one for a metric of this source"
	unread      = "in the API, but this Istio does not read it"
)

// scopes are the fields that concern traffic and scale, kind by kind. What is left out has its reason here, for everybody to
// see, and is no part of the figure.
var scopes = []scope{ //nolint:gochecknoglobals // a constant list
	{
		kind: "Gateway",
		in:   []string{"Gateway.spec"},
		out: map[string]string{
			"Gateway.spec.servers[].tls.serverCertificate": gatewayFile,
			"Gateway.spec.servers[].tls.privateKey":        gatewayFile,
			"Gateway.spec.servers[].tls.caCertificates":    gatewayFile,
			"Gateway.spec.servers[].tls.caCrl":             gatewayFile,
			"Gateway.spec.servers[].tls.tlsCertificates[]": gatewayFile,
			"Gateway.spec.servers[].defaultEndpoint":       unread,
		},
	},
	{
		kind: "VirtualService",
		in:   []string{"VirtualService.spec"},
		out:  map[string]string{"VirtualService.spec.tcp[].match[].sourceSubnet": unread},
	},
	{
		kind: "DestinationRule",
		in:   []string{"DestinationRule.spec"},
		out:  map[string]string{"DestinationRule.spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes[]": unread},
	},
	{
		kind: "Service",
		in:   []string{"Service.spec"},
	},
	{
		kind: "Deployment",
		in:   []string{"Deployment.spec"},
		out:  map[string]string{"Deployment.spec.template": "a Pod's"},
	},
	{
		kind: "HorizontalPodAutoscaler",
		in:   []string{"HorizontalPodAutoscaler.spec"},
		out: map[string]string{
			"HorizontalPodAutoscaler.spec.metrics[].object.target.averageUtilization":   untargeted,
			"HorizontalPodAutoscaler.spec.metrics[].external.target.averageUtilization": untargeted,
			"HorizontalPodAutoscaler.spec.metrics[].pods.target.averageUtilization":     untargeted,
			"HorizontalPodAutoscaler.spec.metrics[].pods.target.value":                  untargeted,
			"HorizontalPodAutoscaler.spec.metrics[].resource.target.value":              untargeted,
			"HorizontalPodAutoscaler.spec.metrics[].containerResource.target.value":     untargeted,
		},
	},
}
