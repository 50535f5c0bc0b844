// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The geometry every Hist has: with one geometry, merging only adds counts and is exact.
const (
	histMax    = 60 * time.Second
	histDigits = 3
)

// A Hist is a histogram of durations from 1 µs to 60 s with three significant digits; values outside are counted at the
// bound. The zero value is empty and ready; it is not safe for concurrent recording. Its JSON is the HdrHistogram V2 compressed
// encoding in base64 (values in µs), or null when empty.
type Hist struct{ h *hdrhistogram.PackedHistogram }

func newPacked() *hdrhistogram.PackedHistogram {
	return hdrhistogram.NewPacked(1, histMax.Microseconds(), histDigits)
}

// Record counts d.
func (h *Hist) Record(d time.Duration) { h.recordN(d, 1) }

func (h *Hist) recordN(d time.Duration, n int64) {
	if h.h == nil {
		h.h = newPacked()
	}
	// In range by construction, so the only error left is a total beyond int64.
	_ = h.h.RecordValues(min(max(d.Microseconds(), 1), histMax.Microseconds()), n)
}

// Count is how many values were recorded.
func (h *Hist) Count() uint64 {
	if h == nil || h.h == nil {
		return 0
	}
	return uint64(max(h.h.TotalCount(), 0))
}

// Quantile is the value below or at which a share q of all values lie. enough says that at least 100 values lie above it
// (n(1−q) ≥ 100): a quantile with fewer is noise and not to be printed.
func (h *Hist) Quantile(q float64) (d time.Duration, enough bool) {
	n := h.Count()
	if n == 0 || math.IsNaN(q) {
		return 0, false
	}
	q = min(max(q, 0), 1)
	d = time.Duration(h.h.ValueAtPercentile(q*100)) * time.Microsecond
	// The margin keeps n = 10,000 enough for 0.99 although 1−0.99 is a little less than 0.01.
	return d, float64(n)*(1-q) >= 100-1e-6
}

// Max is the largest value, to three digits.
func (h *Hist) Max() time.Duration {
	if h.Count() == 0 {
		return 0
	}
	return time.Duration(h.h.Max()) * time.Microsecond
}

// Mean is the mean, to three digits.
func (h *Hist) Mean() time.Duration {
	if h.Count() == 0 {
		return 0
	}
	return time.Duration(h.h.Mean() * float64(time.Microsecond))
}

// Merge adds what is in from.
func (h *Hist) Merge(from *Hist) {
	if from.Count() == 0 {
		return
	}
	if h.h == nil {
		h.h = newPacked()
	}
	h.h.Merge(from.h)
}

// MarshalJSON encodes the counts exactly.
func (h *Hist) MarshalJSON() ([]byte, error) {
	if h.Count() == 0 {
		return []byte("null"), nil
	}
	b, err := h.h.EncodeV2()
	if err != nil {
		return nil, fmt.Errorf("encode histogram: %w", err)
	}
	return json.Marshal(string(b))
}

// UnmarshalJSON refuses another geometry, because merging with it would not be exact.
func (h *Hist) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("decode histogram: %w", err)
	}
	if s == "" {
		h.h = nil
		return nil
	}
	p, err := hdrhistogram.DecodePacked([]byte(s))
	if err != nil {
		return fmt.Errorf("decode histogram: %w", err)
	}
	if p.LowestTrackableValue() != 1 || p.HighestTrackableValue() != histMax.Microseconds() || p.SignificantFigures() != histDigits {
		return errors.New("decode histogram: its geometry is not 1 µs to 60 s with 3 digits")
	}
	h.h = p
	return nil
}
