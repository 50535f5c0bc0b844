// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// Omission is a behaviour that one could expect a case for, and why there is none.
type Omission struct{ What, Why string }

// LeftOut are the behaviours that no case proves. Single fields have their reasons in scopes.
func LeftOut() []Omission {
	const unwritten = "not written yet"
	return []Omission{
		{"HPA on memory, on custom, object and external metrics; scale-in; policies, windows and tolerance; missing metrics", unwritten + ": they wait for an adapter of custom.metrics.k8s.io"},
		{"HPA to ten pods", "ten pods on a machine of two processors would time the start of pods, not the autoscaler; the maximum is four"},
		{"Service: no endpoints, internalTrafficPolicy and externalTrafficPolicy Local", "drafted, not proved: a gateway is given only the endpoints of its own node by internalTrafficPolicy Local, which the live proof does not know yet"},
		{"Service: headless, ExternalName, UDP, external addresses, source ranges, families, health check port, refusals, change of type from inside", unwritten},
		{"Service: trafficDistribution PreferClose", "the nodes have no zones, and a case does not label nodes"},
		{"Pod: places by taints, preferences and priority", "preferences are scores among others, which a case cannot decide by; taints and preemption would disturb other cases' pods"},
		{"Pod: topologySpreadConstraints' minDomains, matchLabelKeys and nodeTaintsPolicy", unwritten},
		{"Pod: a failed liveness probe under load", "drafted, not proved: in one run of four the restarted pod, ready again, got no traffic for a moment, and why is not known; Pod/RestartPolicy asserts the restart"},
		{"Pod: a gRPC probe", "the backend does not serve grpc.health.v1"},
		{"Istio's sourceSubnet, defaultEndpoint and outlierDetectionHttpErrorCodes", unread},
		{"DestinationRule: revocation lists in files of a sidecar", "no effect on this Istio: the agent's own list takes their place; a list inside of the credential's Secret is asserted"},
		{"Weights that do not sum to 100 are refused", "they are not: weights are relative, and a case asserts that"},
	}
}
