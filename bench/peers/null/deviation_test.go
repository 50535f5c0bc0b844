// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package null

import (
	"slices"
	"testing"
	"time"
)

func TestDeviate(t *testing.T) {
	const ms = int64(time.Millisecond)
	hundred := make([]int64, 100) // at 1000/s, the last one late by 7 ms
	for k := range hundred {
		hundred[k] = int64(k) * ms
	}
	hundred[99] += 7 * ms
	for _, test := range []struct {
		name     string
		arrivals []int64 // in ns
		rate     float64
		duration time.Duration
		late     []int64 // sorted
		want     Deviation
	}{
		// due (T0 = 5 ms): 5, 15, 25, 35
		{"on time", []int64{5 * ms, 15 * ms, 25 * ms, 35 * ms}, 100, 40 * time.Millisecond,
			[]int64{0, 0, 0, 0}, Deviation{InTime: 4}},
		// The third is the most punctual one: left = 6, 7, 5, 9 → T0 = 5; due 5, 15, 25, 35; late 1, 2, 0, 4.
		{"some late", []int64{6 * ms, 17 * ms, 25 * ms, 39 * ms}, 100, 40 * time.Millisecond,
			[]int64{0, ms, 2 * ms, 4 * ms}, Deviation{P50: time.Millisecond, P99: 4 * time.Millisecond, Max: 4 * time.Millisecond, InTime: 4}},
		// Twice too fast: left = 0, −5, −10 → T0 = −10 ms, and the first is late by what the last is early.
		{"too fast", []int64{0, 5 * ms, 10 * ms}, 100, 30 * time.Millisecond,
			[]int64{0, 5 * ms, 10 * ms}, Deviation{P50: 5 * time.Millisecond, P99: 10 * time.Millisecond, Max: 10 * time.Millisecond, InTime: 3}},
		// T0 = 0, the end is 20 ms + Grace = 120 ms: one on it is in time, the next is not.
		{"after the end", []int64{0, 120 * ms, 121 * ms}, 100, 20 * time.Millisecond,
			[]int64{0, 101 * ms, 110 * ms}, Deviation{P50: 101 * time.Millisecond, P99: 110 * time.Millisecond, Max: 110 * time.Millisecond, InTime: 2}},
		// One in a hundred is beyond the 99th percentile.
		{"one in a hundred", hundred, 1000, 100 * time.Millisecond,
			append(make([]int64, 99), 7*ms), Deviation{Max: 7 * time.Millisecond, InTime: 100}},
		{"none", nil, 100, time.Second, nil, Deviation{}},
		{"no rate", []int64{1}, 0, time.Second, nil, Deviation{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, late := Deviate(test.arrivals, test.rate, test.duration, nil)
			if got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			if !slices.Equal(late, test.late) {
				t.Errorf("late by %v ns, want %v", late, test.late)
			}
		})
	}
}
