// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrTooShort says that a sequence is too short to tell a cycle from anything else.
var ErrTooShort = errors.New("too short to judge")

// Cycle checks that seq, the picks in order, is what round robin over k endpoints gives when each of the workers has a cycle of
// its own: in any stretch, the counts of any two endpoints differ by at most workers. With one worker that is to say that any
// k picks in a row are distinct. Round robin never fails this; CycleChance says how often chance passes it.
//
// The error begins with "not a cycle", or is ErrTooShort when seq has fewer than 2·k·workers picks, or says what argument is wrong.
func Cycle(seq []string, k, workers int) error {
	if k < 2 || workers < 1 {
		return fmt.Errorf("a cycle of %d endpoints by %d workers: at least 2 and 1 are needed", k, workers)
	}
	if len(seq) < 2*k*workers {
		return fmt.Errorf("%d picks over %d endpoints by %d workers: %w", len(seq), k, workers, ErrTooShort)
	}
	index := map[string]int{}
	var names []string
	for i, name := range seq {
		if _, ok := index[name]; ok {
			continue
		}
		if len(names) == k {
			return fmt.Errorf("not a cycle: pick %d, %s, is one endpoint more than the %d expected", i, name, k)
		}
		index[name] = len(names)
		names = append(names, name)
	}
	for len(names) < k {
		names = append(names, fmt.Sprintf("endpoint %d, never picked", len(names)+1))
	}
	// lead[a][b] is how often a was picked more than b so far, low[a][b] the least that it has been and at what pick. A stretch in
	// which a leads by too much ends here and begins there.
	type mark struct{ lead, at int }
	lead := make([]int, k*k)
	low := make([]mark, k*k)
	for i, name := range seq {
		a := index[name]
		for b := range k {
			if a == b {
				continue
			}
			lead[a*k+b]++
			lead[b*k+a]--
			if m := low[a*k+b]; lead[a*k+b]-m.lead > workers {
				stretch := seq[m.at : i+1]
				return fmt.Errorf("not a cycle: picks %d to %d are %d of %s and %d of %s", m.at, i, count(stretch, name), name, count(stretch, names[b]), names[b])
			}
			if m := &low[b*k+a]; lead[b*k+a] < m.lead {
				*m = mark{lead[b*k+a], i + 1}
			}
		}
	}
	return nil
}

func count(seq []string, name string) int {
	n := 0
	for _, s := range seq {
		if s == name {
			n++
		}
	}
	return n
}

// CycleChance is the probability that n independent, uniform picks among k endpoints pass Cycle with one worker: the first k
// distinct, then each one the only right one. It is 1 when there is nothing to judge.
func CycleChance(n, k int) float64 {
	if n < 1 || k < 1 {
		return 1
	}
	log := 0.0
	for i := range n {
		log += math.Log(float64(k-min(i, k-1)) / float64(k))
	}
	return math.Exp(log)
}

// Spread is the largest count less the smallest; 0 of none.
func Spread(counts []int) int {
	if len(counts) == 0 {
		return 0
	}
	return slices.Max(counts) - slices.Min(counts)
}
