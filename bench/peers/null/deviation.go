// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package null

import (
	"math"
	"slices"
	"time"
)

// A Deviation says how far arrivals were from an even schedule.
//
// Arrival k of a load at rate R belongs at T0 + k/R. Nobody tells the server T0, so it is the latest time at which no request is
// early: the minimum over k of arrival − k/R. What is left of each arrival is how late it was, at least 0.
type Deviation struct {
	P50 time.Duration `json:"p50"`
	P99 time.Duration `json:"p99"`
	Max time.Duration `json:"max"`
	// InTime is how many arrived before T0 + the load's duration + Grace.
	InTime int `json:"inTime"`
}

// Grace is how long after the end of its schedule a load's last requests may arrive and still be in time.
const Grace = 100 * time.Millisecond

// Deviate compares arrivals (nanoseconds, ascending) with a schedule of rate requests per second that lasts for duration. The
// lateness of each is left in scratch, which is grown as needed and returned.
func Deviate(arrivals []int64, rate float64, duration time.Duration, scratch []int64) (Deviation, []int64) {
	late := scratch[:0]
	if len(arrivals) == 0 || !(rate > 0) {
		return Deviation{}, late
	}
	t0 := int64(math.MaxInt64)
	for k, at := range arrivals {
		left := at - int64(float64(k)*1e9/rate)
		t0 = min(t0, left)
		late = append(late, left)
	}
	end := t0 + int64(duration+Grace)
	inTime, found := slices.BinarySearch(arrivals, end)
	for found && inTime < len(arrivals) && arrivals[inTime] == end {
		inTime++
	}
	for k := range late {
		late[k] -= t0
	}
	slices.Sort(late)
	return Deviation{P50: rank(late, 0.5), P99: rank(late, 0.99), Max: rank(late, 1), InTime: inTime}, late
}

// rank is the smallest value at or below which a share q of the sorted values lie.
func rank(sorted []int64, q float64) time.Duration {
	n := int(math.Ceil(q*float64(len(sorted)) - 1e-9)) // 0.99 × 100 is a little more than 99
	return time.Duration(sorted[max(n, 1)-1])
}
