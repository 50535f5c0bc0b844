// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"harness.example/harness/loadgen"
)

// ejection makes the exchanges of a proxy in turns over three pods, of which "bad" fails while it is told to, is left out
// after so many failures, and comes back after so long.
func ejection(after int, out time.Duration) []loadgen.Exchange {
	start := time.Now()
	var xs []loadgen.Exchange
	failed, turn := 0, 0
	var outUntil time.Time
	for i := range outlierRequests {
		at := start.Add(time.Duration(i) * outlierSpacing)
		pods := []string{"bad", "b", "c"}
		if failed == after && outUntil.IsZero() {
			outUntil = at.Add(out)
		}
		if at.Before(outUntil) {
			pods = pods[1:]
		}
		turn++
		x := loadgen.Exchange{Seq: i, Status: 200, Start: at, Latency: time.Millisecond, Header: http.Header{"X-Echo-Pod": {pods[turn%len(pods)]}}}
		if pod(x) == "bad" && i < outlierFaults {
			x.Status = 503
			failed++
		}
		xs = append(xs, x)
	}
	return xs
}

func TestEjected(t *testing.T) {
	for _, c := range []struct {
		name  string
		after int
		out   time.Duration
		want  string // "" = as it should be
	}{
		{"at the fifth", outlierErrors, outlierBase + outlierInterval, ""},
		{"some more on their way", outlierErrors + outlierMore, outlierBase, ""},
		{"never", 1000, 0, "it was never left out"},
		{"at the first", 1, outlierBase, "left out too soon, after 1 failure"},
		{"one more than that", outlierErrors + outlierMore + 1, outlierBase, "left out too late"},
		{"half the time", outlierErrors, outlierBase / 2, "back too soon"},
		{"for ever", outlierErrors, time.Hour, "it did not come back"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := ejected(ejection(c.after, c.out), "bad")
			if c.want == "" {
				if err != nil || out < outlierBase || out > outlierBase+outlierInterval+outlierSlack {
					t.Errorf("out for %s, %v", out, err)
				}
				return
			}
			if asMismatch(err) == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a mismatch with %q", err, c.want)
			}
		})
	}
}
