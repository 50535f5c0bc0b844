// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"time"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// virtualServiceSplits are the cases about what is left to chance: weights and copies.
func virtualServiceSplits() []Case {
	return []Case{
		virtualServiceWeights(), virtualServiceZeroWeight(), virtualServiceThreeWays(), virtualServiceMirror(),
	}
}

// burst sends count requests to the path over several connections: chance is per request, so that connections do not
// matter to it, and more of them are quicker.
func burst(ctx context.Context, e *Env, path string, count int) ([]loadgen.Exchange, error) {
	return e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL(path)}, Count: count, Connections: 4})
}

func virtualServiceWeights() Case {
	const shift = 0.10
	shares := []share{{"v1", 0.8}, {"v2", 0.2}}
	return Case{
		Name:    "VirtualService/Weights80-20",
		Doc:     "Each request goes to one of two subsets with the probability that is its weight, and to no third.",
		Fixture: "virtualservice/weights-80-20.yaml",
		Judged:  judgedBySplit(shares, shift),
		Samples: []Sample{splitSample(shares, shift)},
		Covers:  []string{"VirtualService.spec.http[].route[].weight", "VirtualService.spec.http[].route[].destination.subset", "DestinationRule.spec.subsets[].labels{}"},
		Check: func(ctx context.Context, e *Env) error {
			xs, err := burst(ctx, e, "/", splitCount(shares, shift))
			if err != nil {
				return err
			}
			return splits(xs, shares)
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].route[0].weight=50; VirtualService spec.http[0].route[1].weight=50", Fails: "too few of v1, too many of v2"},
			{Break: "VirtualService spec.http[0].route[0].weight=20; VirtualService spec.http[0].route[1].weight=80", Fails: "too few of v1, too many of v2"},
			{Break: "VirtualService spec.http[0].route[1].destination.subset=v3", Fails: "of v3, which has no part"},
		},
	}
}

func virtualServiceZeroWeight() Case {
	// A leak of one in twenty is what is looked for. The power is so high because a control is a promise, too.
	const leak, power = 0.05, 0.9999
	count := stats.BinomialPlan(0, leak, routeAlpha, power)
	return Case{
		Name:    "VirtualService/Weights100-0",
		Doc:     "A destination of weight zero gets nothing at all.",
		Fixture: "virtualservice/weights-100-0.yaml",
		Judged:  fmt.Sprintf("exact: none of %d requests to the other subset, no false alarm; power %g for a leak of %g", count, power, leak),
		Covers:  []string{"VirtualService.spec.http[].route[].weight=0", "VirtualService.spec.http[].route[].weight=100"},
		Check: func(ctx context.Context, e *Env) error {
			xs, err := burst(ctx, e, "/", count)
			if err != nil {
				return err
			}
			return splits(xs, []share{{"v1", 1}})
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].route[0].weight=90; VirtualService spec.http[0].route[1].weight=10", Fails: "of v2, which has no part"},
			{Break: "VirtualService spec.http[0].route[0].weight=0; VirtualService spec.http[0].route[1].weight=100", Fails: "too few of v1"},
		},
	}
}

func virtualServiceThreeWays() Case {
	const shift = 0.10
	shares := []share{{"v1", 0.5}, {"v2", 0.3}, {"v3", 0.2}}
	branches := map[string]string{"v1": "one", "v2": "two", "v3": "three"}
	return Case{
		Name:    "VirtualService/WeightsThreeWays",
		Doc:     "Three subsets share the requests by their weights, and each branch sets its own header on its answers.",
		Fixture: "virtualservice/weights-three-ways.yaml",
		Judged:  judgedBySplit(shares, shift) + "; headers exactly",
		Samples: []Sample{splitSample(shares, shift)},
		Covers:  []string{"VirtualService.spec.http[].route[].weight", "VirtualService.spec.http[].route[].headers.response.set{}"},
		Check: func(ctx context.Context, e *Env) error {
			xs, err := burst(ctx, e, "/", splitCount(shares, shift))
			if err != nil {
				return err
			}
			if err := splits(xs, shares); err != nil {
				return err
			}
			for _, x := range xs {
				if got, want := x.Header.Get("X-Branch"), branches[version(x)]; got != want {
					return &Mismatch{
						Want: fmt.Sprintf("branch %q on answers from %s", want, version(x)), Got: fmt.Sprintf("branch %q", got),
						Exchanges: []loadgen.Exchange{x},
					}
				}
			}
			return nil
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].route[1].weight=0; VirtualService spec.http[0].route[2].weight=50", Fails: "too few of v2, too many of v3"},
			{Break: "VirtualService spec.http[0].route[2].headers.response.set.x-branch=two", Fails: `want branch "three" on answers from v3, got branch "two"`},
		},
	}
}

func virtualServiceMirror() Case {
	const part, shift = 0.3, 0.15
	count := stats.BinomialPlan(part, shift, routeAlpha, routePower)
	return Case{
		Name:    "VirtualService/Mirror",
		Doc:     "Copies of all, of a percentage or of none of the requests reach the mirror, while only the route's own destination answers.",
		Fixture: "virtualservice/mirror.yaml",
		Judged: fmt.Sprintf("counted at the backends: of %d requests each copied once, of %d none, exactly; of %d by an exact binomial range: alpha %g, power %g for a part off by %g",
			mirrorCount, mirrorCount, count, routeAlpha, routePower, shift),
		Samples: []Sample{{Of: "copies of requests to /some", N: count, Alpha: routeAlpha, Power: routePower, Shift: shift}},
		Covers: []string{
			"VirtualService.spec.http[].mirror.host", "VirtualService.spec.http[].mirror.subset", "VirtualService.spec.http[].mirrorPercentage.value",
		},
		Check: func(ctx context.Context, e *Env) error {
			if err := mirrored(ctx, e, "/all", mirrorCount, 1); err != nil {
				return err
			}
			if err := mirrored(ctx, e, "/none", mirrorCount, 0); err != nil {
				return err
			}
			return mirrored(ctx, e, "/some", count, part)
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].mirror=; VirtualService spec.http[0].mirrorPercentage=", Fails: "/all copied to v2, got 0"},
			{Break: "VirtualService spec.http[0].mirror.subset=v1", Fails: "/all copied to v2, got 0"},
			{Break: "VirtualService spec.http[1].mirrorPercentage.value=70", Fails: "/some copied to v2, got "},
			{Break: "VirtualService spec.http[0].match[0].uri.prefix=/", Fails: "0 to 0 of 40 requests to /none copied to v2, got 40"},
		},
	}
}

// mirrorCount is for what must always or never happen.
const mirrorCount = 40

// mirrored sends count requests and judges that a part of them, or all or none, has also arrived at v2.
func mirrored(ctx context.Context, e *Env, path string, count int, part float64) error {
	low, high := stats.BinomialRange(count, part, routeAlpha)
	prefix := e.Prefix()
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL(path)}, Count: count, Connections: 4, IDPrefix: prefix})
	if err != nil {
		return err
	}
	if err := splits(xs, []share{{"v1", 1}}); err != nil {
		return err
	}
	copies, err := settled(ctx, e, prefix, count)
	if err != nil {
		return err
	}
	n := 0
	for id, at := range copies {
		if at["v1"]+at["v2"] > 2 || at["v1"] == 0 || at["v3"] > 0 {
			return mismatch("each request once at v1 and at most once at v2", "%s: %s", id, counts(at))
		}
		n += at["v2"]
	}
	if n < low || n > high {
		m := mismatch(fmt.Sprintf("%d to %d of %d requests to %s copied to v2", low, high, count, path), "%d", n)
		m.Distribution = []Bar{{Name: "copies of " + path, Count: float64(n), Low: float64(low), High: float64(high), Expected: part * float64(count)}}
		return m
	}
	return nil
}

// copiesSettle is how long nothing more must arrive for the copies, which nobody waits for, to be complete: a copy is
// sent together with its original and takes no longer than that.
const copiesSettle = 300 * time.Millisecond

// settled returns what the backends have received when nothing more comes.
func settled(ctx context.Context, e *Env, prefix string, count int) (map[string]map[string]int, error) {
	var last map[string]map[string]int
	total, since := -1, time.Now()
	err := e.Until(ctx, "the copies have arrived", func(ctx context.Context) (bool, error) {
		now, err := received(ctx, e, prefix)
		if err != nil {
			return false, err
		}
		n := 0
		for _, at := range now {
			n += sum(at)
		}
		if n != total {
			total, since = n, time.Now()
		}
		last = now
		// More than all of them, originals and copies, would be a mistake that needs no waiting for.
		return n >= 2*count || time.Since(since) >= copiesSettle, nil
	})
	return last, err
}
