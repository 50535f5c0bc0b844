// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.IsNaN(got) || math.Abs(got-want) > tolerance {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// The published values: sign-test tables (p = ½), and Clopper and Pearson's interval as R's binom.test and the usual tables have it.
func TestPublishedValues(t *testing.T) {
	for _, tt := range []struct {
		k, n int
		p    float64
		want float64
	}{
		{1, 10, 0.5, 0.021484}, {0, 5, 0.5, 0.0625}, {8, 10, 0.5, 0.109375}, {15, 20, 0.5, 0.041389}, {5, 10, 0.5, 1},
		{0, 10, 0, 1}, {1, 10, 0, 0}, {10, 10, 1, 1}, {9, 10, 1, 0},
	} {
		near(t, "BinomialTest", BinomialTest(tt.k, tt.n, tt.p), tt.want, 1e-6)
	}
	for _, tt := range []struct {
		k, n      int
		low, high float64
	}{
		{0, 10, 0, 0.3084971}, {1, 10, 0.002528579, 0.4450161}, {2, 10, 0.02521073, 0.5560955}, {5, 10, 0.1870860, 0.8129140},
		{10, 10, 0.6915029, 1}, {5, 20, 0.08657147, 0.4910459}, {682, 925, 0.7076683, 0.7654066},
	} {
		low, high := ClopperPearson(tt.k, tt.n, 0.95)
		near(t, "low", low, tt.low, 1e-6)
		near(t, "high", high, tt.high, 1e-6)
	}
}

// A tail of 1e-6 and less has all its digits, on both sides.
func TestSmallTails(t *testing.T) {
	exact := func(from, to, n int, num, den int64) float64 {
		sum, term := new(big.Rat), new(big.Rat)
		for k := from; k <= to; k++ {
			c := new(big.Int).Binomial(int64(n), int64(k))
			c.Mul(c, new(big.Int).Exp(big.NewInt(num), big.NewInt(int64(k)), nil))
			c.Mul(c, new(big.Int).Exp(big.NewInt(den-num), big.NewInt(int64(n-k)), nil))
			sum.Add(sum, term.SetFrac(c, new(big.Int).Exp(big.NewInt(den), big.NewInt(int64(n)), nil)))
		}
		f, _ := sum.Float64()
		return f
	}
	for _, tt := range []struct {
		k, n     int
		num, den int64
	}{{10, 100, 1, 2}, {90, 100, 1, 2}, {3, 200, 1, 10}, {60, 200, 1, 10}, {500, 600, 7, 10}} {
		p := float64(tt.num) / float64(tt.den)
		if want := exact(0, tt.k, tt.n, tt.num, tt.den); math.Abs(atMost(tt.k, tt.n, p)/want-1) > 1e-9 {
			t.Errorf("P(X ≤ %d) of %d at %v is %v, want %v", tt.k, tt.n, p, atMost(tt.k, tt.n, p), want)
		}
		if want := exact(tt.k, tt.n, tt.n, tt.num, tt.den); math.Abs(atLeast(tt.k, tt.n, p)/want-1) > 1e-9 {
			t.Errorf("P(X ≥ %d) of %d at %v is %v, want %v", tt.k, tt.n, p, atLeast(tt.k, tt.n, p), want)
		}
	}
}

// Test, range and interval are one judgement seen from three sides.
func TestBinomialAgreesWithItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 400).Draw(t, "n")
		k := rapid.IntRange(0, n).Draw(t, "k")
		p := rapid.Float64Range(0, 1).Draw(t, "p")
		alpha := rapid.Float64Range(1e-9, 0.5).Draw(t, "alpha")
		low, high := BinomialRange(n, p, alpha)
		value := BinomialTest(k, n, p)
		if math.Abs(value/alpha-1) < 1e-6 {
			t.Skip("on the edge")
		}
		if in := (Range{low, high}).Contains(k); in != (value > alpha) {
			t.Fatalf("%d in [%d, %d] is %v, p-value %v", k, low, high, in, value)
		}
		if from, to := ClopperPearson(k, n, 1-alpha); p > 1e-6 && p < 1-1e-6 && (from < p && p < to) != (value > alpha) {
			t.Fatalf("%v in [%v, %v], p-value %v", p, from, to, value)
		}
		if outside := atMost(low-1, n, p) + atLeast(high+1, n, p); outside > alpha {
			t.Fatalf("outside [%d, %d] is %v", low, high, outside)
		}
	})
}

func TestEdgesAreExact(t *testing.T) {
	for _, tt := range []struct {
		n    int
		p    float64
		want Range
	}{{100, 0, Range{0, 0}}, {100, 1, Range{100, 100}}, {0, 0.5, nothing}, {10, 1.5, nothing}, {10, math.NaN(), nothing}} {
		low, high := BinomialRange(tt.n, tt.p, 1e-6)
		if (Range{low, high}) != tt.want {
			t.Errorf("n %d, p %v: [%d, %d]", tt.n, tt.p, low, high)
		}
	}
	ranges := MultinomialRanges(100, []float64{0, 1}, 1e-6)
	if ranges[0] != (Range{0, 0}) || ranges[1] != (Range{100, 100}) {
		t.Errorf("got %v", ranges)
	}
	for _, r := range MultinomialRanges(100, []float64{0.5, 0.6}, 1e-6) {
		if r.Contains(0) || r.Contains(50) {
			t.Errorf("no distribution gave %v", r)
		}
	}
	for _, n := range []int{
		BinomialPlan(0.5, 0, 0.1, 0.9), BinomialPlan(2, 0.1, 0.1, 0.9), BinomialPlan(0.5, 0.1, 0, 0.9), BinomialPlan(0.5, 0.1, 0.1, 1),
		BinomialPlan(0.5, 0.6, 0.1, 0.9), BinomialPlan(0.5, math.NaN(), 0.1, 0.9), MultinomialPlan([]float64{1, 1}, 0.1, 0.1, 0.9), CoverPlan(0, 0.1), CoverPlan(3, 0),
	} {
		if n != 0 {
			t.Errorf("nonsense was planned with %d", n)
		}
	}
	if BinomialTest(3, 2, 0.5) != 0 || BinomialTest(0, 0, 0.5) != 0 {
		t.Error("nonsense has a p-value")
	}
	if low, high := ClopperPearson(3, 2, 0.5); low != 0 || high != 1 {
		t.Error("nonsense has an interval")
	}
}

func TestPlansAreSmallest(t *testing.T) {
	for _, tt := range []struct{ p, shift, alpha, power float64 }{
		{0.5, 0.2, 0.05, 0.8}, {0.7, 0.05, 1e-3, 0.9}, {0, 0.1, 1e-6, 0.99}, {1, 0.1, 1e-6, 0.99}, {0.1, 0.3, 1e-6, 0.99},
	} {
		works := func(n int) bool {
			low, high := BinomialRange(n, tt.p, tt.alpha)
			return detects(n, Range{low, high}, tt.p, tt.shift) >= tt.power
		}
		n := BinomialPlan(tt.p, tt.shift, tt.alpha, tt.power)
		if n == 0 || !works(n) {
			t.Errorf("%+v: n = %d has not the power", tt, n)
		}
		for m := 1; m < n; m++ {
			if works(m) {
				t.Errorf("%+v: n = %d, but %d is enough", tt, n, m)
				break
			}
		}
	}
	// 0.9^n ≤ 0.01 first at 44: one failure where none may be.
	if n := BinomialPlan(0, 0.1, 1e-6, 0.99); n != 44 {
		t.Errorf("got %d, want 44", n)
	}
	if n, of := MultinomialPlan([]float64{0.2, 0.3, 0.5}, 0.1, 1e-6, 0.99), BinomialPlan(0.5, 0.1, 1e-6/3, 0.99); n < of {
		t.Errorf("three cells need %d, fewer than one alone: %d", n, of)
	}
}

// The rates hold in simulation: false alarms at most α, misses at most 1−power. The margins are five standard deviations.
func TestRatesInSimulation(t *testing.T) {
	const runs = 4000
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func(n int, p float64) (k int) {
		for range n {
			if rng.Float64() < p {
				k++
			}
		}
		return k
	}
	margin := func(p float64) float64 { return 5 * math.Sqrt(p*(1-p)/runs) }
	const alpha, power = 0.05, 0.9
	n := BinomialPlan(0.3, 0.15, alpha, power)
	low, high := BinomialRange(n, 0.3, alpha)
	alarms, caught := 0, 0
	for range runs {
		if !(Range{low, high}).Contains(draw(n, 0.3)) {
			alarms++
		}
		if !(Range{low, high}).Contains(draw(n, 0.45)) {
			caught++
		}
	}
	if rate := float64(alarms) / runs; rate > alpha+margin(alpha) {
		t.Errorf("false alarms %v", rate)
	}
	if rate := float64(caught) / runs; rate < power-margin(power) {
		t.Errorf("caught %v", rate)
	}

	probs := []float64{0.5, 0.3, 0.2, 0}
	ranges := MultinomialRanges(200, probs, alpha)
	alarms = 0
	for range runs {
		counts := make([]int, len(probs))
		for range 200 {
			x, i := rng.Float64(), 0
			for ; i < len(probs)-2 && x >= probs[i]; i++ {
				x -= probs[i]
			}
			counts[i]++
		}
		for i, r := range ranges {
			if !r.Contains(counts[i]) {
				alarms++
				break
			}
		}
	}
	if rate := float64(alarms) / runs; rate > alpha+margin(alpha) {
		t.Errorf("multinomial false alarms %v", rate)
	}

	for _, tt := range []struct{ p, truth float64 }{{0.3, 0.3}, {0.3, 0.45}, {0.3, 0.15}, {0, 0}, {0, 0.15}, {1, 0.85}, {0.5, 0.9}} {
		wrong, observations := 0, 0
		for range runs {
			s, err := NewSequential(tt.p, 0.15, alpha, power)
			if err != nil {
				t.Fatal(err)
			}
			for s.Observe(draw(1, tt.truth), 1) == Undecided {
				observations++
			}
			if (s.Observe(0, 0) == Rejected) != (tt.p != tt.truth) {
				wrong++
			}
		}
		limit := 1 - power
		if tt.p == tt.truth {
			limit = alpha
		}
		if rate := float64(wrong) / runs; rate > limit+margin(limit) {
			t.Errorf("p %v, truth %v: wrong in %v", tt.p, tt.truth, rate)
		}
		// A clear answer comes early.
		if tt.truth == 0.9 && observations/runs > BinomialPlan(0.5, 0.15, alpha, power)/2 {
			t.Errorf("%d observations on average", observations/runs)
		}
	}
}

func TestSequentialEdges(t *testing.T) {
	s, err := NewSequential(0, 0.1, 1e-6, 0.99)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing among many is accepted after as many as the fixed plan needs; one is final.
	if d := s.Observe(0, BinomialPlan(0, 0.1, 1e-6, 0.99)); d != Accepted || s.Observe(1, 1) != Accepted {
		t.Errorf("got %s", d)
	}
	s, _ = NewSequential(0, 0.1, 1e-6, 0.99)
	if d := s.Observe(1, 1); d != Rejected {
		t.Errorf("one hit where none may be: %s", d)
	}
	s, _ = NewSequential(0.5, 0.1, 1e-6, 0.99)
	if s.Observe(0, 0) != Undecided || s.Observe(3, 2) != Rejected {
		t.Error("3 hits of 2 passed")
	}
	for _, bad := range [][4]float64{{-1, 0.1, 0.1, 0.9}, {0.5, 0, 0.1, 0.9}, {0.5, 0.6, 0.1, 0.9}, {0.5, 0.1, 1, 0.9}, {0.5, 0.1, 0.1, 0}} {
		if _, err := NewSequential(bad[0], bad[1], bad[2], bad[3]); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestCoverPlan(t *testing.T) {
	// Inclusion and exclusion in rational numbers.
	unseen := func(k, n int) float64 {
		sum := new(big.Rat)
		for j := 1; j <= k; j++ {
			num := new(big.Int).Exp(big.NewInt(int64(k-j)), big.NewInt(int64(n)), nil)
			num.Mul(num, new(big.Int).Binomial(int64(k), int64(j)))
			if j%2 == 0 {
				num.Neg(num)
			}
			sum.Add(sum, new(big.Rat).SetFrac(num, new(big.Int).Exp(big.NewInt(int64(k)), big.NewInt(int64(n)), nil)))
		}
		f, _ := sum.Float64()
		return f
	}
	for _, k := range []int{1, 2, 3, 6, 20} {
		for _, alpha := range []float64{0.5, 0.01, 1e-6} {
			n := CoverPlan(k, alpha)
			if n < k || unseen(k, n) > alpha || (n > k && unseen(k, n-1) <= alpha) {
				t.Errorf("k %d, alpha %v: %d", k, alpha, n)
			}
		}
	}
	// The birthday of dice: half of all people have seen six faces after 13 throws.
	if n := CoverPlan(6, 0.5); n != 13 {
		t.Errorf("got %d, want 13", n)
	}
}

func TestCycle(t *testing.T) {
	seq := func(s string) []string { return strings.Split(s, "") }
	for _, tt := range []struct {
		seq        string
		k, workers int
		want       string
	}{
		{"abcabcabc", 3, 1, ""},
		{"cabcab", 3, 1, ""},
		{"abcacb", 3, 1, "not a cycle: picks 2 to 4 are 2 of c and 0 of b"},
		{"ababab", 3, 1, "not a cycle: picks 0 to 2 are 2 of a and 0 of endpoint 3, never picked"},
		{"abcdabcd", 3, 1, "not a cycle: pick 3, d, is one endpoint more than the 3 expected"},
		{"aabbccaabbcc", 3, 2, ""},
		{"aaabbbcccabc", 3, 2, "not a cycle: picks 0 to 2 are 3 of a and 0 of b"},
		{"abcab", 3, 1, "too short"},
		{"", 3, 1, "too short"},
		{"aaaa", 1, 1, "at least 2 and 1"},
		{"abab", 2, 0, "at least 2 and 1"},
	} {
		var s []string
		if tt.seq != "" {
			s = seq(tt.seq)
		}
		err := Cycle(s, tt.k, tt.workers)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.seq, err, tt.want)
		}
		if tt.want == "too short" && !errors.Is(err, ErrTooShort) {
			t.Errorf("%s: %v", tt.seq, err)
		}
	}
}

// Any interleaving of workers' cycles passes; with one worker exactly the cycles do.
func TestCycleProperties(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f"}
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(2, 6).Draw(t, "k")
		workers := rapid.IntRange(1, 4).Draw(t, "workers")
		n := rapid.IntRange(2*k*workers, 100).Draw(t, "n")
		next := make([]int, workers)
		for w := range next {
			next[w] = rapid.IntRange(0, k-1).Draw(t, "start")
		}
		order := rapid.Permutation(names[:k]).Draw(t, "order")
		seq := make([]string, n)
		for i := range seq {
			w := rapid.IntRange(0, workers-1).Draw(t, "worker")
			seq[i] = order[next[w]%k]
			next[w]++
		}
		if err := Cycle(seq, k, workers); err != nil {
			t.Fatalf("%v: %v", seq, err)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(2, 4).Draw(t, "k")
		seq := rapid.SliceOfN(rapid.SampledFrom(names[:k]), 2*k, 12).Draw(t, "seq")
		distinct := true
		for i := 0; i+k <= len(seq); i++ {
			seen := map[string]bool{}
			for _, s := range seq[i : i+k] {
				seen[s] = true
			}
			distinct = distinct && len(seen) == k
		}
		if err := Cycle(seq, k, 1); (err == nil) != distinct {
			t.Fatalf("%v: distinct %v, %v", seq, distinct, err)
		}
	})
}

func TestCycleChance(t *testing.T) {
	near(t, "chance of 6 over 3", CycleChance(6, 3), 6.0/27/27, 1e-12)
	near(t, "chance of 2 over 3", CycleChance(2, 3), 2.0/3, 1e-12)
	near(t, "chance of 5 over 1", CycleChance(5, 1), 1, 0)
	rng := rand.New(rand.NewPCG(3, 4))
	const runs = 200_000
	passed := 0
	for range runs {
		seq := make([]string, 6)
		for i := range seq {
			seq[i] = string(rune('a' + rng.IntN(3)))
		}
		if Cycle(seq, 3, 1) == nil {
			passed++
		}
	}
	p := CycleChance(6, 3)
	near(t, "share of random picks that pass", float64(passed)/runs, p, 5*math.Sqrt(p/runs))
	if Spread([]int{3, 1, 2}) != 2 || Spread(nil) != 0 {
		t.Error("spread")
	}
}
