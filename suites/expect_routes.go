// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// The error rates of the judgements about random routing: a sound cluster fails one run in a million, and the shift that
// a case names goes unseen one time in a hundred.
const (
	routeAlpha = 1e-6
	routePower = 0.99
)

// route is one request and who must answer it.
type route struct {
	name    string // in messages; unique within its table
	request loadgen.Request
	want    string // a backend's version, or the outcome of a request that no backend may answer: "404", "eof|reset"
}

// routeTries is how often every route of a table is tried, each time on a connection of its own: any of the gateway's
// workers may take it.
const routeTries = 4

// judgedExactly says how a table of n routes is judged.
func judgedExactly(n int) string {
	return fmt.Sprintf("exact: each of %d kinds of request, %d times on connections of their own, has one right answerer; no false alarm", n, routeTries)
}

// takes judges that every request of the table is answered by whom it must be, and by nobody else.
func takes(ctx context.Context, e *Env, from loadgen.Runner, table []route) error {
	return takesBy(ctx, e, from, table, answerer)
}

// takesBy is takes for answers that tell in another way whose they are.
func takesBy(ctx context.Context, e *Env, from loadgen.Runner, table []route, key func(loadgen.Exchange) string) error {
	b := loadgen.Burst{Count: routeTries * len(table), Connections: routeTries, Policy: loadgen.Fresh}
	for _, r := range table {
		b.Requests = append(b.Requests, r.request)
	}
	xs, err := e.Burst(ctx, from, b)
	if err != nil {
		return err
	}
	astray := map[string]int{}
	m := mismatch(fmt.Sprintf("each of %d requests answered by the one it is for", len(xs)), "")
	bad := 0
	for _, x := range xs {
		r := table[x.Seq%len(table)]
		got := key(x)
		if slices.Contains(strings.Split(r.want, "|"), got) {
			continue
		}
		astray[fmt.Sprintf("%s: %s instead of %s", r.name, got, strings.ReplaceAll(r.want, "|", " or "))]++
		if bad++; len(m.Exchanges) < 5 {
			m.Exchanges = append(m.Exchanges, x)
		}
	}
	if bad == 0 {
		return nil
	}
	m.Got, m.Detail = fmt.Sprintf("%d that were not", bad), counts(astray)
	return m
}

// answerer names who answered: the version of the backend, with the status when it is not 200, or, when it was no
// backend, the outcome.
func answerer(x loadgen.Exchange) string {
	switch {
	case x.ErrKind != "" || pod(x) == "":
		return outcomeOf(x)
	case x.Status != 200:
		return fmt.Sprintf("%d from %s", x.Status, version(x))
	}
	return version(x)
}

// share is the part of the requests that a version must get, or that must end in an outcome.
type share struct {
	of   string
	part float64
}

// splitCount is how many requests it takes to see that the parts are off by shift.
func splitCount(shares []share, shift float64) int {
	return stats.MultinomialPlan(parts(shares), shift, routeAlpha, routePower)
}

func parts(shares []share) []float64 {
	out := make([]float64, 0, len(shares))
	for _, s := range shares {
		out = append(out, s.part)
	}
	return out
}

// splitSample is the split as a case's Sample.
func splitSample(shares []share, shift float64) Sample {
	var of []string
	for _, s := range shares {
		of = append(of, s.of)
	}
	return Sample{Of: "parts of " + strings.Join(of, ", "), N: splitCount(shares, shift), Alpha: routeAlpha, Power: routePower, Shift: shift}
}

// judgedBySplit says how a split is judged.
func judgedBySplit(shares []share, shift float64) string {
	return fmt.Sprintf("exact binomial ranges of %d independent draws over all parts together: alpha %g, power %g for a part that is off by %g; anything else is a failure",
		splitCount(shares, shift), routeAlpha, routePower, shift)
}

// splits judges that the answers came from the versions in their parts, and from no other.
func splits(xs []loadgen.Exchange, shares []share) error {
	if err := all("split", xs, "200"); err != nil {
		return err
	}
	return splitsBy(xs, version, shares)
}

// splitsBy is splits by anything.
func splitsBy(xs []loadgen.Exchange, key func(loadgen.Exchange) string, shares []share) error {
	seen := countBy(xs, key)
	ranges := stats.MultinomialRanges(len(xs), parts(shares), routeAlpha)
	var want, wrong []string
	var bars []Bar
	for i, s := range shares {
		n, r := seen[s.of], ranges[i]
		delete(seen, s.of)
		want = append(want, fmt.Sprintf("%s %g %%", s.of, 100*s.part))
		bars = append(bars, Bar{Name: s.of, Count: float64(n), Low: float64(r.Low), High: float64(r.High), Expected: s.part * float64(len(xs))})
		switch {
		case n > r.High:
			wrong = append(wrong, "too many of "+s.of)
		case !r.Contains(n):
			wrong = append(wrong, "too few of "+s.of)
		}
	}
	for _, v := range sortedKeys(seen) {
		wrong = append(wrong, fmt.Sprintf("%d of %s, which has no part", seen[v], v))
	}
	if len(wrong) == 0 {
		return nil
	}
	m := mismatch(fmt.Sprintf("%d answers split %s", len(xs), strings.Join(want, ", ")), "%s", tally(xs, key))
	m.Detail, m.Distribution = strings.Join(wrong, ", "), bars
	return m
}

// received asks the pool's backends how often each of the requests with the prefix has arrived: id to version to count.
func received(ctx context.Context, e *Env, prefix string) (map[string]map[string]int, error) {
	pods, err := e.Pods(ctx, "app=echo")
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("no backend is ready in namespace %s", e.Namespace())
	}
	// With the dash, as one prefix may be the beginning of another.
	seen, err := e.Seen(ctx, pods, prefix+"-")
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]int{}
	for _, p := range pods {
		for id, n := range seen[p.Name] {
			if out[id] == nil {
				out[id] = map[string]int{}
			}
			out[id][p.Labels["version"]] += n
		}
	}
	return out, nil
}

// sum is the total of the counts.
func sum(m map[string]int) int {
	n := 0
	for _, c := range m {
		n += c
	}
	return n
}
