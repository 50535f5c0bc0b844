// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// virtualServiceCopies are the rarer mirrors and weights.
func virtualServiceCopies() []Case {
	return []Case{virtualServiceMirrors(), virtualServiceMirrorAuthority(), virtualServiceServiceWeights(), virtualServiceDeprecated()}
}

func virtualServiceMirrors() Case {
	const part, shift = 0.3, 0.15
	count := stats.BinomialPlan(part, shift, routeAlpha, routePower)
	low, high := stats.BinomialRange(count, part, routeAlpha)
	return Case{
		Name:    "VirtualService/Mirrors",
		Doc:     "Each of several mirrors gets its own part of the requests as copies, on the port that it names, and none of them answers.",
		Fixture: "virtualservice/mirrors.yaml",
		Judged: fmt.Sprintf("counted at the backends: of %d requests each copied once to the one, exactly, and %d to %d to the other, by an exact binomial range: alpha %g, power %g for a part off by %g",
			count, low, high, routeAlpha, routePower, shift),
		Samples: []Sample{{Of: "copies for the second mirror", N: count, Alpha: routeAlpha, Power: routePower, Shift: shift}},
		Covers: []string{
			"VirtualService.spec.http[].mirrors[].destination.host", "VirtualService.spec.http[].mirrors[].destination.subset",
			"VirtualService.spec.http[].mirrors[].destination.port.number", "VirtualService.spec.http[].mirrors[].percentage.value",
		},
		Check: func(ctx context.Context, e *Env) error {
			prefix := e.Prefix()
			xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: count, Connections: 4, IDPrefix: prefix})
			if err != nil {
				return err
			}
			if err := splits(xs, []share{{"v1", 1}}); err != nil {
				return err
			}
			copies, err := settled(ctx, e, prefix, 2*count)
			if err != nil {
				return err
			}
			total := map[string]int{}
			for id, at := range copies {
				if at["v1"] != 1 || at["v2"] > 1 || at["v3"] > 1 {
					return mismatch("each request once at v1 and at most once at each mirror", "%s: %s", id, counts(at))
				}
				for v, n := range at {
					total[v] += n
				}
			}
			want := fmt.Sprintf("%d copies at v2 and %d to %d at v3", count, low, high)
			switch {
			case total["v2"] != count:
				return mismatch(want, "%d at v2", total["v2"])
			case total["v3"] < low:
				return mismatch(want, "too few at v3: %d", total["v3"])
			case total["v3"] > high:
				return mismatch(want, "too many at v3: %d", total["v3"])
			}
			return nil
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].mirrors[0].destination.port.number=80", Fails: "got 0 at v2"},
			{Break: "VirtualService spec.http[0].mirrors[1].destination.subset=v2", Fails: "at most once at each mirror"},
			{Break: "VirtualService spec.http[0].mirrors[1].destination.host=nowhere", Fails: "too few at v3: 0"},
			{Break: "VirtualService spec.http[0].mirrors[1].percentage.value=60", Fails: "too many at v3"},
		},
	}
}

func virtualServiceMirrorAuthority() Case {
	return Case{
		Name:    "VirtualService/MirrorAuthority",
		Doc:     "A copy bears the authority of its request, as Istio has it since 1.28, and one that nobody takes does no harm to the request.",
		Fixture: "virtualservice/mirror-authority.yaml",
		Judged: fmt.Sprintf("exact: each of %d copies is sent to the gateway itself, where only a rule for that authority leads to v2; of %d others none arrives and all are answered",
			mirrorCount, mirrorCount),
		Covers: []string{"VirtualService.spec.http[].mirror.host", "VirtualService.spec.http[].mirror.port.number"},
		Check: func(ctx context.Context, e *Env) error {
			if err := mirrored(ctx, e, "/", mirrorCount, 1); err != nil {
				return err
			}
			return mirrored(ctx, e, "/lost", mirrorCount, 0)
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].match[0].authority={prefix: elsewhere}", Fails: "v3 ×1"},
			{Break: "VirtualService spec.http[3].mirror.host=nowhere.harness.test", Fails: "to / copied to v2, got 0"},
			{Break: "VirtualService spec.http[2].mirror.port.number=8080", Fails: "requests to /lost copied to v2, got 40"},
		},
	}
}

func virtualServiceServiceWeights() Case {
	const shift = 0.10
	shares := []share{{"v1", 0.25}, {"v2", 0.75}}
	return Case{
		Name:    "VirtualService/WeightsOfServices",
		Doc:     "Weights are relative, whatever their sum is, and each of several Services is spoken to on the port that its destination names.",
		Fixture: "virtualservice/weights-of-services.yaml",
		Judged:  judgedBySplit(shares, shift),
		Samples: []Sample{splitSample(shares, shift)},
		Covers:  []string{"VirtualService.spec.http[].route[].weight", "VirtualService.spec.http[].route[].destination.host", "VirtualService.spec.http[].route[].destination.port.number"},
		Check: func(ctx context.Context, e *Env) error {
			xs, err := burst(ctx, e, "/", splitCount(shares, shift))
			if err != nil {
				return err
			}
			return splits(xs, shares)
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].route[0].weight=3", Fails: "too many of v1, too few of v2"},
			{Break: "VirtualService spec.http[0].route[0].destination.port.number=80", Fails: "503 ×"},
			{Break: "VirtualService spec.http[0].route[1].destination.host=nowhere", Fails: "503 ×"},
		},
	}
}

func virtualServiceDeprecated() Case {
	const count = 8
	return Case{
		Name:    "VirtualService/Deprecated",
		Doc:     "The fields that have successors still do what they did: a mirror's and a delay's whole percent, and CORS origins as plain names.",
		Fixture: "virtualservice/deprecated.yaml",
		Judged:  fmt.Sprintf("exact: %d requests copied and %d not, counted at the backends; Envoy's flag and the answer's header on %d more", mirrorCount, mirrorCount, count),
		Covers: []string{
			"VirtualService.spec.http[].mirrorPercent", "VirtualService.spec.http[].corsPolicy.allowOrigin[]", "VirtualService.spec.http[].fault.delay.percent",
		},
		Check: func(ctx context.Context, e *Env) error {
			if err := mirrored(ctx, e, "/copied", mirrorCount, 1); err != nil {
				return err
			}
			if err := mirrored(ctx, e, "/single", mirrorCount, 0); err != nil {
				return err
			}
			const origin = "https://good.harness.test"
			xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{with(e.URL("/"), "Origin", origin)}, Count: count})
			if err != nil {
				return err
			}
			return changedBy(xs, func(loadgen.Exchange) changed {
				return changed{name: "the rest", want: "v1", answer: map[string]string{"X-Flags": "DI", "Access-Control-Allow-Origin": origin}}
			})
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].mirrorPercent=0", Fails: "to /copied copied to v2, got 0"},
			{Break: "VirtualService spec.http[1].mirrorPercent=100", Fails: "to /single copied to v2, got 40"},
			{Break: "VirtualService spec.http[2].fault.delay.percent=0", Fails: `the rest: answer has X-Flags "-" instead of "DI"`},
			{Break: `VirtualService spec.http[2].corsPolicy.allowOrigin=["https://bad.harness.test"]`, Fails: `the rest: answer has Access-Control-Allow-Origin ""`},
		},
	}
}
