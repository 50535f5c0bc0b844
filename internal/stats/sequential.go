// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"errors"
	"fmt"
	"math"
)

// Decision is where a sequential test stands.
type Decision int

// A test goes on until it accepts or rejects; either is final.
const (
	Undecided Decision = iota
	Accepted
	Rejected
)

func (d Decision) String() string {
	switch d {
	case Accepted:
		return "accepted"
	case Rejected:
		return "rejected"
	}
	return "undecided"
}

// Sequential tests a proportion while it is observed and stops as soon as the data allow it: with a clear answer, long before a
// sample of fixed size would be complete. It is Wald's test of p against p+shift and against p−shift: rejected when one of the two
// is much more likely than p, accepted when both are much less. By Ville's inequality, a true p is rejected with a probability
// of at most alpha and a shifted one accepted with at most 1−power, however often one looks. Between p and p±shift either may happen.
type Sequential struct {
	sides    []side
	reject   float64 // log likelihood ratio
	accept   float64
	decision Decision
}

// A side is one alternative: what a hit and a miss add to its log likelihood ratio.
type side struct {
	hit, miss, ratio float64
	accepted         bool
}

// NewSequential starts a test of the proportion p. A side on which p±shift is no probability is left out; one must remain.
func NewSequential(p, shift, alpha, power float64) (*Sequential, error) {
	if !proper(p) || !(shift > 0) || !inside(alpha) || !inside(power) {
		return nil, fmt.Errorf("sequential test of p %v, shift %v, alpha %v, power %v: out of bounds", p, shift, alpha, power)
	}
	s := &Sequential{}
	for _, q := range []float64{p + shift, p - shift} {
		if proper(q) {
			s.sides = append(s.sides, side{hit: math.Log(q) - math.Log(p), miss: math.Log1p(-q) - math.Log1p(-p)})
		}
	}
	if len(s.sides) == 0 {
		return nil, errors.New("sequential test: p+shift and p−shift are both outside 0 to 1")
	}
	s.reject, s.accept = math.Log(float64(len(s.sides))/alpha), math.Log(1-power)
	return s, nil
}

// Observe adds n observations of which hits were hits, and says where the test stands. Impossible numbers reject.
func (s *Sequential) Observe(hits, n int) Decision {
	if s.decision != Undecided {
		return s.decision
	}
	if hits < 0 || n < hits {
		s.decision = Rejected
		return s.decision
	}
	all := true
	for i := range s.sides {
		side := &s.sides[i]
		side.ratio += times(hits, side.hit) + times(n-hits, side.miss)
		switch {
		case math.IsNaN(side.ratio) || side.ratio >= s.reject:
			// Not a number: what neither p nor the alternative allows.
			s.decision = Rejected
			return s.decision
		case side.ratio <= s.accept:
			side.accepted = true
		}
		all = all && side.accepted
	}
	if all {
		s.decision = Accepted
	}
	return s.decision
}

// times is n·x, with nothing of the infinite being nothing.
func times(n int, x float64) float64 {
	if n == 0 {
		return 0
	}
	return float64(n) * x
}
