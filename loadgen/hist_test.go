// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHist(t *testing.T) {
	var h Hist
	if d, enough := h.Quantile(0.5); d != 0 || enough || h.Max() != 0 || h.Mean() != 0 {
		t.Error("an empty histogram has values")
	}
	for i := range 10_000 {
		h.Record(time.Duration(i+1) * time.Microsecond)
	}
	within := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want*999/1000 || got > want*1001/1000+time.Microsecond {
			t.Errorf("%s is %s, want %s", what, got, want)
		}
	}
	p99, enough := h.Quantile(0.99)
	within("p99", p99, 9900*time.Microsecond)
	within("max", h.Max(), 10*time.Millisecond)
	within("mean", h.Mean(), 5*time.Millisecond)
	if !enough {
		t.Error("10,000 values are enough for the 99th percentile")
	}
	if _, enough := h.Quantile(0.991); enough {
		t.Error("10,000 values are not enough for the 99.1th percentile")
	}
	h.Record(-time.Second)
	h.Record(time.Hour)
	if h.Count() != 10_002 || h.Max() < histMax*999/1000 {
		t.Errorf("values outside are lost: %d, max %s", h.Count(), h.Max())
	}
}

func TestHistJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h, back Hist
		for _, d := range rapid.SliceOf(rapid.Int64Range(0, int64(time.Minute))).Draw(t, "values") {
			h.Record(time.Duration(d))
		}
		b, err := json.Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if back.Count() != h.Count() || back.Max() != h.Max() || back.Mean() != h.Mean() {
			t.Fatalf("%d values, max %s; want %d, %s", back.Count(), back.Max(), h.Count(), h.Max())
		}
		again, err := json.Marshal(&back)
		if err != nil || string(again) != string(b) {
			t.Fatalf("%s became %s, %v", b, again, err)
		}
	})
	var h Hist
	const otherGeometry = `"HISTFAAAACB42pNpmSzMwMDAyQABjEDMDKXBgBGIOUA8AAu9AMg="`
	for _, bad := range []string{`1`, `"x"`, `"AAAA"`, otherGeometry} {
		if err := json.Unmarshal([]byte(bad), &h); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
