// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"

	"harness.example/harness/fixtures/echo"
	"harness.example/harness/loadgen"
)

// streams is how many requests share a connection, by the fixture.
const streams = 4

// upstreamProtocols are the cases about how the proxy speaks to the backend.
func upstreamProtocols() []Case {
	return []Case{
		spokenCase(Case{
			Name:    "DestinationRule/H2Upgrade",
			Doc:     "The backend is spoken to in HTTP/2 where the policy upgrades, and in HTTP/1.1 where it does not, whatever the client speaks.",
			Fixture: "destinationrule/h2-upgrade.yaml",
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.connectionPool.http.h2UpgradePolicy=UPGRADE",
				"DestinationRule.spec.subsets[].trafficPolicy.connectionPool.http.h2UpgradePolicy=DO_NOT_UPGRADE",
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy=", Fails: "/upgraded from http1: http1 instead of h2c"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.h2UpgradePolicy=DO_NOT_UPGRADE", Fails: "/upgraded from h2c: http1 instead of h2c"},
				{Break: "DestinationRule spec.subsets[1].trafficPolicy=", Fails: "/kept from http1: h2c instead of http1"},
			},
		}, []spoken{{"/upgraded", loadgen.HTTP1, echo.ProtocolH2C}, {"/upgraded", loadgen.H2C, echo.ProtocolH2C}, {"/kept", loadgen.HTTP1, echo.ProtocolHTTP1}, {"/kept", loadgen.H2C, echo.ProtocolHTTP1}}),
		spokenCase(Case{
			Name:    "DestinationRule/ClientProtocol",
			Doc:     "With the client's protocol in use the backend is spoken to as the client speaks, and nothing is upgraded.",
			Fixture: "destinationrule/h2-client-protocol.yaml",
			Covers:  []string{"DestinationRule.spec.trafficPolicy.connectionPool.http.useClientProtocol"},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.useClientProtocol=", Fails: "/ from http1: h2c instead of http1"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http={idleTimeout: 60s}", Fails: "/ from h2c: http1 instead of h2c"},
			},
		}, []spoken{{"/", loadgen.HTTP1, echo.ProtocolHTTP1}, {"/", loadgen.H2C, echo.ProtocolH2C}}),
		{
			Name:    "DestinationRule/ConcurrentStreams",
			Doc:     "An HTTP/2 connection to a backend carries as many requests at the same time as the policy says, and more get connections of their own.",
			Fixture: "destinationrule/h2-streams.yaml",
			Judged: fmt.Sprintf("exact: %d requests on one HTTP/2 connection, and so in one Envoy worker, while a backend takes %s for each: it sees them from %d addresses, %d from each; no false alarm",
				poolRequests, poolDelay, poolRequests/streams, streams),
			Covers: []string{"DestinationRule.spec.trafficPolicy.connectionPool.http.maxConcurrentStreams"},
			Check:  checkStreams,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.maxConcurrentStreams=10", Fails: "got 2 with 10"},
				{Break: "DestinationRule spec.trafficPolicy=", Fails: "got 1 with 20"},
			},
		},
	}
}

// spoken is how a client speaks and how its request must arrive.
type spoken struct {
	path    string
	by      loadgen.Protocol
	arrives string
}

// spokenCase completes a case that is a table of protocols.
func spokenCase(c Case, table []spoken) Case {
	c.Judged = fmt.Sprintf("exact: each of %d kinds of request, %d times on connections of their own, arrives in one protocol; no false alarm", len(table), routeTries)
	c.Check = func(ctx context.Context, e *Env) error {
		b := loadgen.Burst{Count: routeTries * len(table), Connections: routeTries, Policy: loadgen.Fresh}
		for _, s := range table {
			request := e.URL(s.path)
			request.Protocol = s.by
			b.Requests = append(b.Requests, request)
		}
		xs, err := e.Gateway(ctx, b)
		if err != nil {
			return err
		}
		if err := all("requests", xs, "200"); err != nil {
			return err
		}
		wrong := map[string]int{}
		for _, x := range xs {
			a, err := answer(x)
			if err != nil {
				return err
			}
			if s := table[x.Seq%len(table)]; a.Protocol != s.arrives {
				wrong[fmt.Sprintf("%s from %s: %s instead of %s", s.path, s.by, a.Protocol, s.arrives)]++
			}
		}
		if len(wrong) > 0 {
			return mismatch(fmt.Sprintf("each of %d requests in the protocol that the policy says", len(xs)), "%s", counts(wrong))
		}
		return nil
	}
	return c
}

// checkStreams has the backend fail every request, because the answers to those that fail are kept.
func checkStreams(ctx context.Context, e *Env) error {
	r, err := atOnce(ctx, e, "more at once than a connection takes", e.Commanded(e.URL("/"), "delay="+poolDelay.String(), "status=418"), "")
	if err != nil {
		return err
	}
	if len(r.Failures) != poolRequests {
		return fmt.Errorf("%d answers were kept, want %d", len(r.Failures), poolRequests)
	}
	if err := all("requests at once", r.Failures, "418"); err != nil {
		return err
	}
	carried := map[string]int{}
	for _, x := range r.Failures {
		a, err := answer(x)
		if err != nil {
			return err
		}
		if a.Protocol != echo.ProtocolH2C {
			return mismatch("requests in HTTP/2", "%s", describe(x))
		}
		carried[a.Remote]++
	}
	connections := map[int]int{}
	for _, n := range carried {
		connections[n]++
	}
	if connections[streams] != poolRequests/streams {
		got := ""
		for n, c := range connections {
			got += fmt.Sprintf(", %d with %d", c, n)
		}
		return mismatch(fmt.Sprintf("%d connections with %d requests each", poolRequests/streams, streams), "%s", got[2:])
	}
	return nil
}
