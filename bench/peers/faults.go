// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"harness.example/harness/bench/peers/null"
)

const (
	stallRate  = 500                  // requests/s, far below what any tool can do
	serviceFor = 5 * time.Millisecond // delay that 16 connections carry 3200/s with
	underRate  = 6400                 // twice that
	apart      = time.Second / 2      // between the stalls of two tools
)

// A stallRow is what a tool says of a server that stopped for a while.
type stallRow struct {
	Tool     string        `json:"tool"`
	P99      time.Duration `json:"p99"`
	Error    float64       `json:"error"` // of P99, relative to the truth
	AtServer time.Duration `json:"atServer"`
	Requests int           `json:"requests"` // that arrived
	Skipped  string        `json:"skipped,omitempty"`
}

// stallTruth is the 99th percentile of the response time from schedule. Of a load that lasts for d, the requests due in the
// stall, a share s/d, wait for its end, evenly between 0 and s; the rest does not wait. So 1 % of all wait longer than s − d/100.
func stallTruth(stall, d time.Duration) time.Duration { return max(stall-d/100, 0) }

// stalls makes one load with each tool. They overlap, each with a server of its own, since neither a tool nor a server is busy;
// the stalls do not, nor what is caught up after them.
func (b *bench) stalls(ctx context.Context) ([]stallRow, error) {
	rows := make([]stallRow, len(b.tools))
	var wg sync.WaitGroup
	started := 0
	for i, t := range b.tools {
		rows[i] = stallRow{Tool: t.name, Skipped: cmp.Or(t.skip, t.unless(t.faults, ""))}
		if rows[i].Skipped != "" {
			continue
		}
		delay := time.Duration(started) * (b.Stall + apart)
		started++
		wg.Go(func() {
			if err := b.stall(ctx, t, delay, &rows[i]); err != nil {
				rows[i].Skipped = err.Error()
				b.progress("stall: %v", err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return rows, nil
}

func (b *bench) stall(ctx context.Context, t *tool, delay time.Duration, row *stallRow) error {
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	server, err := startServer(ctx, b.serverCore)
	if err != nil {
		return err
	}
	defer server.end()
	s, err := b.load(ctx, server, t, load{rate: whole(stallRate), duration: b.Load}, null.Settings{StallAt: b.Load/2 - b.Stall/2, Stall: b.Stall})
	if err != nil {
		return err
	}
	row.P99, row.AtServer, row.Requests = s.P99, s.Deviation.P99, s.Requests
	truth := stallTruth(b.Stall, b.Load)
	row.Error = float64(s.P99-truth) / float64(truth)
	b.progress("stall: %s says %s of %s", t.name, s.P99.Round(time.Millisecond), truth)
	return nil
}

// An underRow is what a tool says of a rate that was not delivered.
type underRow struct {
	Tool    string  `json:"tool"`
	Limit   string  `json:"limit"` // what kept it from delivering
	Asked   int     `json:"asked"`
	Came    float64 `json:"came"` // per second, in time
	Exit    int     `json:"exitCode"`
	Flagged bool    `json:"flagged"`
	Says    string  `json:"says"`
	Skipped string  `json:"skipped,omitempty"`
}

const (
	byServer = "the server: 5 ms for an answer"
	byTool   = "the tool: twice its closed loop"
)

// underDelivery asks for more than can be delivered, first because of the server, then because of the tool.
func (b *bench) underDelivery(ctx context.Context) ([]underRow, error) {
	var rows []underRow
	for _, limit := range []string{byServer, byTool} {
		for _, t := range b.tools {
			row := underRow{Tool: t.name, Limit: limit, Asked: underRate, Skipped: cmp.Or(t.skip, t.unless(t.faults, ""))}
			settings := null.Settings{Delay: serviceFor}
			if limit == byTool {
				row.Asked, settings = whole(2*cmp.Or(b.closed[t], 50_000)), null.Settings{}
			}
			if row.Skipped == "" {
				if err := b.under(ctx, t, settings, &row); err != nil {
					row.Skipped = err.Error()
				}
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (b *bench) under(ctx context.Context, t *tool, settings null.Settings, row *underRow) error {
	s, err := b.load(ctx, b.server, t, load{rate: row.Asked, duration: b.Under}, settings)
	if err != nil {
		return err
	}
	row.Came, row.Exit = math.Round(float64(s.Deviation.InTime)/b.Under.Seconds()), s.Exit
	row.Flagged = s.Exit != 0 || s.Warning != ""
	row.Says = cmp.Or(s.Warning, "only a number: "+s.Text)
	b.progress("under-delivery (%s): %s, %.0f of %d/s came, exit code %d, %s", row.Limit, t.name, row.Came, row.Asked, s.Exit, row.Says)
	if row.Came > 0.9*float64(row.Asked) {
		return fmt.Errorf("%s delivered %.0f of %d/s: nothing to flag", t.name, row.Came, row.Asked)
	}
	return nil
}
