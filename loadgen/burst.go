// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultTimeout is how long a request may take when nothing else is said.
	DefaultTimeout = 10 * time.Second
	// These bound what one run keeps in memory, and so what a typing error costs.
	maxBurst = 1_000_000
	maxPlan  = 10_000_000
	// maxConnections is below what one source address can open to one destination.
	maxConnections = 20_000

	keptBody = 64 << 10 // bytes of an answer's body that an Exchange keeps
)

// A Burst is an exact number of requests in a closed loop: a connection's next request starts when its last one has
// ended. Request i is Requests[i mod len].
type Burst struct {
	Requests    []Request     `json:"requests"`
	Count       int           `json:"count"`
	Connections int           `json:"connections,omitempty"` // default 1
	Policy      Policy        `json:"policy,omitempty"`
	Timeout     time.Duration `json:"timeout,omitempty"`  // of one request, with its dial; default DefaultTimeout
	IDPrefix    string        `json:"idPrefix,omitempty"` // HTTP, gRPC and WebSocket requests carry X-Harness-Id: <IDPrefix>-<i>
	Interval    time.Duration `json:"interval,omitempty"` // pause before each request of a connection but its first
}

// An Exchange is one request and what came back.
type Exchange struct {
	Seq  int `json:"seq"`
	Conn int `json:"conn"` // which connection: 1 for the first that this run opened, …; 0 when none could be opened
	// Status is the HTTP code; for gRPC 200 when the status is OK, else the HTTP code that means the same (the status itself
	// is Header["Grpc-Status"], a number); 101 for WebSocket; 0 for TCP and UDP and when there was no answer.
	Status     int           `json:"status,omitempty"`
	Header     http.Header   `json:"header,omitempty"` // with trailers
	Body       []byte        `json:"body,omitempty"`   // at most 64 KiB
	Proto      string        `json:"proto,omitempty"`  // "HTTP/1.1", "HTTP/2.0", "gRPC", "TCP", "UDP", "WebSocket"
	Remote     string        `json:"remote,omitempty"` // of the connection
	Local      string        `json:"local,omitempty"`
	Start      time.Time     `json:"start"`             // after any wait for a busy connection, before any dial
	Latency    time.Duration `json:"latency"`           // from Start until the whole answer was read or given up
	Err        string        `json:"err,omitempty"`     // no answer, and why; an HTTP error status is an answer
	ErrKind    string        `json:"errKind,omitempty"` // a Kind; empty exactly when Err is
	TLSVersion string        `json:"tlsVersion,omitempty"`
	TLSCipher  string        `json:"tlsCipher,omitempty"`
	PeerCN     string        `json:"peerCN,omitempty"`
	Reused     bool          `json:"reused,omitempty"` // the connection had carried a request before

	pod, version string // who answered, where Header was not kept
}

// Run sends the requests and returns one Exchange each, in order. A request that failed is data, not an error: an
// error means that the burst is not valid (it names the field) or that ctx ended, and then only what was sent is returned.
func (b Burst) Run(ctx context.Context) ([]Exchange, error) {
	if b.Count < 1 || b.Count > maxBurst {
		return nil, fmt.Errorf("burst: count: %d is not between 1 and %d", b.Count, maxBurst)
	}
	if b.Interval < 0 {
		return nil, fmt.Errorf("burst: interval: %s is negative", b.Interval)
	}
	p, err := newPool(b.Requests, b.Connections, b.Policy, b.Timeout, b.IDPrefix, keptBody)
	if err != nil {
		return nil, fmt.Errorf("burst: %w", err)
	}
	defer p.close()

	exchanges := make([]Exchange, b.Count)
	var sent atomic.Int64
	// Each of the lanes sends every lanes-th request, in order.
	lanes := p.connections
	if p.policy == RoundRobin {
		lanes = 1
	}
	var wg sync.WaitGroup
	for lane := range min(lanes, b.Count) {
		wg.Go(func() {
			for i := lane; i < b.Count; i += lanes {
				if i != lane && !pause(ctx, b.Interval) || ctx.Err() != nil {
					return
				}
				exchanges[i] = p.do(ctx, i, i)
				sent.Add(1)
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		done := exchanges[:0]
		for _, x := range exchanges {
			if !x.Start.IsZero() {
				done = append(done, x)
			}
		}
		return done, fmt.Errorf("burst: stopped after %d of %d requests: %w", sent.Load(), b.Count, context.Cause(ctx))
	}
	return exchanges, nil
}

// pause waits for d and reports whether ctx is still on.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// newPool checks what a Burst and a Plan have in common.
func newPool(requests []Request, connections int, policy Policy, timeout time.Duration, prefix string, keep int) (*pool, error) {
	targets, err := compileAll(requests)
	if err != nil {
		return nil, err
	}
	if policy, err = ParsePolicy(string(policy)); err != nil {
		return nil, err
	}
	if connections == 0 {
		connections = 1
	}
	if connections < 1 || connections > maxConnections {
		return nil, fmt.Errorf("connections: %d is not between 1 and %d", connections, maxConnections)
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	if timeout < 0 {
		return nil, fmt.Errorf("timeout: %s is negative", timeout)
	}
	if !validID(prefix) {
		return nil, errors.New("idPrefix: " + strconv.Quote(prefix) + " has characters that a header cannot carry")
	}
	return &pool{
		targets: targets, connections: connections, policy: policy, timeout: timeout, prefix: prefix, keep: keep,
		slots: makeSlots(connections),
	}, nil
}
