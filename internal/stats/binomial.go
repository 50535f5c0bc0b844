// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package stats has the exact tests that turn counts into judgements, and the sample sizes that give them their power.
// Nothing here is an approximation: error rates are bounds. Arguments that make no sense (a probability outside [0, 1], a
// negative count) give the answer that lets nothing pass: an empty range, a p-value of 0, a sample size of 0.
package stats

import (
	"math"

	"gonum.org/v1/gonum/mathext"
)

// maxPlan bounds the sample sizes that the plans look for.
const maxPlan = 2_000_000

// A Range is the counts from Low to High, both included; it is empty when Low > High.
type Range struct{ Low, High int }

// Contains says whether count is in r.
func (r Range) Contains(count int) bool { return r.Low <= count && count <= r.High }

var nothing = Range{Low: 0, High: -1}

func proper(p float64) bool { return p >= 0 && p <= 1 }

// inside says that a rate of errors is one: neither none nor all.
func inside(alpha float64) bool { return alpha > 0 && alpha < 1 }

// atMost is P(X ≤ k) and atLeast P(X ≥ k) for X ~ Binomial(n, p). Both come from the incomplete beta function rather than one
// from the other, because 1−x loses the small tails that an α of 1e-6 is about.
func atMost(k, n int, p float64) float64 {
	switch {
	case k < 0:
		return 0
	case k >= n || p == 0:
		return 1
	case p == 1:
		return 0
	}
	return mathext.RegIncBeta(float64(n-k), float64(k+1), 1-p)
}

func atLeast(k, n int, p float64) float64 { return atMost(n-k, n, 1-p) }

// BinomialTest is the two-sided p-value of k successes in n trials against a probability of p: twice the smaller tail. It is at
// most α exactly when k is outside BinomialRange(n, p, α) and p outside ClopperPearson(k, n, 1−α).
func BinomialTest(k, n int, p float64) float64 {
	if n < 1 || k < 0 || k > n || !proper(p) {
		return 0
	}
	return min(1, 2*min(atMost(k, n, p), atLeast(k, n, p)))
}

// ClopperPearson is the interval that covers the true probability with at least the confidence (such as 0.95) after k successes
// in n trials. It is 0 to 1 when nothing can be said.
func ClopperPearson(k, n int, confidence float64) (low, high float64) {
	if n < 1 || k < 0 || k > n || !inside(confidence) {
		return 0, 1
	}
	tail := (1 - confidence) / 2
	low, high = 0, 1
	// The upper limit is the lower one of the failures: a quantile near 1 would be lost to rounding.
	if k > 0 {
		low = betaQuantile(k, n, tail)
	}
	if k < n {
		high = 1 - betaQuantile(n-k, n, tail)
	}
	return low, high
}

// betaQuantile is the probability p for which k or more of n have the probability tail.
func betaQuantile(k, n int, tail float64) float64 {
	if k == n {
		return math.Pow(tail, 1/float64(n))
	}
	if k == 1 {
		return -math.Expm1(math.Log1p(-tail) / float64(n))
	}
	return mathext.InvRegIncBeta(float64(k), float64(n-k+1), tail)
}

// BinomialRange is the counts of successes in n trials that agree with a probability of p: a count below has a probability of
// at most alpha/2, and so has one above. With p = 0 or 1 there is one such count, and no chance of a false alarm.
func BinomialRange(n int, p, alpha float64) (low, high int) {
	if n < 1 || !proper(p) || !inside(alpha) {
		return nothing.Low, nothing.High
	}
	// The smallest k with P(X ≤ k) > α/2 and, seen from the failures' side, the largest with P(X ≥ k) > α/2.
	first := func(p float64) int {
		from, to := 0, n
		for from < to {
			if mid := (from + to) / 2; atMost(mid, n, p) > alpha/2 {
				to = mid
			} else {
				from = mid + 1
			}
		}
		return from
	}
	return first(p), n - first(1-p)
}

// detects is the smaller of the chances that n trials fall outside r when the probability is p+shift or p−shift; a side that is
// no probability does not count. It is 0 when there is no side.
func detects(n int, r Range, p, shift float64) float64 {
	least, sides := 1.0, 0
	for _, q := range []float64{p + shift, p - shift} {
		if proper(q) {
			least = min(least, atMost(r.Low-1, n, q)+atLeast(r.High+1, n, q))
			sides++
		}
	}
	if sides == 0 {
		return 0
	}
	return least
}

// BinomialPlan is the smallest n at which BinomialRange(n, p, alpha) misses with at least the given power when the true
// probability is p+shift, and when it is p−shift. It is 0 when there is none up to two million. Exact power goes up with n in a
// sawtooth: use n as it is, or check anew.
func BinomialPlan(p, shift, alpha, power float64) (n int) {
	return plan([]float64{p}, shift, alpha, power)
}

// plan finds the smallest n for which every cell has the power at alpha.
func plan(cells []float64, shift, alpha, want float64) int {
	if !(shift > 0) || !inside(alpha) || !inside(want) {
		return 0
	}
	for _, p := range cells {
		if !proper(p) || !proper(p+shift) && !proper(p-shift) {
			return 0
		}
	}
	// One trial more moves each end of a range by at most one, so ranges are carried along instead of looked up.
	ranges := make([]Range, len(cells))
	for n := 1; n <= maxPlan; n++ {
		enough := true
		for i, p := range cells {
			r := &ranges[i]
			if atMost(r.Low, n, p) <= alpha/2 {
				r.Low++
			}
			if atLeast(r.High+1, n, p) > alpha/2 {
				r.High++
			}
			enough = enough && detects(n, *r, p, shift) >= want
		}
		if enough {
			return n
		}
	}
	return 0
}

// shared is each cell's part of alpha, by Bonferroni's inequality. Cells of probability 0 or 1 cannot give a false alarm and take
// no part; two others are one test, since each count decides the other. ok is false when probs is no distribution.
func shared(probs []float64, alpha float64) (perCell float64, ok bool) {
	sum, free := 0.0, 0
	for _, p := range probs {
		if !proper(p) {
			return 0, false
		}
		sum += p
		if p > 0 && p < 1 {
			free++
		}
	}
	if math.Abs(sum-1) > 1e-9 || !inside(alpha) {
		return 0, false
	}
	if free <= 2 {
		return alpha, true
	}
	return alpha / float64(free), true
}

// MultinomialRanges is for each cell the exact range of counts that agree with its probability when n independent draws are
// made: all counts are inside with a probability of at least 1−alpha. The probabilities must sum to 1.
func MultinomialRanges(n int, probs []float64, alpha float64) []Range {
	ranges := make([]Range, len(probs))
	perCell, ok := shared(probs, alpha)
	for i, p := range probs {
		ranges[i] = nothing
		if ok {
			ranges[i].Low, ranges[i].High = BinomialRange(n, p, perCell)
		}
	}
	return ranges
}

// MultinomialPlan is the smallest n at which a cell whose true probability is off by shift, whichever cell and direction, is
// outside its MultinomialRanges with at least the given power. It is 0 when there is none up to two million.
func MultinomialPlan(probs []float64, shift, alpha, power float64) (n int) {
	perCell, ok := shared(probs, alpha)
	if !ok {
		return 0
	}
	return plan(probs, shift, perCell, power)
}

// maxCells bounds the work of CoverPlan, which grows with the square of k.
const maxCells = 2000

// CoverPlan is the smallest number of uniform independent draws after which one of k cells is still unseen with a probability of
// at most alpha (the coupon collector's problem). It is 0 when k is not between 1 and 2000.
func CoverPlan(k int, alpha float64) (n int) {
	if k < 1 || k > maxCells || !inside(alpha) {
		return 0
	}
	// seen[j] is the probability that j cells have been seen. Adding up the misses, all positive, keeps the digits that
	// 1 − P(all seen) or inclusion and exclusion would lose.
	seen := make([]float64, k+1)
	seen[0] = 1
	for n = 1; ; n++ {
		missing := 0.0
		for j := min(n, k); j >= 1; j-- {
			seen[j] = seen[j]*float64(j)/float64(k) + seen[j-1]*float64(k-j+1)/float64(k)
			if j < k {
				missing += seen[j]
			}
		}
		seen[0] = 0
		if n >= k && missing <= alpha {
			return n
		}
	}
}
