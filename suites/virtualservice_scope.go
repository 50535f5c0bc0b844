// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"

	"harness.example/harness/loadgen"
)

// virtualServiceScopes are the cases about which rules there are at all: for whom, and made of which objects.
func virtualServiceScopes() []Case {
	return []Case{virtualServiceNames(), virtualServiceMerge(), virtualServiceMatchGateways()}
}

func virtualServiceNames() Case {
	return changesCase(Case{
		Name:    "VirtualService/Names",
		Doc:     "The route that serves a request bears the name of its rule and of the match that it met.",
		Fixture: "virtualservice/names.yaml",
		Covers:  []string{"VirtualService.spec.http[].name", "VirtualService.spec.http[].match[].name"},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].name=store", Fails: `the first match: arrives with X-Route "store.read" instead of "shop.read"`},
			{Break: "VirtualService spec.http[0].match[1].name=change", Fails: `the second match: arrives with X-Route "shop.change" instead of "shop.write"`},
			{Break: "VirtualService spec.http[1].name=", Fails: `no match: arrives with X-Route`},
		},
	}, func(e *Env) []changed {
		named := func(name, verb, want, as string) changed {
			return changed{name: name, request: method(e.URL("/"), verb), want: want, arrives: map[string]string{"X-Route": as}}
		}
		return []changed{
			named("the first match", "GET", "v1", "shop.read"),
			named("the second match", "PUT", "v1", "shop.write"),
			named("no match", "DELETE", "v2", "rest"),
		}
	})
}

func virtualServiceMerge() Case {
	return routesCase(Case{
		Name:    "VirtualService/Merge",
		Doc:     "Several VirtualServices of one host behind one Gateway serve it together, and a rule for everything comes last wherever it stands.",
		Fixture: "virtualservice/merge.yaml",
		Covers:  []string{"VirtualService.spec.hosts[]", "VirtualService.spec.gateways[]"},
		Controls: []Control{
			{Break: "delete VirtualService/-b", Fails: "the second's rule: v1 instead of v2"},
			{Break: "VirtualService/-b spec.gateways=[mesh]", Fails: "the second's rule: v1 instead of v2"},
			{Break: "VirtualService/-a spec.hosts=[elsewhere.harness.test]", Fails: "everything else: 404 instead of v1"},
		},
	}, func(e *Env) []route {
		return []route{
			{"the second's rule", e.URL("/b/1"), "v2"},
			{"everything else", e.URL("/"), "v1"},
		}
	})
}

func virtualServiceMatchGateways() Case {
	outside := func(e *Env) []route {
		return []route{
			{"the first Gateway", toHost(e, "a."+e.Vars["HOST"], "/"), "v1"},
			{"the second Gateway", toHost(e, "b."+e.Vars["HOST"], "/"), "v3"},
		}
	}
	mesh := func(e *Env) []route {
		return []route{{"the mesh", loadgen.Request{URL: "http://" + e.Name() + "/"}, "v2"}}
	}
	return Case{
		Name:    "VirtualService/MatchGateways",
		Doc:     "A rule for one Gateway or for the mesh is not there for requests that come another way.",
		Fixture: "virtualservice/match-gateways.yaml",
		Needs:   []Capability{Injection},
		Mesh:    true,
		Judged:  judgedExactly(len(outside(sampleEnv())) + len(mesh(sampleEnv()))),
		Covers:  []string{"VirtualService.spec.http[].match[].gateways[]", "VirtualService.spec.gateways[]"},
		Check: func(ctx context.Context, e *Env) error {
			if err := takes(ctx, e, e.Outside(), outside(e)); err != nil {
				return err
			}
			client, err := e.Mesh(ctx)
			if err != nil {
				return err
			}
			return takes(ctx, e, client, mesh(e))
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].match[0].gateways=", Fails: "the second Gateway: v1 instead of v3"},
			{Break: "VirtualService spec.http[0].match[0].gateways=[mesh]; VirtualService spec.http[1].match[0].gateways=[elsewhere]", Fails: "the first Gateway: v3 instead of v1"},
			{Break: "VirtualService spec.http[1].match[0].gateways=[elsewhere]", Fails: "the mesh: v3 instead of v2"},
		},
	}
}
