// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A simulated system answers in a millisecond up to its capacity; above it, requests queue up for as long as a step lasts.
type simulated struct {
	capacity, generator float64 // requests per second
	deaf                float64 // above this rate nothing is answered well; 0: never
}

func (s simulated) measure(_ context.Context, rate float64) (*Result, error) {
	const seconds = 6
	r := newResult()
	for at := range seconds {
		second := Second{At: at, Slice: newSlice()}
		n := max(int(rate), 1)
		for i := range n {
			response := time.Millisecond
			if due := float64(at) + float64(i)/float64(n); rate > s.capacity {
				response += time.Duration(due * (rate/s.capacity - 1) * float64(time.Second))
			}
			class := ClassOK
			if s.deaf > 0 && rate > s.deaf {
				class = ClassHTTP
			}
			second.sent(class, response, response, 0)
		}
		r.Seconds = append(r.Seconds, second)
		r.Slice.merge(&second.Slice)
	}
	r.Verdict = Pass
	if rate > s.generator {
		r.Verdict, r.Reason = Invalid, "the generator lagged"
	}
	return r, nil
}

func TestCapacityIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truth := rapid.Float64Range(2, 300).Draw(t, "capacity")
		from := rapid.Float64Range(1, 500).Draw(t, "from")
		s := Search{From: from, Max: 1000, SLO: SLO{P99: 10 * time.Second, ErrorRate: 1}}
		c, err := s.Run(context.Background(), simulated{capacity: truth, generator: math.Inf(1)}.measure)
		if err != nil {
			t.Fatal(err)
		}
		// What queues up less than some milliseconds in four seconds is not seen, nor felt.
		if c.Rate > truth*1.01 || c.Rate < truth/resolution/1.01 || c.Limit != LimitSystem {
			t.Errorf("%.4g %s: %s; truth is %.4g; %+v", c.Rate, c.Limit, c.Reason, truth, c.Steps)
		}
	})
}

func TestCapacityOfGeneratorIsNotTheSystems(t *testing.T) {
	slo := SLO{P99: 50 * time.Millisecond, ErrorRate: 0.01}
	for _, tt := range []struct {
		name   string
		search Search
		system simulated
		limit  string
		low    float64
		high   float64
	}{
		{"the generator lags", Search{From: 20, Max: 1000, SLO: slo}, simulated{capacity: 500, generator: 100}, LimitGenerator, 95, 100},
		{"its ceiling", Search{From: 20, Max: 1000, SLO: slo, Ceiling: 100}, simulated{capacity: 500, generator: 500}, LimitGenerator, 70, 70},
		{"its ceiling below the first rate", Search{From: 200, Max: 1000, SLO: slo, Ceiling: 100}, simulated{capacity: 500, generator: 500}, LimitGenerator, 70, 70},
		{"no higher rate was asked for", Search{From: 20, Max: 100, SLO: slo}, simulated{capacity: 500, generator: 500}, LimitMax, 100, 100},
		{"the system's errors", Search{From: 20, Max: 1000, SLO: slo}, simulated{capacity: 500, generator: 500, deaf: 150}, LimitSystem, 142, 150},
		{"the objective", Search{From: 20, Max: 1000, SLO: SLO{P99: 500 * time.Microsecond}}, simulated{capacity: 500, generator: 500}, LimitSystem, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tt.search.Run(t.Context(), tt.system.measure)
			if err != nil || c.Limit != tt.limit || c.Rate < tt.low || c.Rate > tt.high || c.Reason == "" {
				t.Errorf("%v; %.4g %s: %s; %+v", err, c.Rate, c.Limit, c.Reason, c.Steps)
			}
		})
	}
}

// A rate that held once by luck and not again is not the capacity.
func TestCapacityIsConfirmed(t *testing.T) {
	seen := 0
	c, err := Search{From: 100, Max: 100, SLO: SLO{ErrorRate: 1}}.Run(t.Context(), func(ctx context.Context, rate float64) (*Result, error) {
		if seen++; seen > 2 && rate > 80 {
			return simulated{capacity: 50, generator: 1e9}.measure(ctx, rate)
		}
		return simulated{capacity: 1e9, generator: 1e9}.measure(ctx, rate)
	})
	if err != nil || c.Rate > 80 || c.Rate < 80/resolution/resolution || c.Limit != LimitSystem {
		t.Errorf("%v; %+v", err, c)
	}
}

func TestCapacityStops(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	c, err := Search{From: 10, Max: 1000, SLO: SLO{ErrorRate: 1}}.Run(ctx, func(ctx context.Context, rate float64) (*Result, error) {
		if rate > 20 {
			cancel(errors.New("enough"))
			return nil, context.Cause(ctx)
		}
		return simulated{capacity: 500, generator: 500}.measure(ctx, rate)
	})
	if err == nil || !strings.Contains(err.Error(), "enough") || len(c.Steps) != 2 {
		t.Errorf("%v; %+v", err, c)
	}
	for _, bad := range []Search{{}, {From: 1}, {From: 2, Max: 1}, {From: 1, Max: math.Inf(1)}} {
		if _, err := bad.Run(t.Context(), simulated{}.measure); err == nil {
			t.Errorf("%+v was run", bad)
		}
	}
}

// A live server with two places and 10 ms for each request carries 200 a second.
func TestCapacityOfServer(t *testing.T) {
	places := make(chan struct{}, 2)
	p := serveHTTP(t, nil, func(w http.ResponseWriter, r *http.Request) {
		places <- struct{}{}
		time.Sleep(10 * time.Millisecond)
		<-places
		answer(w, r)
	})
	c, err := Search{From: 50, Max: 2000, SLO: SLO{P99: 300 * time.Millisecond, ErrorRate: 0.01}}.Run(t.Context(), func(ctx context.Context, rate float64) (*Result, error) {
		return Plan{Requests: []Request{{URL: "http://" + p.addr}}, Rate: rate, Duration: 600 * time.Millisecond, Connections: 8, MaxLag: lenient}.Run(ctx)
	})
	// A busy machine lowers what is found; nothing raises it far.
	if err != nil || c.Rate > 400 || c.Limit != LimitSystem {
		t.Errorf("%v; %+v", err, c)
	}
}

func TestNullServer(t *testing.T) {
	r, err := Plan{Null: true, Closed: true, Duration: 100 * time.Millisecond, Connections: 4}.Run(t.Context())
	if err != nil || r.OK == 0 || r.OK != r.Sent || r.Backends["null"] != r.OK {
		t.Errorf("%v, %+v", err, r)
	}
	if _, err := (Plan{Null: true, Closed: true, Duration: time.Second, Requests: []Request{{URL: "http://127.0.0.1:1"}}}).Run(t.Context()); err == nil {
		t.Error("requests were taken for the null server")
	}
}
