// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// A noise is how much of a core is taken away from a process that wants all of it. Nothing that runs there can be more punctual.
type noise struct {
	Core    int           `json:"core"`
	Lost    float64       `json:"lost"` // share of the time, in pieces longer than lostPiece
	Longest time.Duration `json:"longest"`
}

const (
	lostPiece = 100 * time.Microsecond
	loudNoise = 0.005 // lost, beyond which lateness is the machine's rather than the tool's: 1 % of the requests may be late
	listenFor = 2 * time.Second
)

// listen reads the clock for a while, as a process of its own.
func listen(w io.Writer) error {
	var n noise
	var lost time.Duration
	began := time.Now()
	for last := began; last.Sub(began) < listenFor; {
		now := time.Now()
		if gap := now.Sub(last); gap > lostPiece {
			lost += gap
			n.Longest = max(n.Longest, gap)
		}
		last = now
	}
	n.Lost = lost.Seconds() / time.Since(began).Seconds()
	return json.NewEncoder(w).Encode(n)
}

// noises measures the two cores, one after the other.
func (b *bench) noises(ctx context.Context) ([]noise, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	var all []noise
	for _, core := range []int{b.serverCore, b.core} {
		r, err := pinned(ctx, core, listenFor+10*time.Second, b.dir, "", self, noiseCommand)
		if err != nil {
			return nil, err
		}
		n := noise{Core: core}
		if err := json.Unmarshal([]byte(r.Stdout), &n); err != nil {
			return nil, fmt.Errorf("measure the noise of core %d: %w", core, err)
		}
		n.Core = core
		b.progress("core %d: %.2f %% of its time is taken away, %s at most at once", core, 100*n.Lost, n.Longest.Round(time.Microsecond))
		all = append(all, n)
	}
	return all, nil
}
