// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"harness.example/harness/loadgen"
)

// destinationRuleBalance are the balancers beyond the plain ones, and where a policy applies.
func destinationRuleBalance() []Case {
	return slices.Concat(hashKeyCases(), hashTableCases(), localityCases(), warmupCases(), placeCases())
}

const (
	// stickKeys are enough for each of three endpoints to have some: that one has none of them has a chance of 1e-10.
	stickKeys = 60
	// stickTurns is how often each key is tried, on connections of their own.
	stickTurns = 3
)

// judgedBySticking says how keys are judged.
func judgedBySticking(what string) string {
	return fmt.Sprintf("exact: each of %d %s %d times on fresh connections, which any of the proxy's workers may take, always to one endpoint; all %d endpoints are used",
		stickKeys, what, stickTurns, turnEndpoints)
}

func hashKeyCases() []Case {
	const hash = "DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash."
	const subset = "DestinationRule.spec.subsets[].trafficPolicy.loadBalancer.consistentHash."
	return []Case{
		{
			Name:    "DestinationRule/ConsistentHashCookie",
			Doc:     "The value of a cookie picks the endpoint, and a client without one is given none.",
			Fixture: "destinationrule/hash-cookie.yaml",
			Judged:  judgedBySticking("values") + "; no answer sets a cookie",
			Covers:  []string{hash + "httpCookie.name"},
			Check:   checkHashCookie,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name=other", Fails: "endpoints are used"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl=60s", Fails: "sets the cookie user"},
			},
		},
		{
			Name:    "DestinationRule/ConsistentHashCookieMade",
			Doc:     "The proxy gives a client without a cookie one with the path, lifetime and attributes asked for, and the cookie leads back to the same endpoint.",
			Fixture: "destinationrule/hash-cookie-made.yaml",
			Judged:  judgedBySticking("cookies that the proxy has made") + "; exactly one cookie is set where the client brings none, and none where it does",
			Covers: []string{
				hash + "httpCookie.name", hash + "httpCookie.path", hash + "httpCookie.ttl", hash + "httpCookie.attributes[].name", hash + "httpCookie.attributes[].value",
				subset + "httpCookie.name", subset + "httpCookie.ttl",
			},
			Check: checkHashCookieMade,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl=30s", Fails: "Max-Age=30"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.path=/", Fails: "Path=/;"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[0].value=Lax", Fails: "SameSite=Lax"},
				{Break: "DestinationRule spec.subsets[0].trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl=", Fails: "got no cookie"},
			},
		},
		{
			Name:    "DestinationRule/ConsistentHashQuery",
			Doc:     "A parameter of the query picks the endpoint: the same value the same one, other values others.",
			Fixture: "destinationrule/hash-query.yaml",
			Judged:  judgedBySticking("values"),
			Covers:  []string{hash + "httpQueryParameterName"},
			Check: func(ctx context.Context, e *Env) error {
				_, err := hashed(ctx, e, e.Outside(), func(key int) loadgen.Request { return e.URL(fmt.Sprintf("/?other=%d&user=%d", key%2, key)) })
				return err
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpQueryParameterName=other", Fails: "endpoints are used"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.httpQueryParameterName=absent", Fails: "does not stick"},
			},
		},
		{
			Name:    "DestinationRule/ConsistentHashSourceIP",
			Doc:     "The client's address picks the endpoint: in the mesh as the request's X-Forwarded-For tells it, at the gateway as the connection does, whatever the request tells.",
			Fixture: "destinationrule/hash-source-ip.yaml",
			Mesh:    true,
			Needs:   []Capability{Injection},
			Judged:  judgedBySticking("addresses from the mesh") + fmt.Sprintf("; the same %d requests from each pod without a sidecar to the gateway, where each pod has one address and so one endpoint", stickKeys),
			Covers:  []string{hash + "useSourceIp"},
			Check:   checkHashSourceIP,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer={consistentHash: {httpHeaderName: x-forwarded-for}}", Fails: "one endpoint for one client"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer={simple: RANDOM}", Fails: "does not stick"},
			},
		},
	}
}

// hashed sends each key several times and judges that it sticks; it returns the endpoint of each.
func hashed(ctx context.Context, e *Env, from loadgen.Runner, request func(key int) loadgen.Request) ([]string, error) {
	endpoints, err := sticks(ctx, e, from, request)
	if err != nil {
		return nil, err
	}
	return endpoints, spread(endpoints, turnEndpoints)
}

// sticks is hashed for however many endpoints.
func sticks(ctx context.Context, e *Env, from loadgen.Runner, request func(key int) loadgen.Request) ([]string, error) {
	var requests []loadgen.Request
	for key := range stickKeys {
		requests = append(requests, request(key))
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: requests, Count: stickKeys * stickTurns, Policy: loadgen.Fresh, Connections: 4})
	if err != nil {
		return nil, err
	}
	if err := all("hashed requests", xs, "200"); err != nil {
		return nil, err
	}
	endpoints := make([]string, stickKeys)
	for _, x := range xs {
		switch key := x.Seq % stickKeys; endpoints[key] {
		case "":
			endpoints[key] = pod(x)
		case pod(x):
		default:
			return nil, &Mismatch{Want: "each key at one endpoint", Got: fmt.Sprintf("key %d does not stick: %s, then %s", key, endpoints[key], pod(x)), Exchanges: []loadgen.Exchange{x}}
		}
	}
	return endpoints, nil
}

// spread judges that the keys' endpoints are so many.
func spread(endpoints []string, want int) error {
	used := map[string]int{}
	for _, name := range endpoints {
		used[name]++
	}
	if len(used) != want {
		return mismatch(fmt.Sprintf("%d keys spread over %d endpoints", len(endpoints), want), "%d endpoints are used: %s", len(used), counts(used))
	}
	return nil
}

func checkHashCookie(ctx context.Context, e *Env) error {
	if _, err := hashed(ctx, e, e.Outside(), func(key int) loadgen.Request {
		return with(e.URL("/"), "Cookie", fmt.Sprintf("other=%d; user=user-%d", key%2, key))
	}); err != nil {
		return err
	}
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: 1})
	if err != nil {
		return err
	}
	return noCookie(xs[0])
}

func noCookie(x loadgen.Exchange) error {
	for _, line := range x.Header["Set-Cookie"] {
		if c, err := http.ParseSetCookie(line); err == nil {
			return &Mismatch{Want: "no cookie", Got: "an answer that sets the cookie " + c.Name, Detail: line, Exchanges: []loadgen.Exchange{x}}
		}
	}
	return nil
}

// checkHashCookieMade has the proxy make a cookie on each of many connections, and brings every one back.
func checkHashCookieMade(ctx context.Context, e *Env) error {
	for _, want := range []struct{ path, cookie string }{
		{"/shop", "visitor; Max-Age=60; Path=/shop; SameSite=Strict; Secure; HttpOnly"},
		{"/", "session; HttpOnly"},
	} {
		xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL(want.path)}, Count: stickKeys, Policy: loadgen.Fresh, Connections: 4})
		if err != nil {
			return err
		}
		if err := all("requests without a cookie", xs, "200"); err != nil {
			return err
		}
		cookies := make([]*http.Cookie, len(xs))
		for i, x := range xs {
			if cookies[i], err = givenCookie(x, want.cookie); err != nil {
				return err
			}
		}
		endpoints, err := hashed(ctx, e, e.Outside(), func(key int) loadgen.Request {
			return with(e.URL(want.path), "Cookie", cookies[key].Name+"="+cookies[key].Value)
		})
		if err != nil {
			return err
		}
		for i, x := range xs {
			if pod(x) != endpoints[i] {
				return &Mismatch{Want: "the cookie's endpoint to be the one that answered when it was set, " + pod(x), Got: endpoints[i], Exchanges: []loadgen.Exchange{x}}
			}
		}
	}
	return nil
}

// givenCookie returns the one cookie that the answer sets; want is how it reads, without its value.
func givenCookie(x loadgen.Exchange, want string) (*http.Cookie, error) {
	lines := x.Header["Set-Cookie"]
	if len(lines) == 0 {
		return nil, mismatch("the cookie "+want, "no cookie")
	}
	c, err := http.ParseSetCookie(lines[0])
	if err != nil || len(lines) > 1 || c.Value == "" || strings.Replace(lines[0], "="+strconv.Quote(c.Value), "", 1) != want {
		return nil, mismatch("the cookie "+want, "%q", lines)
	}
	return c, nil
}

// checkHashSourceIP tells many addresses from the mesh; from elsewhere the gateway must not believe them.
func checkHashSourceIP(ctx context.Context, e *Env) error {
	told := func(r loadgen.Request) func(int) loadgen.Request {
		return func(key int) loadgen.Request { return with(r, "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", key+1)) }
	}
	for _, node := range e.Target.Nodes {
		from, err := e.Inside(ctx, node.Name)
		if err != nil {
			return err
		}
		through := e.URL("/")
		through.Address = fmt.Sprintf("%s.%s:80", e.Target.Gateway.Service, e.Target.Gateway.Namespace)
		endpoints, err := sticks(ctx, e, from, told(through))
		if err != nil {
			return err
		}
		if spread(endpoints, 1) != nil {
			return mismatch("one endpoint for one client of the gateway", "%s", tallyNames(endpoints))
		}
	}
	mesh, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	_, err = hashed(ctx, e, mesh, told(loadgen.Request{URL: "http://" + e.Name() + "." + e.Namespace() + "/"}))
	return err
}

func tallyNames(names []string) string {
	m := map[string]int{}
	for _, n := range names {
		m[n]++
	}
	return counts(m)
}
