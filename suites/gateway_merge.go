// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	networkingv1 "istio.io/client-go/pkg/apis/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// gatewayMerged are the cases about several servers, Gateways and namespaces that share one workload.
func gatewayMerged() []Case {
	return []Case{gatewayServers(), gatewayPrecedence(), gatewayConflict(), gatewayNamespaces(), gatewayInvalid()}
}

func gatewayServers() Case {
	return handshakesCase(Case{
		Name:    "Gateway/Servers",
		Doc:     "The servers of one Gateway serve each its hosts on its port, and a host is not served on the port of another.",
		Fixture: "gateway/servers.yaml",
		Covers: []string{
			"Gateway.spec.servers[].port.number", "Gateway.spec.servers[].port.name", "Gateway.spec.servers[].port.protocol=HTTP",
			"Gateway.spec.servers[].port.protocol=HTTPS", "Gateway.spec.servers[].hosts[]", "VirtualService.spec.http[].match[].port",
		},
		Prepare: certifiedOnly,
		Controls: []Control{
			{Break: "Gateway spec.servers[0].hosts[1]=", Fails: "the second host of a server: 404 instead of v1"},
			{Break: "Gateway spec.servers[2].hosts=[elsewhere.harness.test]", Fails: "the host of the other port: reset instead of v2"},
			{Break: "Gateway spec.servers[1].port.number=31400", Fails: "the host of a second server: 404 instead of v1"},
			{Break: "VirtualService spec.http[0].match[0].port=443", Fails: "the first host of a server: 404 instead of v1"},
		},
	}, func(e *Env) []route {
		host := func(name string) string { return name + "." + e.Vars["HOST"] }
		return []route{
			{"the first host of a server", toHost(e, host("first"), "/"), "v1"},
			{"the second host of a server", toHost(e, host("second"), "/"), "v1"},
			{"the host of a second server", toHost(e, host("third"), "/"), "v1"},
			{"the host of the other port", secured(e, host("fourth"), loadgen.TLS{}), "v2"},
			{"the host of the other port, on this", toHost(e, host("fourth"), "/"), "404"},
			{"a host of this port, on the other", secured(e, host("first"), loadgen.TLS{}), "eof|reset"},
		}
	})
}

func gatewayPrecedence() Case {
	return handshakesShow(Case{
		Name:    "Gateway/Precedence",
		Doc:     "Of two Gateways on one workload the one that names a host exactly has it, the wildcard's has the others, and a host of both has the routes of both.",
		Fixture: "gateway/precedence.yaml",
		Covers:  []string{"Gateway.spec.servers[].hosts[]", "Gateway.spec.selector{}", "VirtualService.spec.gateways[]"},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			names := []string{e.Vars["HOST"], "*." + e.Vars["HOST"]}
			return errors.Join(
				issueAs(e, ca, "TLS", subject{name: "wildcard", dns: names}),
				issueAs(e, ca, "OTHER", subject{name: "exact", dns: names}),
			)
		},
		Controls: []Control{
			{Break: "delete Gateway/-exact", Fails: "the exact name: v1 instead of v2"},
			{Break: "Gateway/-exact spec.servers[1].hosts=[elsewhere.harness.test]", Fails: "the exact name over TLS: v1 as wildcard instead of v2 as exact"},
			{Break: "VirtualService/-exact-both spec.gateways=[elsewhere]", Fails: "a path of the exact Gateway: 404 instead of v2"},
			{Break: "delete Gateway/-wildcard", Fails: "another name: 404 instead of v1"},
		},
	}, func(x loadgen.Exchange) string {
		if x.PeerCN == "" {
			return answerer(x)
		}
		return presented(x)
	}, func(e *Env) []route {
		host := func(name string) string { return name + "." + e.Vars["HOST"] }
		return []route{
			{"the exact name", toHost(e, host("exact"), "/"), "v2"},
			{"another name", toHost(e, host("other"), "/"), "v1"},
			{"the exact name over TLS", secured(e, host("exact"), loadgen.TLS{}), "v2 as exact"},
			{"another name over TLS", secured(e, host("other"), loadgen.TLS{}), "v1 as wildcard"},
			{"a path of the exact Gateway", toHost(e, host("both"), "/exact"), "v2"},
			{"a path of the wildcard's Gateway", toHost(e, host("both"), "/wildcard"), "v1"},
		}
	})
}

func gatewayConflict() Case {
	return handshakesShow(Case{
		Name:    "Gateway/Conflict",
		Doc:     "When two Gateways claim one host on a TLS port, the older keeps it, certificate and all, and the younger's other hosts are served.",
		Fixture: "gateway/conflict.yaml",
		Covers:  []string{"Gateway.spec.servers[].hosts[]", "Gateway.spec.servers[].tls.credentialName"},
		Prepare: func(e *Env) error {
			ca, err := certified(e)
			if err != nil {
				return err
			}
			names := []string{e.Vars["HOST"], "*." + e.Vars["HOST"]}
			return errors.Join(
				issueAs(e, ca, "TLS", subject{name: "older", dns: names}),
				issueAs(e, ca, "OTHER", subject{name: "younger", dns: names}),
			)
		},
		Controls: []Control{
			{Break: "delete Gateway/-a", Fails: "the host of both: v2 as younger instead of v1 as older"},
			{Break: "Gateway/-b spec.servers[1].hosts=[elsewhere.harness.test]", Fails: "a host of the younger: reset instead of v2 as younger"},
		},
	}, presented, func(e *Env) []route {
		return []route{
			{"the host of both", secured(e, e.Vars["HOST"], loadgen.TLS{}), "v1 as older"},
			{"a host of the younger", secured(e, "own."+e.Vars["HOST"], loadgen.TLS{}), "v2 as younger"},
		}
	})
}

func gatewayNamespaces() Case {
	host := func(e *Env, name string) string { return name + "." + e.Vars["HOST"] }
	return routesCase(Case{
		Name:    "Gateway/NamespacedHosts",
		Doc:     "A host with a namespace takes routes from that namespace only, ./ from the Gateway's own, and */ from any.",
		Fixture: "gateway/namespaced-hosts.yaml",
		Covers:  []string{"Gateway.spec.servers[].hosts[]", "VirtualService.spec.gateways[]"},
		Controls: []Control{
			{
				Break: "the Gateway lists a host of its own namespace for any", Fails: "the Gateway's own namespace, asked by another: v2 instead of 404",
				Do: rehost(0, func(e *Env) string { return host(e, "closed") }),
			},
			{
				Break: "the Gateway lists the other namespace's host for its own", Fails: "the other namespace: v1 instead of v2",
				Do: rehost(2, func(e *Env) string { return "./" + host(e, "there") }),
			},
			{
				Break: "the Gateway lists the host of any namespace for its own", Fails: "any namespace, asked by another: 404 instead of v2",
				Do: rehost(3, func(e *Env) string { return "./*." + host(e, "any") }),
			},
		},
	}, func(e *Env) []route {
		return []route{
			{"the Gateway's own namespace", toHost(e, host(e, "here"), "/"), "v1"},
			{"the Gateway's own namespace, asked by another", toHost(e, host(e, "closed"), "/"), "404"},
			{"the other namespace", toHost(e, host(e, "there"), "/"), "v2"},
			{"any namespace", toHost(e, host(e, "ours.any"), "/"), "v1"},
			{"any namespace, asked by another", toHost(e, host(e, "theirs.any"), "/"), "v2"},
		}
	})
}

// rehost replaces one host of the Gateway's first server by one that only the attempt knows. Applying the fixture again
// takes it back.
func rehost(i int, to func(*Env) string) func(context.Context, *Env) error {
	return func(ctx context.Context, e *Env) error {
		target, err := find(e.wanted, edit{kind: "Gateway"})
		if err != nil {
			return err
		}
		changed := target.DeepCopy()
		if err := fixtures.Edit(changed, fmt.Sprintf("spec.servers[0].hosts[%d]", i), fmt.Sprintf("%q", to(e))); err != nil {
			return err
		}
		_, err = e.fx.Apply(ctx, changed)
		return err
	}
}

// invalid is one edit of the valid Gateway, and why the API refuses what comes of it.
type invalid struct{ name, path, value, why string }

// invalids are the ways to write a Gateway that nothing could serve.
func invalids() []invalid {
	return []invalid{
		{"a target port", "spec.servers[0].port.targetPort", "8080", "targetPort has no impact on Gateways"},
		{"a port name used twice", "spec.servers[1].port.name", "http", "port names in servers must be unique"},
		{"a port without a name", "spec.servers[0].port.name", `""`, "port.name: Required value"},
		{"a port number that is none", "spec.servers[0].port.number", "70000", "must be in the range 1..65535"},
		{"an unknown protocol", "spec.servers[0].port.protocol", "CARRIER-PIGEON", "invalid protocol"},
		{"a certificate on a plain port", "spec.servers[0].tls", "{mode: SIMPLE, credentialName: some}", "server cannot have TLS settings for plain text HTTP ports"},
		{"HTTPS without TLS settings", "spec.servers[1].tls", "", "server must have TLS settings for HTTPS/TLS protocols"},
		{"a mesh certificate and another", "spec.servers[1].tls", "{mode: ISTIO_MUTUAL, credentialName: some}", "cannot have associated credentialName"},
		{"a wildcard within a name", "spec.servers[0].hosts", `["a.*.test"]`, "partial wildcard"},
		{"a namespace that is none", "spec.servers[0].hosts", "[a/b/c.test]", "domain name \"b/c.test\" invalid"},
	}
}

func gatewayInvalid() Case {
	serves := func(e *Env) []route { return []route{{"the valid Gateway", toHost(e, e.Vars["HOST"], "/"), "v1"}} }
	return Case{
		Name:    "Gateway/Invalid",
		Doc:     "A Gateway that nothing could serve is refused with the reason when it is written, and the one that it would replace serves on.",
		Fixture: "gateway/invalid.yaml",
		Covers: []string{
			"Gateway.spec.servers[].port.targetPort", "Gateway.spec.servers[].port.name", "Gateway.spec.servers[].port.number", "Gateway.spec.servers[].hosts[]",
		},
		Judged: fmt.Sprintf("exact: each of %d mistakes is refused with its reason in a dry run; then %s", len(invalids()), judgedExactly(len(serves(sampleEnv())))),
		Check: func(ctx context.Context, e *Env) error {
			if err := refusesInvalid(ctx, e); err != nil {
				return err
			}
			return takes(ctx, e, e.Outside(), serves(e))
		},
		Controls: []Control{
			{Break: "Gateway spec.servers[0].port.name=web", Fails: "a port name used twice: accepted"},
			{
				Break: "Gateway spec.servers[0].port.protocol=HTTPS; Gateway spec.servers[0].port.number=443; Gateway spec.servers[0].tls={mode: PASSTHROUGH}",
				Fails: "a certificate on a plain port: accepted",
			},
			{Break: "Gateway spec.servers[1].port.protocol=HTTP; Gateway spec.servers[1].port.number=80", Fails: "HTTPS without TLS settings: accepted"},
			{Break: "VirtualService spec.gateways=[elsewhere]", Fails: "the valid Gateway: 404 instead of v1"},
		},
	}
}

// refusesInvalid tries every mistake on the Gateway as it is now.
func refusesInvalid(ctx context.Context, e *Env) error {
	now, err := find(e.Objects, edit{kind: "Gateway"})
	if err != nil {
		return err
	}
	revision, err := validated(ctx, e)
	if err != nil {
		return err
	}
	wrong := map[string]int{}
	for _, i := range invalids() {
		changed := now.DeepCopy()
		changed.SetLabels(map[string]string{"istio.io/rev": revision})
		if err := fixtures.Edit(changed, i.path, i.value); err != nil {
			return err
		}
		b, err := json.Marshal(changed.Object)
		if err != nil {
			return fmt.Errorf("write a Gateway: %w", err)
		}
		gateway := &networkingv1.Gateway{}
		if err := json.Unmarshal(b, gateway); err != nil {
			return fmt.Errorf("read a Gateway: %w", err)
		}
		_, err = e.Istio.NetworkingV1().Gateways(e.Namespace()).Update(ctx, gateway, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		switch {
		case err == nil:
			wrong[i.name+": accepted"]++
		case !strings.Contains(err.Error(), i.why):
			wrong[fmt.Sprintf("%s: refused, but not for %q: %v", i.name, i.why, err)]++
		}
	}
	if len(wrong) > 0 {
		return mismatch(fmt.Sprintf("each of %d mistakes refused with its reason", len(invalids())), "%s", counts(wrong))
	}
	return nil
}
