// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"harness.example/harness/loadgen"
)

// connectionEnds is what the fixtures say of idle connections, and of old ones.
const connectionEnds = 800 * time.Millisecond

const (
	// endSlack is how late a busy machine may be to act on a timer.
	endSlack = 1500 * time.Millisecond
	// busySpacing is far below connectionEnds, idleSpacing beyond it and all slack.
	busySpacing = 100 * time.Millisecond
	idleSpacing = connectionEnds + endSlack + 200*time.Millisecond
	// busyRequests go on for longer than an old connection may live.
	busyRequests = int((connectionEnds + endSlack + 200*time.Millisecond) / busySpacing)
)

// levels are the places of a policy and the requests per connection that the fixture gives each.
var levels = []struct { //nolint:gochecknoglobals // a constant list
	path     string
	requests int
}{{"/rule", 2}, {"/port", 3}, {"/subset", 4}, {"/both", 5}}

// poolLifetimes are the cases about when connections begin and end.
func poolLifetimes() []Case {
	return []Case{
		{
			Name:    "DestinationRule/RequestsPerConnection",
			Doc:     "A connection to a backend carries as many requests as the policy says, and the closest policy counts: the subset's over the rule's, the port's over both.",
			Fixture: "destinationrule/pool-requests-per-connection.yaml",
			Judged:  fmt.Sprintf("exact: of requests one after the other on one connection, the backend sees each so many from one address and the next so many from another, for %d policies; no false alarm", len(levels)),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.connectionPool.http.maxRequestsPerConnection",
				"DestinationRule.spec.trafficPolicy.portLevelSettings[].connectionPool.http.maxRequestsPerConnection",
				"DestinationRule.spec.trafficPolicy.portLevelSettings[].port.number",
				"DestinationRule.spec.subsets[].trafficPolicy.connectionPool.http.maxRequestsPerConnection",
				"DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].connectionPool.http.maxRequestsPerConnection",
				"DestinationRule.spec.subsets[].trafficPolicy.portLevelSettings[].port.number",
			},
			Check: checkRequestsPerConnection,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.maxRequestsPerConnection=3", Fails: "/rule: 3, 3"},
				{Break: "DestinationRule spec.trafficPolicy.portLevelSettings=", Fails: "/port: 2, 2"},
				{Break: "DestinationRule spec.subsets[1].trafficPolicy.connectionPool=", Fails: "/subset: 2, 2"},
				{Break: "DestinationRule spec.subsets[1].trafficPolicy.portLevelSettings[0].port.number=80", Fails: "/subset: 5, 5"},
			},
		},
		{
			Name:    "DestinationRule/ConnectionEnds",
			Doc:     "The proxy closes a connection of its own that has been idle for the idle timeout, or has lived for its longest duration, and none before.",
			Fixture: "destinationrule/pool-connection-ends.yaml",
			Judged: fmt.Sprintf("by the clocks of the client, from before until after what Envoy measures: no connection ends before %s, and none is used when it is %s over that, which a busy machine may be late; requests come %s apart, and idle ones %s",
				connectionEnds, endSlack, busySpacing, idleSpacing),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.connectionPool.http.idleTimeout", "DestinationRule.spec.subsets[].trafficPolicy.connectionPool.tcp.maxConnectionDuration",
			},
			Check: func(ctx context.Context, e *Env) error {
				return checkEnds(ctx, e, e.Outside(), e.URL("/rare"), e.URL("/busy"), e.URL("/old"), func(x loadgen.Exchange) (string, error) {
					a, err := answer(x)
					return a.Remote, err
				})
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.idleTimeout=60s", Fails: "idle for"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.tcp={maxConnectionDuration: 0.8s}", Fails: "busy: closed"},
				{Break: "DestinationRule spec.subsets[2].trafficPolicy.connectionPool.tcp.maxConnectionDuration=60s", Fails: "at the age of"},
				{Break: "DestinationRule spec.subsets[2].trafficPolicy.connectionPool.tcp.maxConnectionDuration=0.3s", Fails: "old: closed"},
			},
		},
		{
			Name:    "DestinationRule/TCPConnectionEnds",
			Doc:     "The client's proxy closes a TCP connection that has been idle for the idle timeout, or has lived for its longest duration, and none before.",
			Fixture: "destinationrule/pool-tcp-timeouts.yaml",
			Mesh:    true,
			Judged: fmt.Sprintf("by the clocks of the client, from before until after what Envoy measures: no connection ends before %s, and none is used when it is %s over that, which a busy machine may be late; lines come %s apart, and idle ones %s",
				connectionEnds, endSlack, busySpacing, idleSpacing),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.connectionPool.tcp.idleTimeout", "DestinationRule.spec.trafficPolicy.connectionPool.tcp.maxConnectionDuration",
			},
			Check: func(ctx context.Context, e *Env) error {
				from, err := e.Mesh(ctx)
				if err != nil {
					return err
				}
				return checkEnds(ctx, e, from, tcpTo(e, "-idle"), tcpTo(e, "-idle"), tcpTo(e, "-old"), func(x loadgen.Exchange) (string, error) {
					return fmt.Sprint(x.Conn), nil
				})
			},
			Controls: []Control{
				{Break: "DestinationRule/-idle spec.trafficPolicy.connectionPool.tcp.idleTimeout=60s", Fails: "idle for"},
				{Break: "DestinationRule/-old spec.trafficPolicy.connectionPool.tcp.maxConnectionDuration=60s", Fails: "at the age of"},
				{Break: "DestinationRule/-old spec.trafficPolicy.connectionPool.tcp.maxConnectionDuration=0.3s", Fails: "old: closed"},
			},
		},
	}
}

func checkRequestsPerConnection(ctx context.Context, e *Env) error {
	const runs = 3
	var requests []loadgen.Request
	for _, l := range levels {
		requests = append(requests, slices.Repeat([]loadgen.Request{e.URL(l.path)}, runs*l.requests)...)
	}
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: requests, Count: len(requests)})
	if err != nil {
		return err
	}
	if err := all("requests on one connection", xs, "200"); err != nil {
		return err
	}
	for _, l := range levels {
		var carried []int
		last := ""
		for _, x := range xs[:runs*l.requests] {
			if x.Conn != xs[0].Conn {
				return errors.New("the client's connection was replaced: the proxy's cannot be judged")
			}
			a, err := answer(x)
			if err != nil {
				return err
			}
			if a.Remote != last {
				carried = append(carried, 0)
			}
			carried[len(carried)-1]++
			last = a.Remote
		}
		xs = xs[runs*l.requests:]
		if !slices.Equal(carried, slices.Repeat([]int{l.requests}, runs)) {
			return mismatch(fmt.Sprintf("%s: %d connections of %d requests each", l.path, runs, l.requests), "%s: %s", l.path, list(carried))
		}
	}
	return nil
}

func list(numbers []int) string {
	out := ""
	for _, n := range numbers {
		out += fmt.Sprintf(", %d", n)
	}
	return out[min(2, len(out)):]
}

// checkEnds sends requests to a place whose connections end when idle, rarely, and often, and to one whose connections end when
// old. connection tells the connection that carried a request.
func checkEnds(ctx context.Context, e *Env, from loadgen.Runner, rare, busy, old loadgen.Request, connection func(loadgen.Exchange) (string, error)) error {
	var rarely, often, aged []use
	group, groupCtx := errgroup.WithContext(ctx)
	for _, b := range []struct {
		uses    *[]use
		request loadgen.Request
		count   int
		spacing time.Duration
	}{{&rarely, rare, 2, idleSpacing}, {&often, busy, busyRequests, busySpacing}, {&aged, old, busyRequests, busySpacing}} {
		group.Go(func() error {
			xs, err := e.Burst(groupCtx, from, loadgen.Burst{Requests: []loadgen.Request{b.request}, Count: b.count, Interval: b.spacing})
			if err != nil {
				return err
			}
			*b.uses, err = usesOf(xs, connection)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return errors.Join(endIdle("rare", rarely), endIdle("busy", often), endOld("old", aged))
}

// use is one use of a connection. Envoy saw it begin and end somewhere between start and end.
type use struct {
	connection string
	start, end time.Time
	cut        bool // the connection ended amid it
}

func usesOf(xs []loadgen.Exchange, connection func(loadgen.Exchange) (string, error)) ([]use, error) {
	uses := make([]use, 0, len(xs))
	for _, x := range xs {
		u := use{start: x.Start, end: x.Start.Add(x.Latency), cut: x.ErrKind == loadgen.KindEOF || x.ErrKind == loadgen.KindReset}
		switch {
		case u.cut && x.Reused:
			u.connection = uses[len(uses)-1].connection
		case x.ErrKind != "":
			return nil, &Mismatch{Want: "an answer", Got: describe(x), Exchanges: []loadgen.Exchange{x}}
		default:
			var err error
			if u.connection, err = connection(x); err != nil {
				return nil, err
			}
		}
		uses = append(uses, u)
	}
	return uses, nil
}

// endIdle judges a place whose connections end when idle.
func endIdle(what string, uses []use) error {
	want := fmt.Sprintf("connections that end when idle for %s", connectionEnds)
	for i, b := range uses[1:] {
		a := uses[i]
		kept := a.connection == b.connection && !b.cut
		if atLeast := b.start.Sub(a.end); kept && atLeast > connectionEnds+endSlack {
			return mismatch(want, "%s: one is used after it was idle for %s", what, atLeast)
		}
		if atMost := b.end.Sub(a.start); !kept && !a.cut && atMost < connectionEnds {
			return mismatch(want, "%s: closed after %s at most", what, atMost)
		}
	}
	return nil
}

// endOld judges a place whose connections end when old.
func endOld(what string, uses []use) error {
	want := fmt.Sprintf("connections that end at the age of %s", connectionEnds)
	first := uses[0]
	for i, b := range uses[1:] {
		a := uses[i]
		kept := a.connection == b.connection && !b.cut
		if atLeast := b.start.Sub(first.end); kept && atLeast > connectionEnds+endSlack {
			return mismatch(want, "%s: one is used at the age of %s", what, atLeast)
		}
		if atMost := b.end.Sub(first.start); !kept && !a.cut && atMost < connectionEnds {
			return mismatch(want, "%s: closed at %s at most", what, atMost)
		}
		if a.connection != b.connection {
			first = b
		}
	}
	return nil
}
