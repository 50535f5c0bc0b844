// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"math"
	"time"

	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

const confidence = 0.95 // of each interval by itself

// Overhead is what the ways cost.
type Overhead struct {
	Run   string            `json:"run"`
	Plan  OverheadPlan      `json:"plan"`
	Nodes Nodes             `json:"nodes"`
	Ways  []Way             `json:"ways"`
	Plant *Plant            `json:"plant,omitempty"`
	Loads []Load            `json:"loads"`
	Idle  map[string]Cost   `json:"idle"`  // of each proxy, before the first block
	Costs []map[string]Cost `json:"costs"` // of each proxy, by block, with the time without load
}

// Way sums up one way over all blocks.
type Way struct {
	Name     string   `json:"name"`
	Path     string   `json:"path"`
	Requests uint64   `json:"requests"` // measured, and in all books
	Figures  []Figure `json:"figures"`
	// CPUPerThousand is CPU milliseconds of all proxies on the way per 1,000 requests, beyond what they use without any.
	CPUPerThousand *Estimate `json:"cpuMillisPerThousand,omitempty"`
	WorkingSetMB   float64   `json:"workingSetMB"`     // of all proxies on the way after the last block, by the kubelet
	IdleMB         float64   `json:"idleWorkingSetMB"` // the same before the first block
	AllocatedMB    float64   `json:"envoyAllocatedMB"` // after the last block, by Envoy itself
	// Foreign are requests that the proxies served meanwhile for others: their cost is in the figures as if they were ours.
	Foreign int64 `json:"foreignRequests"`
}

// Figure is one quantile of one duration.
type Figure struct {
	Of       string  `json:"of"` // service or response
	Quantile float64 `json:"quantile"`
	// Millis is of all blocks' requests together; nil when fewer than 100 lie beyond it, and then there is nothing to compare.
	Millis *float64  `json:"millis"`
	Ratio  *Estimate `json:"ratio,omitempty"`       // to direct
	Added  *Estimate `json:"addedMillis,omitempty"` // to direct
}

// Estimate is a mean over blocks (of ratios: the geometric one) with the interval that has the true one in 95 of 100 measurements.
// Low and High are nil where there are too few blocks for an interval: fewer than 6.
type Estimate struct {
	Mean float64  `json:"mean"`
	Low  *float64 `json:"low,omitempty"`
	High *float64 `json:"high,omitempty"`
}

// Plant says whether a delay that was put there was found.
type Plant struct {
	Delay time.Duration `json:"delay"`
	Added Estimate      `json:"addedMillis"` // median service time of the planted way beyond the gateway's
	Found bool          `json:"found"`
}

// estimate is of one value per block. scale turns it back, e.g. math.Exp from logarithms.
func estimate(values []float64, scale func(float64) float64) *Estimate {
	if len(values) == 0 {
		return nil
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	e := &Estimate{Mean: scale(sum / float64(len(values)))}
	low, high := stats.SignFlipInterval(values, confidence, 1)
	if !math.IsInf(low, 0) && !math.IsInf(high, 0) {
		low, high = scale(low), scale(high)
		e.Low, e.High = &low, &high
	}
	return e
}

func same(x float64) float64 { return x }

// summarize fills in the ways.
func (o *Overhead) summarize(ways []way) {
	loads := o.valid()
	for _, w := range ways {
		sum := Way{Name: w.name, Path: w.path}
		for _, l := range loads[w.name] {
			sum.Requests += l.Books.Sent
		}
		for _, of := range []string{"service", "response"} {
			for _, q := range []float64{0.5, 0.9, 0.99} {
				sum.Figures = append(sum.Figures, figure(of, q, loads[w.name], loads[direct], w.name != direct))
			}
		}
		o.cost(&sum, w)
		o.Ways = append(o.Ways, sum)
	}
	if o.Plan.Plant > 0 {
		o.Plant = found(o.Plan.Plant, loads["gateway"], loads[planted])
	}
}

// valid are the loads that count, by way, one for each block.
func (o *Overhead) valid() map[string][]Load {
	out := map[string][]Load{}
	for _, l := range o.Loads {
		if l.Verdict != loadgen.Invalid {
			out[l.Way] = append(out[l.Way], l)
		}
	}
	return out
}

func hist(l Load, of string) *loadgen.Hist {
	if of == "service" {
		return l.Service
	}
	return l.Response
}

func figure(of string, q float64, loads, base []Load, compare bool) Figure {
	f := Figure{Of: of, Quantile: q}
	all, enough := pooled(of, q, loads)
	if !enough {
		return f
	}
	f.Millis = &all
	if _, enough := pooled(of, q, base); !enough || !compare {
		return f
	}
	var logs, added []float64
	for i, l := range loads {
		mine, _ := hist(l, of).Quantile(q)
		direct, _ := hist(base[i], of).Quantile(q)
		logs = append(logs, math.Log(float64(mine)/float64(direct)))
		added = append(added, millis(mine-direct))
	}
	f.Ratio, f.Added = estimate(logs, math.Exp), estimate(added, same)
	return f
}

// pooled is a quantile of all blocks' requests.
func pooled(of string, q float64, loads []Load) (ms float64, enough bool) {
	var all loadgen.Hist
	for _, l := range loads {
		all.Merge(hist(l, of))
	}
	d, enough := all.Quantile(q)
	return millis(d), enough
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cost adds what the proxies on the way used. The pods of a hop share its requests, and the hops of a way pass the same ones on.
func (o *Overhead) cost(sum *Way, w way) {
	if len(w.hops) == 0 {
		return
	}
	var perBlock []float64
	for _, block := range o.Costs {
		total := 0.0
		for _, hop := range w.hops {
			var parts []Cost
			for _, p := range hop.Pods {
				parts = append(parts, block[p.Name].Beyond(o.Idle[p.Name]))
			}
			total += perThousand(parts...)
		}
		perBlock = append(perBlock, total)
	}
	sum.CPUPerThousand = estimate(perBlock, same)
	last := o.Costs[len(o.Costs)-1]
	for _, p := range proxies([]way{w}) {
		sum.WorkingSetMB += last[p.Name].WorkingSetMB
		sum.AllocatedMB += last[p.Name].AllocatedMB
		sum.IdleMB += o.Idle[p.Name].WorkingSetMB
	}
	sum.Foreign = o.foreign(w.hops)
}

// foreign is how many requests the proxies sent on in the blocks that were none of ours.
func (o *Overhead) foreign(hops []Hop) int64 {
	var all int64
	for _, block := range o.Costs {
		for _, hop := range hops {
			for _, p := range hop.Pods {
				all += int64(block[p.Name].Requests) //nolint:gosec // requests of one run
			}
		}
	}
	for _, l := range o.Loads {
		for _, page := range l.Books.Pages {
			for _, hop := range hops {
				all -= int64(page.Envoy[hop.Name]) //nolint:gosec // requests of one run
			}
		}
	}
	return all
}

// found judges by the median service time: a delay that every request had must be on it, nearly in full.
func found(delay time.Duration, without, with []Load) *Plant {
	const part = 0.8 // Envoy's timers round, and a busy gateway is a little faster when it is asked the same more slowly
	var added []float64
	for i, l := range with {
		longer, _ := l.Service.Quantile(0.5)
		shorter, _ := without[i].Service.Quantile(0.5)
		added = append(added, millis(longer-shorter))
	}
	p := &Plant{Delay: delay, Added: *estimate(added, same)}
	p.Found = p.Added.Mean >= part*millis(delay) && (p.Added.Low == nil || *p.Added.Low > 0)
	return p
}

func (e *Estimate) String() string {
	switch {
	case e == nil:
		return "–"
	case e.Low == nil:
		return fmt.Sprintf("%.3g", e.Mean)
	}
	return fmt.Sprintf("%.3g (%.3g–%.3g)", e.Mean, *e.Low, *e.High)
}
