// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"slices"
)

// Holm adjusts the p-values of tests that are judged together: to reject those whose adjusted value is at most α rejects any true
// hypothesis at all with a probability of at most α, however the tests depend on each other. The result is in the order given.
func Holm(ps []float64) []float64 {
	order := make([]int, len(ps))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(ps[a], ps[b]) })
	adjusted := make([]float64, len(ps))
	most := 0.0
	for rank, i := range order {
		most = max(most, min(1, ps[i]*float64(len(ps)-rank)))
		adjusted[i] = most
	}
	return adjusted
}
