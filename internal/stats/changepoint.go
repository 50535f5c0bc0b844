// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

const (
	leastSegment  = 3   // what is shorter is an outlier, not a new level
	shuffles      = 999 // of each series, so that the smallest p-value is 0.001
	changeSeed    = 7   // one series always gives one answer
	seriesMaximum = 10000
)

// ChangePoint is where a series takes another level.
type ChangePoint struct {
	At     int     // the first value of the new level
	P      float64 // the share of shuffled series that split at least as clearly
	Before float64 // median from the change before, or the start
	After  float64 // median up to the change after, or the end
}

// ChangePoints finds where the level of a series changes: at the split with the largest difference of mean ranks in units of its
// spread, if shuffled series have one as large with a probability of at most alpha, and again in both parts. Ranks keep outliers from
// counting for more than one value. A series of exchangeable values has any change point at all with a probability of at most
// alpha. A level must last for 3 values. Values that are not finite, and more than 10,000 values, give none.
func ChangePoints(series []float64, alpha float64) []ChangePoint {
	if !finite(series) || !inside(alpha) || len(series) > seriesMaximum {
		return nil
	}
	var found []ChangePoint
	var split func(from, to int)
	split = func(from, to int) {
		at, p := clearestSplit(series[from:to])
		if at == 0 || p > alpha {
			return
		}
		split(from, from+at)
		found = append(found, ChangePoint{At: from + at, P: p})
		split(from+at, to)
	}
	split(0, len(series))
	for i := range found {
		from, to := 0, len(series)
		if i > 0 {
			from = found[i-1].At
		}
		if i+1 < len(found) {
			to = found[i+1].At
		}
		found[i].Before, found[i].After = Median(series[from:found[i].At]), Median(series[found[i].At:to])
	}
	return found
}

// clearestSplit is the split of values with the largest standardized difference of ranks and its p-value; at is 0 when there is none.
func clearestSplit(values []float64) (at int, p float64) {
	if len(values) < 2*leastSegment {
		return 0, 1
	}
	ranks := midRanks(values)
	at, observed := standardized(ranks)
	if observed == 0 {
		return 0, 1
	}
	rng := rand.New(rand.NewPCG(changeSeed, uint64(len(values))))
	extreme := 1
	for range shuffles {
		rng.Shuffle(len(ranks), func(i, j int) { ranks[i], ranks[j] = ranks[j], ranks[i] })
		if _, shuffled := standardized(ranks); shuffled >= observed*(1-1e-12) {
			extreme++
		}
	}
	return at, float64(extreme) / float64(shuffles+1)
}

// standardized is the largest sum of the first k centred ranks over its standard deviation but for a factor, and that k.
func standardized(ranks []float64) (at int, largest float64) {
	n, sum := len(ranks), 0.0
	middle := float64(n+1) / 2
	for i, r := range ranks {
		sum += r - middle
		k := i + 1
		if k < leastSegment || n-k < leastSegment {
			continue
		}
		if value := math.Abs(sum) / math.Sqrt(float64(k)*float64(n-k)); value > largest {
			at, largest = k, value
		}
	}
	return at, largest
}

// midRanks gives equal values the mean of their ranks, which begin at 1.
func midRanks(values []float64) []float64 {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	ranks := make([]float64, len(values))
	for from := 0; from < len(order); {
		to := from + 1
		for to < len(order) && values[order[to]] == values[order[from]] {
			to++
		}
		for _, i := range order[from:to] {
			ranks[i] = float64(from+1+to) / 2
		}
		from = to
	}
	return ranks
}

// Median is the middle value, or the mean of the two; NaN of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
