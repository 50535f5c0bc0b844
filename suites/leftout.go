// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// Omission is a behaviour that one could expect a case for, and why there is none.
type Omission struct{ What, Why string }

// LeftOut are the behaviours that no case proves. Single fields have their reasons in scopes.
func LeftOut() []Omission {
	const unwritten = "not written yet"
	return []Omission{
		{"HPA to ten pods", "ten pods on a machine of two processors would time the start of pods, not the autoscaler; the maximum is four"},
		{"Service: loadBalancerIP", "deprecated, and each balancer makes of it what it likes"},
		{"Service: that externalTrafficPolicy Cluster hides the client", "on nodes that are containers the bridge between them may put its own address there first, which is the client's"},
		{"Service: datagrams to no endpoint are refused", "a node says so to a client a few times in a second only, and a client of datagrams does not ask again"},
		{"Service: two address families", "the cluster has one"},
		{"Service: trafficDistribution PreferClose", "the nodes have no zones, and a case does not label nodes"},
		{"Pod: places by taints, preferences and priority", "preferences are scores among others, which a case cannot decide by; taints and preemption would disturb other cases' pods"},
		{"Pod: topologySpreadConstraints' minDomains, matchLabelKeys and nodeTaintsPolicy", unwritten},
		{"Pod: restarts by a liveness probe and by restartPolicy, under load", "drafted, not proved: in some runs the restarted pod, ready again, got no traffic for a moment, and why is not known; Pod/OutOfMemory asserts a restart"},
		{"Pod: a gRPC probe", "the backend does not serve grpc.health.v1"},
		{"Istio's sourceSubnet, defaultEndpoint and outlierDetectionHttpErrorCodes", unread},
		{"DestinationRule: revocation lists in files of a sidecar", "no effect on this Istio: the agent's own list takes their place; a list inside of the credential's Secret is asserted"},
		{"Weights that do not sum to 100 are refused", "they are not: weights are relative, and a case asserts that"},
	}
}
