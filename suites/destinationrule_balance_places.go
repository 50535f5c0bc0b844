// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// placeCases are about which rule, and which part of it, a request goes by. Where they can, the rules only differ in the
// name that the handshake with the backend asks for, which the backend tells.
func placeCases() []Case {
	const (
		rule   = "DestinationRule.spec.trafficPolicy."
		subset = "DestinationRule.spec.subsets[].trafficPolicy."
	)
	return []Case{
		helloCase(Case{
			Name:    "DestinationRule/PolicyPlaces",
			Doc:     "A port's policy wins over the rule's, a subset's over both, and the subset's port over them all.",
			Fixture: "destinationrule/tls-places.yaml",
			Covers: []string{
				"DestinationRule.spec.host", "DestinationRule.spec.subsets[].name",
				rule + "tls.sni", rule + "tls.mode=SIMPLE", rule + "tls.insecureSkipVerify",
				rule + "portLevelSettings[].port.number", rule + "portLevelSettings[].tls.sni", rule + "portLevelSettings[].tls.mode=SIMPLE",
				rule + "portLevelSettings[].tls.insecureSkipVerify",
				subset + "tls.sni", subset + "tls.mode=SIMPLE", subset + "tls.insecureSkipVerify",
				subset + "portLevelSettings[].port.number", subset + "portLevelSettings[].tls.sni", subset + "portLevelSettings[].tls.mode=SIMPLE",
				subset + "portLevelSettings[].tls.insecureSkipVerify",
			},
			Controls: []Control{
				{Break: "DestinationRule spec.subsets[1].trafficPolicy.portLevelSettings=", Fails: "the subset's port: TLS for subset.test instead of TLS for subset-port.test"},
				{Break: "DestinationRule spec.subsets[1].trafficPolicy=", Fails: "the subset: TLS for rule.test instead of TLS for subset.test"},
				{Break: "DestinationRule spec.trafficPolicy.portLevelSettings[0].port.number=80", Fails: "the port: TLS for rule.test instead of TLS for port.test"},
				{Break: "DestinationRule spec.trafficPolicy.tls.mode=DISABLE; DestinationRule spec.trafficPolicy.portLevelSettings[0].tls.mode=DISABLE", Fails: "the port: plain HTTP instead of TLS for port.test"},
			},
		}, func(e *Env) []route {
			return []route{
				{"the rule", e.URL("/rule"), "TLS for rule.test"},
				{"the port", e.URL("/port"), "TLS for port.test"},
				{"a subset without a policy", e.URL("/plain"), "TLS for rule.test"},
				{"its port", e.URL("/plain-port"), "TLS for port.test"},
				{"the subset", e.URL("/subset"), "TLS for subset.test"},
				{"the subset's port", e.URL("/subset-port"), "TLS for subset-port.test"},
			}
		}),
		{
			Name:    "DestinationRule/PortBalancer",
			Doc:     "Each port has the balancer of its own settings, and the rule's where it has none.",
			Fixture: "destinationrule/port-balance.yaml",
			Judged: judgedBySticking("values, on the rule's port and on the one that hashes") + fmt.Sprintf("; on the third port, any %d picks in a row are distinct on each of %d connections; random picks look so with probability %.1g",
				turnEndpoints, turnConnections, stats.CycleChance(turnPicks, turnEndpoints)),
			Covers: []string{
				rule + "portLevelSettings[].port.number", rule + "portLevelSettings[].loadBalancer.simple=ROUND_ROBIN",
				rule + "portLevelSettings[].loadBalancer.consistentHash.httpQueryParameterName", rule + "loadBalancer.consistentHash.httpHeaderName",
			},
			Check: checkPortBalancer,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.portLevelSettings[0].loadBalancer.simple=RANDOM", Fails: "not a cycle"},
				{Break: "DestinationRule spec.trafficPolicy.portLevelSettings[1].loadBalancer.consistentHash.httpQueryParameterName=other", Fails: "does not stick"},
				{Break: "DestinationRule spec.trafficPolicy.portLevelSettings[0].port.number=80", Fails: "not a cycle"},
			},
		},
		helloCase(Case{
			Name:    "DestinationRule/HostPrecedence",
			Doc:     "Of the rules whose hosts match a Service, the most specific one counts: its name before wildcards, the longer wildcard before the shorter.",
			Fixture: "destinationrule/host-precedence.yaml",
			Covers:  []string{"DestinationRule.spec.host"},
			Controls: []Control{
				{Break: "delete DestinationRule/-two", Fails: "a rule by name and a wildcard: TLS for wide.test instead of TLS for two.test"},
				{Break: "delete DestinationRule/-narrow", Fails: "two wildcards: TLS for wide.test instead of TLS for narrow.test"},
				{Break: "DestinationRule/-wide spec.host=elsewhere.harness.test", Fails: "a wildcard alone: plain HTTP instead of TLS for wide.test"},
				{Break: "DestinationRule/-short spec.host=short", Fails: "a rule by short name and a wildcard: TLS for wide.test instead of TLS for short.test"},
			},
		}, func(e *Env) []route {
			return []route{
				{"a wildcard alone", e.URL("/one"), "TLS for wide.test"},
				{"a rule by name and a wildcard", e.URL("/two"), "TLS for two.test"},
				{"two wildcards", e.URL("/narrow"), "TLS for narrow.test"},
				{"a rule by short name and a wildcard", e.URL("/short"), "TLS for short.test"},
			}
		}),
		helloCase(Case{
			Name:     "DestinationRule/ExportTo",
			Doc:      "A rule counts in the namespaces that it is exported to and in no other, and the client's namespace has the first word.",
			Fixture:  "destinationrule/export-to.yaml",
			Workload: Own,
			Covers:   []string{"DestinationRule.spec.exportTo[]"},
			Controls: []Control{
				{Break: "DestinationRule/-here spec.exportTo=['*']", Fails: "for its own namespace: TLS for here.test instead of plain HTTP"},
				{Break: "DestinationRule/-there spec.exportTo=[elsewhere]", Fails: "for the gateway's namespace: plain HTTP instead of TLS for there.test"},
				{Break: "DestinationRule/-all spec.exportTo=['.']", Fails: "for all: plain HTTP instead of TLS for all.test"},
				{Break: "delete DestinationRule/-nearer", Fails: "with a rule in the gateway's namespace: TLS for service.test instead of TLS for nearer.test"},
			},
		}, func(e *Env) []route {
			return []route{
				{"for its own namespace", e.URL("/here"), "plain HTTP"},
				{"for the gateway's namespace", e.URL("/there"), "TLS for there.test"},
				{"for all", e.URL("/all"), "TLS for all.test"},
				{"with a rule in the gateway's namespace", e.URL("/both"), "TLS for nearer.test"},
			}
		}),
		{
			Name:    "DestinationRule/WorkloadSelector",
			Doc:     "A rule with a selector counts for the clients that it selects, and for no others.",
			Fixture: "destinationrule/workload-selector.yaml",
			Mesh:    true,
			Needs:   []Capability{Injection},
			Judged:  judgedExactly(2),
			Covers:  []string{"DestinationRule.spec.workloadSelector.matchLabels{}"},
			Check:   checkWorkloadSelector,
			Controls: []Control{
				{Break: "DestinationRule spec.workloadSelector=", Fails: "the gateway: TLS for selected.test instead of plain HTTP"},
				{Break: "DestinationRule spec.workloadSelector.matchLabels.role=other", Fails: "the mesh client: plain HTTP instead of TLS for selected.test"},
			},
		},
	}
}

func checkPortBalancer(ctx context.Context, e *Env) error {
	if err := checkTurns(ctx, e); err != nil {
		return err
	}
	if _, err := hashed(ctx, e, e.Outside(), byUser(e, "/header")); err != nil {
		return err
	}
	_, err := hashed(ctx, e, e.Outside(), func(key int) loadgen.Request { return e.URL(fmt.Sprintf("/query?user=%d", key)) })
	return err
}

func checkWorkloadSelector(ctx context.Context, e *Env) error {
	mesh, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	inside := loadgen.Request{URL: "http://" + e.Name() + "." + e.Namespace() + "/"}
	if err := says(ctx, e, mesh, hello, []route{{"the mesh client", inside, "TLS for selected.test"}}); err != nil {
		return err
	}
	return says(ctx, e, e.Outside(), hello, []route{{"the gateway", e.URL("/"), "plain HTTP"}})
}
