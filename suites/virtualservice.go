// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"slices"

	"harness.example/harness/loadgen"
)

func virtualServiceCases() []Case {
	return slices.Concat(virtualServiceMatches(), virtualServiceSplits(), virtualServiceFailures(), virtualServiceChanges(), virtualServiceMore(), virtualServiceStreams())
}

// virtualServiceMatches are the cases about which rule a request takes.
func virtualServiceMatches() []Case {
	return []Case{
		routesCase(Case{
			Name:    "VirtualService/PrefixMatch",
			Doc:     "Paths that begin with the prefix take its rule, character by character, and all others the next rule.",
			Fixture: "virtualservice/prefix-match.yaml",
			Covers:  []string{"VirtualService.spec.http[].match[].uri.prefix", "VirtualService.spec.http[].route[].destination.subset"},
			Controls: []Control{
				{Break: "VirtualService spec.http[0].match[0].uri.prefix=/other", Fails: "the prefix: v2 instead of v1"},
				{
					Break: "VirtualService spec.http[0].route[0].destination.subset=v2; VirtualService spec.http[1].route[0].destination.subset=v1",
					Fails: "the root: v1 instead of v2",
				},
				{Break: "VirtualService spec.http[0].match[0].uri={exact: /api}", Fails: "a path below: v2 instead of v1"},
				{Break: "DestinationRule spec.subsets[0].labels.version=v2", Fails: "the prefix: v2 instead of v1"},
			},
		}, func(e *Env) []route {
			return []route{
				{"the prefix", e.URL("/api"), "v1"},
				{"a path below", e.URL("/api/items/1"), "v1"},
				{"a longer word", e.URL("/apix"), "v1"},
				{"the prefix with a query", e.URL("/api?q=/other"), "v1"},
				{"the root", e.URL("/"), "v2"},
				{"a shorter word", e.URL("/ap"), "v2"},
				{"the prefix further on", e.URL("/x/api"), "v2"},
				{"the prefix in a query", e.URL("/x?/api"), "v2"},
				{"the prefix in capitals", e.URL("/API"), "v2"},
			}
		}),
		routesCase(Case{
			Name:    "VirtualService/URIMatch",
			Doc:     "Exact paths, whole-path regular expressions and prefixes without regard to case match what they say and nothing else.",
			Fixture: "virtualservice/uri-match.yaml",
			Covers: []string{
				"VirtualService.spec.http[].match[].uri.exact", "VirtualService.spec.http[].match[].uri.regex",
				"VirtualService.spec.http[].match[].ignoreUriCase",
			},
			Controls: []Control{
				{Break: "VirtualService spec.http[0].match[0].uri={prefix: /exact}", Fails: "a longer path: v1 instead of 404"},
				{Break: "VirtualService spec.http[1].match[0].uri.regex=/item/.*", Fails: "a letter for a digit: v2 instead of 404"},
				{Break: "VirtualService spec.http[2].match[0].ignoreUriCase=false", Fails: "the other case: 404 instead of v3"},
			},
		}, func(e *Env) []route {
			return []route{
				{"the exact path", e.URL("/exact"), "v1"},
				{"the exact path with a query", e.URL("/exact?q"), "v1"},
				{"a longer path", e.URL("/exact/more"), "404"},
				{"the exact path in capitals", e.URL("/EXACT"), "404"},
				{"the expression", e.URL("/item/42"), "v2"},
				{"a letter for a digit", e.URL("/item/4x"), "404"},
				{"more than the expression", e.URL("/item/42/more"), "404"},
				{"the expression further on", e.URL("/x/item/42"), "404"},
				{"the case as written", e.URL("/case/1"), "v3"},
				{"the other case", e.URL("/CaSe/1"), "v3"},
			}
		}),
		routesCase(Case{
			Name:    "VirtualService/HeaderMatch",
			Doc:     "A header's value is matched exactly, by its beginning, by a regular expression or by its absence.",
			Fixture: "virtualservice/header-match.yaml",
			Covers: []string{
				"VirtualService.spec.http[].match[].headers{}.exact", "VirtualService.spec.http[].match[].headers{}.prefix",
				"VirtualService.spec.http[].match[].headers{}.regex", "VirtualService.spec.http[].match[].withoutHeaders{}.exact",
			},
			Controls: []Control{
				{Break: "VirtualService spec.http[0].match[0].headers.x-kind={prefix: gold}", Fails: "more than the value: v1 instead of 404"},
				{Break: "VirtualService spec.http[1].match[0].headers.x-kind={exact: sil}", Fails: "the beginning: 404 instead of v2"},
				{Break: "VirtualService spec.http[2].match[0].headers.x-kind.regex=.*br[a-z]+e", Fails: "more than the expression: v3 instead of 404"},
				{Break: "VirtualService spec.http[3].match[0].withoutHeaders=", Fails: "the unwanted value: v1 instead of 404"},
			},
		}, func(e *Env) []route {
			kind := func(path, value string) loadgen.Request { return with(e.URL(path), "X-Kind", value) }
			return []route{
				{"the value", kind("/", "gold"), "v1"},
				{"more than the value", kind("/", "golden"), "404"},
				{"the value in another case", kind("/", "Gold"), "404"},
				{"the beginning", kind("/", "silver"), "v2"},
				{"the beginning further on", kind("/", "a silver"), "404"},
				{"the expression", kind("/", "bronze"), "v3"},
				{"more than the expression", kind("/", "xbronze"), "404"},
				{"the unwanted value", kind("/without", "lead"), "404"},
				{"a value that nobody minds", kind("/without", "tin"), "v1"},
				{"no header", e.URL("/"), "404"},
				{"no unwanted header", e.URL("/without"), "v1"},
			}
		}),
		routesCase(Case{
			Name:    "VirtualService/RequestMatch",
			Doc:     "Method, query, authority, scheme and port are matched; conditions of one match are all needed, of several matches one is.",
			Fixture: "virtualservice/request-match.yaml",
			Covers: []string{
				"VirtualService.spec.http[].match[].method.exact", "VirtualService.spec.http[].match[].queryParams{}.exact", "VirtualService.spec.http[].match[].authority.exact",
				"VirtualService.spec.http[].match[].scheme.exact", "VirtualService.spec.http[].match[].port",
			},
			Controls: []Control{
				{Break: "VirtualService spec.http[0].match[0].method=", Fails: "another method: v1 instead of 404"},
				{Break: "VirtualService spec.http[1].match[0].queryParams=", Fails: "another value of the parameter: v2 instead of 404"},
				{Break: "VirtualService spec.http[2].match[0].authority=", Fails: "another authority: v3 instead of 404"},
				{Break: "VirtualService spec.http[3].match[0].scheme.exact=https", Fails: "the scheme: 404 instead of v1"},
				{Break: "VirtualService spec.http[4].match[0].port=8080", Fails: "the port: 404 instead of v2"},
				{Break: "VirtualService spec.http[5].match[1].method=", Fails: "half of the second match: v3 instead of 404"},
				{Break: "VirtualService spec.http[5].match[1]=", Fails: "the second match: 404 instead of v3"},
			},
		}, func(e *Env) []route {
			a, b := "a."+e.Vars["HOST"], "b."+e.Vars["HOST"]
			return []route{
				{"the method", method(toHost(e, a, "/method"), "POST"), "v1"},
				{"another method", toHost(e, a, "/method"), "404"},
				{"the parameter", toHost(e, a, "/query?x=2&debug=1"), "v2"},
				{"another value of the parameter", toHost(e, a, "/query?debug=10"), "404"},
				{"no parameter", toHost(e, a, "/query"), "404"},
				{"the authority", toHost(e, a, "/authority"), "v3"},
				{"another authority", toHost(e, b, "/authority"), "404"},
				{"the scheme", toHost(e, a, "/scheme"), "v1"},
				{"the port", toHost(e, a, "/port"), "v2"},
				{"the first match", toHost(e, a, "/one"), "v3"},
				{"the second match", method(toHost(e, a, "/other"), "PUT"), "v3"},
				{"half of the second match", toHost(e, a, "/other"), "404"},
			}
		}),
		routesCase(Case{
			Name:    "VirtualService/Order",
			Doc:     "Of several rules that match, the first one counts, and the one without conditions takes the rest.",
			Fixture: "virtualservice/order.yaml",
			Covers:  []string{"VirtualService.spec.http[].match[].uri.prefix"},
			Controls: []Control{
				{
					Break: "VirtualService spec.http[0].match[0].uri.prefix=/a; VirtualService spec.http[1].match[0].uri.prefix=/a/b",
					Fails: "only the second rule's: v1 instead of v2",
				},
				{Break: "VirtualService spec.http[2]=", Fails: "no rule's: 404 instead of v3"},
			},
		}, func(e *Env) []route {
			return []route{
				{"both rules'", e.URL("/a/b/c"), "v1"},
				{"only the second rule's", e.URL("/a/c"), "v2"},
				{"no rule's", e.URL("/b"), "v3"},
			}
		}),
		routesCase(Case{
			Name:    "VirtualService/Delegate",
			Doc:     "A rule hands its requests to the VirtualService that it names, whose own rules must match too.",
			Fixture: "virtualservice/delegate.yaml",
			Covers:  []string{"VirtualService.spec.http[].delegate.name", "VirtualService.spec.http[].delegate.namespace"},
			Controls: []Control{
				{Break: "VirtualService/-team spec.http[0].route[0].destination.subset=v2", Fails: "the delegate's rule: v2 instead of v1"},
				{Break: "delete VirtualService/-team", Fails: "the delegate's rule: v2 instead of v1"},
			},
		}, func(e *Env) []route {
			return []route{
				{"the delegate's rule", e.URL("/team/a/1"), "v1"},
				{"no rule of the delegate", e.URL("/team/b"), "v2"},
				{"another path", e.URL("/"), "v2"},
			}
		}),
		routesCase(Case{
			Name:    "VirtualService/MissingDestination",
			Doc:     "A route to a subset or Service that does not exist is answered by an error of the gateway, and others are not touched.",
			Fixture: "virtualservice/missing.yaml",
			Covers:  []string{"VirtualService.spec.http[].route[].destination.host", "VirtualService.spec.http[].route[].destination.subset"},
			Controls: []Control{
				{Break: "VirtualService spec.http[0].route[0].destination.subset=v1", Fails: "no such subset: v1 instead of 503"},
				{Break: "DestinationRule spec.subsets[1].name=v9", Fails: "no such subset: v2 instead of 503"},
			},
		}, func(e *Env) []route {
			return []route{
				{"no such subset", e.URL("/subset"), "503"},
				{"no such Service", e.URL("/service"), "500|503"},
				{"another path", e.URL("/"), "v1"},
			}
		}),
		routesCase(Case{
			Name:    "VirtualService/ExportTo",
			Doc:     "What is exported to all namespaces is served by a gateway of another namespace.",
			Fixture: "virtualservice/export-to.yaml",
			Covers:  []string{"VirtualService.spec.exportTo[]"},
			Controls: []Control{
				{Break: "VirtualService spec.exportTo=[.]", Fails: "the host: 404 instead of v1"},
			},
		}, func(e *Env) []route {
			return []route{{"the host", e.URL("/"), "v1"}}
		}),
		virtualServiceMesh(),
	}
}

func virtualServiceMesh() Case {
	table := func(e *Env) []route {
		get := func(path string) loadgen.Request { return loadgen.Request{URL: "http://" + e.Name() + path} }
		return []route{
			{"the client's label", get("/labels"), "v1"},
			{"the client's namespace", get("/namespace"), "v2"},
			{"no condition", get("/"), "v3"},
		}
	}
	c := routesCase(Case{
		Name:    "VirtualService/MeshSource",
		Doc:     "Sidecars route by their own pod's labels and namespace, for callers of the Service's plain name.",
		Fixture: "virtualservice/mesh.yaml",
		Needs:   []Capability{Injection},
		Mesh:    true,
		Covers: []string{
			"VirtualService.spec.gateways[]=mesh", "VirtualService.spec.http[].match[].sourceLabels{}", "VirtualService.spec.http[].match[].sourceNamespace",
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].match[0].sourceLabels.role=plain", Fails: "the client's label: v3 instead of v1"},
			{Break: "VirtualService spec.http[1].match[0].sourceNamespace=elsewhere", Fails: "the client's namespace: v3 instead of v2"},
			{Break: "VirtualService spec.http[2].route[0].destination.subset=v1", Fails: "no condition: v1 instead of v3"},
		},
	}, table)
	c.Check = func(ctx context.Context, e *Env) error {
		client, err := e.Mesh(ctx)
		if err != nil {
			return err
		}
		return takes(ctx, e, client, table(e))
	}
	return c
}
