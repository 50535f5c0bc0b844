// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"encoding/json"
	"fmt"
	"os"

	utilversion "k8s.io/apimachinery/pkg/util/version"
)

// Target says where the cases run. It is plain data: the command line fills it from the environment it brought up or
// attached to, and HARNESS_TARGET names a file that holds it as JSON.
type Target struct {
	Kubeconfig string  // path of the kubeconfig file
	Context    string  // its context, "" = the current one
	Gateway    Gateway // the ingress gateway the cases speak through
	Nodes      []Node
	Image      string // reference of the backend image, present on every node or pullable
	// IstioNamespace is where istiod runs.
	IstioNamespace string
	// Disruptive permits cases that touch nodes.
	Disruptive bool
	// Capabilities maps a capability's name to "" when the cluster has it, else to the reason it is missing.
	Capabilities map[string]string
	Versions     map[string]string // component to version, for the report
}

// Gateway is the ingress gateway's workload and the way to it.
type Gateway struct {
	Namespace string            // of its Deployment, its Service and its TLS secrets
	Service   string            // name of its Service
	Selector  map[string]string // labels of its pods; "istio" is what the fixtures' Gateways select
	Host      string            // address reachable from this process
	Ports     map[string]int    // "http", "https", "tcp" to the port at Host
}

// Node is one machine of the cluster.
type Node struct {
	Name         string
	Address      string // reachable from this process when the cluster has the capability NodeAccess
	ControlPlane bool
	Exec         []string // argv prefix that runs a command on the node, nil when there is none
}

// Capability is something a case needs of its cluster; an unmet one makes the case a skip with the reason.
type Capability string

// The capabilities known. NodeExec and ManyNodes are read from Target.Nodes, the others from Target.Capabilities.
const (
	LoadBalancer Capability = "LoadBalancer" // Services of type LoadBalancer get an address this process reaches
	Metrics      Capability = "Metrics"      // metrics.k8s.io answers
	NodeAccess   Capability = "NodeAccess"   // this process reaches the nodes' addresses
	Injection    Capability = "Injection"    // pods labelled for it get a sidecar
	GatewayTLS   Capability = "GatewayTLS"   // the gateway's Service has an HTTPS port
	GatewayTCP   Capability = "GatewayTCP"   // the gateway's Service has a TCP port
	NodeExec     Capability = "NodeExec"     // commands can be run on nodes, and the user allows it
	ManyNodes    Capability = "ManyNodes"    // at least two nodes run workloads
	// CustomMetrics: nobody serves custom.metrics.k8s.io and external.metrics.k8s.io yet, so that the run may.
	CustomMetrics Capability = "CustomMetrics"
	// ScaleToZero and ScaleTolerance are what autoscalers have learned, read from Target.Versions.
	ScaleToZero    Capability = "ScaleToZero"
	ScaleTolerance Capability = "ScaleTolerance"
)

// Missing returns why the target lacks the capability, "" when it has it.
func (t Target) Missing(c Capability) string {
	switch c {
	case GatewayTLS, GatewayTCP:
		name := map[Capability]string{GatewayTLS: "https", GatewayTCP: "tcp"}[c]
		if t.Gateway.Ports[name] == 0 {
			return fmt.Sprintf("the gateway %s/%s has no port named %q", t.Gateway.Namespace, t.Gateway.Service, name)
		}
		return ""
	case NodeExec:
		if !t.Disruptive {
			return "changes nodes, which needs --disruptive on a cluster the harness did not make"
		}
		for _, n := range t.Nodes {
			if len(n.Exec) == 0 {
				return "no way to run a command on node " + n.Name
			}
		}
		return ""
	case ManyNodes:
		if len(t.workers()) < 2 {
			return fmt.Sprintf("has %d node(s) for workloads, needs 2", len(t.workers()))
		}
		return ""
	case ScaleToZero, ScaleTolerance:
		since := map[Capability]string{ScaleToZero: "1.37", ScaleTolerance: "1.35"}[c]
		if now, err := utilversion.ParseGeneric(t.Versions["kubernetes"]); err != nil || now.LessThan(utilversion.MustParseGeneric(since)) {
			return fmt.Sprintf("autoscalers have %s since Kubernetes %s, here is %q", c, since, t.Versions["kubernetes"])
		}
		return ""
	case LoadBalancer, Metrics, NodeAccess, Injection, CustomMetrics:
		if c == CustomMetrics && !t.Disruptive {
			return "registers APIs for the whole cluster, which needs --disruptive on a cluster the harness did not make"
		}
		reason, known := t.Capabilities[string(c)]
		if !known {
			return "the target does not say that it has " + string(c)
		}
		return reason
	default:
		return "unknown capability " + string(c)
	}
}

// workers are the nodes that run ordinary pods: all but the control plane, or all when there is nothing else.
func (t Target) workers() []Node {
	var out []Node
	for _, n := range t.Nodes {
		if !n.ControlPlane {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return t.Nodes
	}
	return out
}

// ReadTarget reads a Target from a JSON file.
func ReadTarget(name string) (Target, error) {
	b, err := os.ReadFile(name) //nolint:gosec // the user names the file
	if err != nil {
		return Target{}, fmt.Errorf("read target: %w", err)
	}
	var t Target
	if err := json.Unmarshal(b, &t); err != nil {
		return Target{}, fmt.Errorf("read target %s: %w", name, err)
	}
	if t.Kubeconfig == "" || t.Gateway.Host == "" {
		return Target{}, fmt.Errorf("read target %s: Kubeconfig and Gateway.Host must be set", name)
	}
	return t, nil
}
