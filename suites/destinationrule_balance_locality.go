// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/loadgen"
)

const (
	// localityRequests go over one connection, and so to one Envoy worker, in turns.
	localityRequests = 24
	// localityOut is how long it may take until a failing pod is left out.
	localityOut = 15 * time.Second

	// The parts are served in a fixed order: over these many requests they are off by the order's beginning only.
	distributeRequests, distributeSlack = 80, 2
)

func localityCases() []Case {
	const lb = "DestinationRule.spec.trafficPolicy.loadBalancer."
	const subset = "DestinationRule.spec.subsets[].trafficPolicy.loadBalancer."
	judged := fmt.Sprintf("exact: each step has %d requests on one connection, in turns, which exactly the pods that are next in rank answer; a step after a failure begins when the pod that fails is left out", localityRequests)
	return []Case{
		{
			Name:    "DestinationRule/LocalityDistribute",
			Doc:     "Traffic is split over localities by the parts given for where it comes from; a locality without a part gets none.",
			Fixture: "destinationrule/locality-distribute.yaml",
			Judged: fmt.Sprintf("exact: Envoy serves the localities by a fixed schedule, so that of %d requests on one connection each gets its part within %d",
				distributeRequests, distributeSlack),
			Workload: Own,
			Covers: []string{
				lb + "localityLbSetting.distribute[].from", lb + "localityLbSetting.distribute[].to{}",
				subset + "localityLbSetting.distribute[].from", subset + "localityLbSetting.distribute[].to{}",
			},
			Check: checkDistribute,
			Controls: []Control{
				{Break: `DestinationRule spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to={"east/*": 50, "west/*": 50}`, Fails: "part at /, got other parts"},
				{Break: `DestinationRule spec.subsets[0].trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to={"east/*": 75, "west/*": 25}`, Fails: "got other parts"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].from=nowhere/*", Fails: "part at /, got other parts; v1: 2"},
				{Break: "DestinationRule spec.subsets[1].trafficPolicy.loadBalancer.localityLbSetting.distribute[0].from='*'", Fails: "never answered: v2, v3"},
			},
		},
		{
			Name:    "DestinationRule/LocalityPriority",
			Doc:     "The pods that match the labels asked for, or the client's own, come first; the others take over when those fail.",
			Fixture: "destinationrule/locality-priority.yaml",
			Judged:  judged,
			Mesh:    true,
			Needs:   []Capability{Injection, ManyNodes},
			Covers: []string{
				lb + "localityLbSetting.failoverPriority[]", lb + "localityLbSetting.enabled", subset + "localityLbSetting.failoverPriority[]",
			},
			Check: checkLocalityPriority,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority=[version=v3]", Fails: "first by label: answers from all of v2, got v3 ×24"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.localityLbSetting.enabled=false", Fails: `not expected: "v1", "v3"`},
				{Break: "DestinationRule spec.subsets[0].trafficPolicy.loadBalancer.localityLbSetting.failoverPriority=[app]", Fails: "on the client's node: answers from all of"},
			},
		},
		{
			Name:      "DestinationRule/LocalityFailover",
			Doc:       "Traffic stays in the client's region while it can, and then goes to the region named; with locality off, it goes anywhere.",
			Fixture:   "destinationrule/locality-failover.yaml",
			Judged:    judged,
			Workload:  Own,
			Injection: true,
			Needs:     []Capability{Injection},
			Covers: []string{
				lb + "localityLbSetting.failover[].from", lb + "localityLbSetting.failover[].to", lb + "localityLbSetting.enabled",
				subset + "localityLbSetting.enabled",
			},
			Check: func(ctx context.Context, e *Env) error {
				return failsOver(ctx, e,
					step{path: "/region", want: []string{"v1"}}, step{path: "/region", failing: "v1", want: []string{"v3"}},
					step{path: "/default", want: []string{"v1"}}, step{path: "/default", failing: "v1", want: []string{"v2", "v3"}},
					step{path: "/off", want: []string{"v1", "v2", "v3"}},
				)
			},
			Controls: []Control{
				{Break: "DestinationRule/-region spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].to=near", Fails: "/region without v1: answers from all of v3, got v2 ×24"},
				{Break: "DestinationRule/-region spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].from=elsewhere", Fails: "/region without v1: answers from all of v3, got v2 ×12, v3 ×12"},
				{Break: "DestinationRule/-region spec.subsets[1].trafficPolicy.loadBalancer.localityLbSetting.enabled=true", Fails: "/off: answers from all of v1, v2, v3, got v1 ×24"},
			},
		},
		{
			Name:      "DestinationRule/ZoneAware",
			Doc:       "Zone-aware balancing keeps to the client's region, then to the region named, and ranks the labels asked for above both.",
			Fixture:   "destinationrule/locality-failover.yaml",
			Judged:    judged,
			Workload:  Own,
			Injection: true,
			Needs:     []Capability{Injection},
			Covers: []string{
				lb + "zoneAwareLbSetting.enabled", lb + "zoneAwareLbSetting.failover[].from", lb + "zoneAwareLbSetting.failover[].to",
				subset + "zoneAwareLbSetting.enabled", subset + "zoneAwareLbSetting.failoverPriority[]",
			},
			Check: func(ctx context.Context, e *Env) error {
				return failsOver(ctx, e,
					step{path: "/zone", want: []string{"v1"}}, step{path: "/zone", failing: "v1", want: []string{"v3"}},
					step{path: "/labels", want: []string{"v3"}}, step{path: "/labels", failing: "v3", want: []string{"v1"}},
					step{path: "/zone-off", want: []string{"v1", "v2", "v3"}},
				)
			},
			Controls: []Control{
				{Break: "DestinationRule/-zone spec.trafficPolicy.loadBalancer.zoneAwareLbSetting.failover[0].to=near", Fails: "/zone without v1: answers from all of v3, got v2 ×24"},
				{Break: "DestinationRule/-zone spec.subsets[0].trafficPolicy.loadBalancer.zoneAwareLbSetting.failoverPriority=", Fails: "/labels: answers from all of v3, got v1 ×24"},
				{Break: "DestinationRule/-zone spec.subsets[1].trafficPolicy.loadBalancer.zoneAwareLbSetting.enabled=true", Fails: "/zone-off: answers from all of v1, v2, v3, got v1 ×24"},
			},
		},
	}
}

func checkDistribute(ctx context.Context, e *Env) error {
	for _, c := range []struct {
		path  string
		parts []share
	}{
		{"/", []share{{"v1", 0.75}, {"v2", 0.125}, {"v3", 0.125}}},
		{"/one", []share{{"v1", 0.75}, {"v2", 0.25}, {"v3", 0}}},
	} {
		xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL(c.path)}, Count: distributeRequests})
		if err != nil {
			return err
		}
		if err := distributed(c.path, xs, c.parts); err != nil {
			return err
		}
	}
	return turnsOf(ctx, e, e.Outside(), "parts for another origin", e.URL("/elsewhere"), []string{"v1", "v2", "v3"})
}

// distributed judges that each version has its part, and one without a part nothing.
func distributed(what string, xs []loadgen.Exchange, parts []share) error {
	if err := all(what, xs, "200"); err != nil {
		return err
	}
	seen, off := countBy(xs, version), false
	m := mismatch("each locality's part at "+what, "other parts")
	for _, s := range parts {
		expected := s.part * float64(len(xs))
		bar := Bar{Name: s.of, Count: float64(seen[s.of]), Expected: expected, Low: max(0, expected-distributeSlack), High: expected + distributeSlack}
		if s.part == 0 {
			bar.High = 0.5 // none; a zero would mean that it is not bounded
		}
		off = off || bar.Count < bar.Low || bar.Count > bar.High
		m.Distribution = append(m.Distribution, bar)
	}
	if off {
		return m
	}
	return nil
}

// step is who must answer at a path, once the version that fails there has been left out.
type step struct {
	path, failing string
	want          []string
}

// failsOver walks the steps from the case's own client.
func failsOver(ctx context.Context, e *Env, steps ...step) error {
	if err := forget(ctx, e); err != nil {
		return err
	}
	from, err := e.ownClient(ctx)
	if err != nil {
		return err
	}
	for _, s := range steps {
		request := loadgen.Request{URL: "http://" + e.Name() + "." + e.Namespace() + s.path}
		what := s.path
		if s.failing != "" {
			what += " without " + s.failing
			if err := leftOut(ctx, e, from, request, s.failing); err != nil {
				return err
			}
		}
		if err := turnsOf(ctx, e, from, what, request, s.want); err != nil {
			return err
		}
	}
	return nil
}

// turnsOf judges that exactly the versions answer on one connection.
func turnsOf(ctx context.Context, e *Env, from loadgen.Runner, what string, request loadgen.Request, versions []string) error {
	xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{request}, Count: localityRequests})
	if err != nil {
		return err
	}
	return reached(what, xs, version, versions)
}

// forget has the proxies forget which pods failed, when the check ran before: a rule that has changed makes new clusters.
func forget(ctx context.Context, e *Env) error {
	for _, o := range e.Objects {
		if o.GetKind() != "DestinationRule" {
			continue
		}
		if err := changeRule(ctx, e, o.GetName(), func(spec *networking.DestinationRule) {
			policies := []*networking.TrafficPolicy{spec.TrafficPolicy}
			for _, s := range spec.Subsets {
				policies = append(policies, s.TrafficPolicy)
			}
			for _, p := range policies {
				if o := p.GetOutlierDetection(); o != nil {
					o.BaseEjectionTime = durationpb.New(o.BaseEjectionTime.AsDuration() + time.Second)
				}
			}
		}); err != nil {
			return err
		}
	}
	return e.Live(ctx)
}

// leftOut has a version fail until no request gets to it any more.
func leftOut(ctx context.Context, e *Env, from loadgen.Runner, request loadgen.Request, failing string) error {
	fail := e.Commanded(request, "status=503", "if-version="+failing)
	return e.within(ctx, localityOut, failing+" is left out", func(ctx context.Context) (bool, error) {
		xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{fail}, Count: localityRequests})
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(xs, func(x loadgen.Exchange) bool { return version(x) == failing }) {
			return false, errors.New(tally(xs, answerer))
		}
		return true, nil
	})
}

// checkLocalityPriority ranks by a label's value at the gateway, and by the node in the mesh.
func checkLocalityPriority(ctx context.Context, e *Env) error {
	if err := forget(ctx, e); err != nil {
		return err
	}
	if err := turnsOf(ctx, e, e.Outside(), "first by label", e.URL("/"), []string{"v2"}); err != nil {
		return err
	}
	if err := leftOut(ctx, e, e.Outside(), e.URL("/"), "v2"); err != nil {
		return err
	}
	if err := turnsOf(ctx, e, e.Outside(), "the others", e.URL("/"), []string{"v1", "v3"}); err != nil {
		return err
	}
	mesh, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	clients, err := e.Kube.CoreV1().Pods(e.pool).List(ctx, metav1.ListOptions{LabelSelector: "app=client,role=mesh"})
	if err != nil {
		return fmt.Errorf("find the client: %w", err)
	}
	if len(clients.Items) != 1 {
		return fmt.Errorf("%d clients in the mesh, want 1", len(clients.Items))
	}
	near := loadgen.Request{URL: "http://" + e.Name() + "." + e.Namespace() + "/near"}
	xs, err := e.Burst(ctx, mesh, loadgen.Burst{Requests: []loadgen.Request{near}, Count: localityRequests})
	if err != nil {
		return err
	}
	return reached("on the client's node", xs, func(x loadgen.Exchange) string { a, _ := answer(x); return a.Node }, []string{clients.Items[0].Spec.NodeName})
}
