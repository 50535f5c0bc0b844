// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"harness.example/harness/loadgen"
)

// virtualServiceScopes are the cases about which rules there are at all: for whom, and made of which objects.
func virtualServiceScopes() []Case {
	return []Case{virtualServiceNames(), virtualServiceMerge(), virtualServiceMatchGateways(), virtualServiceDelegateElsewhere(), virtualServiceExportToNamed(), virtualServiceShortNames(), virtualServiceStatPrefix()}
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

func virtualServiceDelegateElsewhere() Case {
	return changesCase(Case{
		Name:    "VirtualService/DelegateElsewhere",
		Doc:     "A delegate of another namespace adds its conditions to the root's, takes over what it does not say itself, and has its short names resolved where it is.",
		Fixture: "virtualservice/delegate-elsewhere.yaml",
		Covers: []string{
			"VirtualService.spec.http[].delegate.name", "VirtualService.spec.http[].delegate.namespace", "VirtualService.spec.exportTo[]",
		},
		Controls: []Control{
			{Break: "VirtualService/-team spec.exportTo=[.]", Fails: "the delegate's first rule: v3 instead of v1"},
			{Break: "VirtualService/-root spec.http[0].delegate.namespace=elsewhere", Fails: "the delegate's first rule: v3 instead of v1"},
			{Break: "VirtualService/-root spec.http[0].headers=", Fails: `the delegate's first rule: arrives with X-Root "" instead of "yes"`},
			{Break: "VirtualService/-root spec.http[0].match[0].headers=", Fails: "without the root's condition: v1 instead of v3"},
			{Break: "VirtualService/-team spec.http[1].headers=", Fails: `the delegate's second rule: arrives with X-Root "yes" instead of ""`},
		},
	}, func(e *Env) []changed {
		gold := func(path string) loadgen.Request { return with(e.URL(path), "X-Kind", "gold") }
		return []changed{
			{name: "the delegate's first rule", request: gold("/team/a"), want: "v1", arrives: map[string]string{"X-Root": "yes", ":path": "/team/a"}},
			{name: "the delegate's second rule", request: gold("/team/b"), want: "v2", arrives: map[string]string{"X-Root": "", "X-Team": "yes", ":path": "/b"}},
			{name: "a short name", request: gold("/team/short"), want: "503"},
			{name: "without the root's condition", request: e.URL("/team/a"), want: "v3", arrives: map[string]string{"X-Root": ""}},
			{name: "no rule of the delegate", request: gold("/team/c"), want: "v3"},
		}
	})
}

// meshRoutes completes a case that is a table of routes taken by a pod with a sidecar.
func meshRoutes(c Case, table func(e *Env) []route) Case {
	c = routesCase(c, table)
	c.Mesh, c.Needs = true, []Capability{Injection}
	c.Check = func(ctx context.Context, e *Env) error {
		client, err := e.Mesh(ctx)
		if err != nil {
			return err
		}
		return takes(ctx, e, client, table(e))
	}
	return c
}

func virtualServiceExportToNamed() Case {
	return meshRoutes(Case{
		Name:    "VirtualService/ExportToNamed",
		Doc:     "Rules count for the namespaces that they are exported to, their own or another, and nowhere else.",
		Fixture: "virtualservice/export-to-named.yaml",
		Covers:  []string{"VirtualService.spec.exportTo[]"},
		Controls: []Control{
			{Break: "VirtualService/-own spec.exportTo=[elsewhere]", Fails: "exported to their own namespace: v1 instead of 291"},
			{Break: "VirtualService/-away spec.exportTo=[.]", Fails: "exported to another namespace: 292 instead of v1"},
			{Break: "VirtualService/-here spec.exportTo=[.]", Fails: "exported from another namespace: v1 instead of 293"},
		},
	}, func(e *Env) []route {
		to := func(suffix string) loadgen.Request { return loadgen.Request{URL: "http://" + e.Name() + suffix + "/"} }
		return []route{
			{"exported to their own namespace", to("-own"), "291"},
			{"exported to another namespace", to("-away"), "v1"},
			{"exported from another namespace", to("-here"), "293"},
		}
	})
}

func virtualServiceShortNames() Case {
	return meshRoutes(Case{
		Name:    "VirtualService/ShortNames",
		Doc:     "A short host is the Service of the rule's own namespace, under each of that Service's names.",
		Fixture: "virtualservice/short-names.yaml",
		Covers:  []string{"VirtualService.spec.hosts[]", "VirtualService.spec.http[].route[].destination.host"},
		Controls: []Control{
			{Break: "VirtualService/-own spec.http[0].route[0].destination.subset=v3", Fails: "the full name: v3 instead of v2 ×4, the name up to svc: v3 instead of v2 ×4, the name with its namespace: v3 instead of v2 ×4, the plain name: v3 instead of v2"},
			{Break: "VirtualService/-own spec.http[0].route[0].destination.host=elsewhere", Fails: "the plain name: 503 instead of v2"},
		},
	}, func(e *Env) []route {
		to := func(suffix string) loadgen.Request {
			return loadgen.Request{URL: "http://" + e.Name() + "/", Host: e.Name() + suffix}
		}
		return []route{
			{"the plain name", to(""), "v2"},
			{"the name with its namespace", to("." + e.Namespace()), "v2"},
			{"the name up to svc", to("." + e.Namespace() + ".svc"), "v2"},
			{"the full name", to("." + e.Namespace() + ".svc.cluster.local"), "v2"},
		}
	})
}

func virtualServiceStatPrefix() Case {
	const count = 6
	return Case{
		Name:      "VirtualService/StatPrefix",
		Doc:       "Requests that meet a match with a prefix for statistics are counted under it by their proxy, and others are not.",
		Fixture:   "virtualservice/stat-prefix.yaml",
		Needs:     []Capability{Injection},
		Workload:  Own,
		Injection: true,
		Judged:    fmt.Sprintf("exact: %d requests that meet the match, as many that do not, and what the sidecar's counter has grown by; no false alarm", count),
		Covers:    []string{"VirtualService.spec.http[].match[].statPrefix"},
		Check: func(ctx context.Context, e *Env) error {
			pods, err := e.Pods(ctx, "app="+e.Name())
			if err != nil {
				return err
			}
			if len(pods) != 1 {
				return fmt.Errorf("find the client: %d pods are ready, want 1", len(pods))
			}
			before, err := routeCount(ctx, e, pods[0].Name, "shop")
			if err != nil {
				return err
			}
			client := loadgen.Pod{Config: e.Config, Namespace: e.Namespace(), Name: pods[0].Name, Container: "client"}
			get := func(path string) loadgen.Request { return loadgen.Request{URL: "http://" + e.Name() + path} }
			xs, err := e.Burst(ctx, client, loadgen.Burst{Requests: []loadgen.Request{get("/counted"), get("/")}, Count: 2 * count})
			if err != nil {
				return err
			}
			if err := all("counted requests and others", xs, "200"); err != nil {
				return err
			}
			after, err := routeCount(ctx, e, pods[0].Name, "shop")
			if err == nil && after-before != count {
				err = mismatch(fmt.Sprintf("%d requests counted under shop", count), "%d", after-before)
			}
			return err
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].match[0].statPrefix=store", Fails: "6 requests counted under shop, got 0"},
			{Break: "VirtualService spec.http[0].match[0].uri=", Fails: "6 requests counted under shop, got 12"},
		},
	}
}

// routeCount is how many requests a pod's proxy has counted under a route's prefix: 0 when it does not know it.
func routeCount(ctx context.Context, e *Env, pod, prefix string) (int, error) {
	text, err := e.Kube.CoreV1().RESTClient().Get().Namespace(e.Namespace()).Resource("pods").Name(pod + ":15090").
		SubResource("proxy").Suffix("/stats/prometheus").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("counters of pod %s: %w", pod, err)
	}
	total := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "envoy_vhost_") && strings.Contains(line, "_route_"+prefix+"_upstream_rq_completed{") {
			n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndex(line, " "):]))
			if err != nil {
				return 0, fmt.Errorf("counter %q: %w", line, err)
			}
			total += n
		}
	}
	return total, nil
}
