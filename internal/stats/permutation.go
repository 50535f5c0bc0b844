// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Tail is the direction in which a test looks for a difference.
type Tail int

// A one-sided test has its whole error rate in the direction that matters.
const (
	TwoSided Tail = iota
	Greater
	Less
)

const (
	exactFlips = 24    // with up to as many pairs, all flips are counted
	flipDraws  = 20000 // with more, as many are drawn
)

// SignFlip is the p-value of Fisher's randomization test of paired differences: when neither of a pair is the better one, each
// difference might as well have had the other sign, so the p-value is the share of all choices of signs whose sum is at least as
// extreme. It is exact up to 24 pairs; with more, choices are drawn from the seed and the one observed is counted among them, which keeps
// the error rate a bound. With n pairs it is never less than 2^−n (2^(1−n) two-sided). No pairs, or differences that are not
// finite, say nothing: 1.
func SignFlip(diffs []float64, tail Tail, seed uint64) float64 {
	if !finite(diffs) {
		return 1
	}
	greater := func() float64 { return flips(diffs, 0, seed) }
	less := func() float64 { return flips(negated(diffs), 0, seed) }
	switch tail {
	case Greater:
		return greater()
	case Less:
		return less()
	}
	return min(1, 2*min(greater(), less()))
}

// SignFlipInterval is the range of shifts that SignFlip, two-sided, does not reject: it covers the centre of the differences with at
// least the confidence whatever their distribution is, so long as it is symmetric, and excludes a shift exactly when the test rejects
// it. Too few pairs for the confidence leave it open: n pairs can close it at 1−2^(1−n), so 6 at 95 % and 8 at 99 %.
// TestIntervalsCompared has why it is none of the bootstraps: with 6 to 20 pairs those cover less than they say.
func SignFlipInterval(diffs []float64, confidence float64, seed uint64) (low, high float64) {
	low, high = math.Inf(-1), math.Inf(1)
	if !finite(diffs) || !inside(confidence) {
		return low, high
	}
	tail := (1 - confidence) / 2
	low = lowest(diffs, tail, seed)
	high = -lowest(negated(diffs), tail, seed)
	return low, high
}

// lowest is the smallest shift that the test in the direction of Greater does not reject at tail.
func lowest(diffs []float64, tail float64, seed uint64) float64 {
	from, to := slices.Min(diffs), slices.Max(diffs)
	below := from - (1 + math.Abs(from)) // where only the observed signs are as extreme
	if flips(diffs, below, seed) > tail {
		return math.Inf(-1)
	}
	// The p-value goes up with the shift, in steps at the means of the subsets.
	if flips(diffs, from, seed) > tail {
		return from
	}
	for range 60 {
		mid := from + (to-from)/2
		if mid <= from || mid >= to {
			break
		}
		if flips(diffs, mid, seed) > tail {
			to = mid
		} else {
			from = mid
		}
	}
	return to
}

// flips is the share of choices of signs for which the sum of the differences, each less shift, is at least the observed sum. Flipping
// a set of them takes twice its sum away: it is the share of the sets, the empty one among them, whose sum is at most 0.
func flips(diffs []float64, shift float64, seed uint64) float64 {
	moved := make([]float64, len(diffs))
	scale := 0.0
	for i, d := range diffs {
		moved[i] = d - shift
		scale += math.Abs(d) + math.Abs(shift)
	}
	bound := scale * 1e-12 // sums that are equal but for rounding are ties
	if len(moved) > exactFlips {
		return drawnFlips(moved, bound, seed)
	}
	// Every set is one of the first half and one of the second: sorted, the pairs are counted and not visited.
	left, right := subsetSums(moved[:len(moved)/2]), subsetSums(moved[len(moved)/2:])
	slices.Sort(left)
	slices.Sort(right)
	count, j := 0, len(right)
	for _, sum := range left {
		for j > 0 && sum+right[j-1] > bound {
			j--
		}
		count += j
	}
	return float64(count) / float64(len(left)*len(right))
}

func drawnFlips(diffs []float64, bound float64, seed uint64) float64 {
	rng := rand.New(rand.NewPCG(seed, uint64(len(diffs))))
	count := 1
	for range flipDraws {
		sum, bits := 0.0, uint64(0)
		for i, d := range diffs {
			if i%64 == 0 {
				bits = rng.Uint64()
			}
			if bits&1 == 1 {
				sum += d
			}
			bits >>= 1
		}
		if sum <= bound {
			count++
		}
	}
	return float64(count) / float64(flipDraws+1)
}

func subsetSums(values []float64) []float64 {
	sums := make([]float64, 1, 1<<len(values))
	for _, v := range values {
		for _, sum := range sums {
			sums = append(sums, sum+v)
		}
	}
	return sums
}

func negated(values []float64) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = -v
	}
	return out
}

// finite says that there are values and all are numbers that can be summed.
func finite(values []float64) bool {
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return len(values) > 0
}
