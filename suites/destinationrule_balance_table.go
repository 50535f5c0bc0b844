// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"slices"

	"harness.example/harness/loadgen"
)

// poolEndpoints are all pods of the shared backends.
const poolEndpoints = 5

// hashTableCases are about the tables that the hash is looked up in.
func hashTableCases() []Case {
	ring := func(c Case, size string) Case {
		c.Judged = fmt.Sprintf("exact: each of %d values sticks; where its pod of all %d is also one of the %d, it is the same, because the rings' sizes give each pod the same places in both, and only values whose pod has left may move. A ring whose pods have ten times the places moves more than half of the others",
			stickKeys, poolEndpoints, turnEndpoints)
		c.Check = checkRing
		c.Controls = []Control{
			{Break: "DestinationRule spec.subsets[0].trafficPolicy.loadBalancer.consistentHash." + size + "=3840", Fails: "moved although its endpoint stayed"},
			{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash." + size + "=6400", Fails: "moved although its endpoint stayed"},
			{Break: "DestinationRule spec.trafficPolicy=", Fails: "does not stick"},
		}
		c.Covers = []string{
			"DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash." + size,
			"DestinationRule.spec.subsets[].trafficPolicy.loadBalancer.consistentHash." + size,
		}
		return c
	}
	return []Case{
		ring(Case{
			Name:    "DestinationRule/RingHash",
			Doc:     "On a hash ring of the size asked for, only the values of endpoints that leave move to others.",
			Fixture: "destinationrule/hash-ring.yaml",
		}, "ringHash.minimumRingSize"),
		ring(Case{
			Name:    "DestinationRule/RingHashDeprecated",
			Doc:     "The ring's size is still taken from the field that used to hold it.",
			Fixture: "destinationrule/hash-ring-deprecated.yaml",
		}, "minimumRingSize"),
		{
			Name:    "DestinationRule/Maglev",
			Doc:     "A Maglev table has as many places as asked for: one of two places serves two endpoints, a large one all.",
			Fixture: "destinationrule/hash-maglev.yaml",
			Judged: fmt.Sprintf("exact: each of %d values %d times on fresh connections, always to one endpoint; two endpoints are used by the table of two places, all %d by the other",
				stickKeys, stickTurns, turnEndpoints),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
				"DestinationRule.spec.subsets[].trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
			},
			Check: checkMaglev,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize=1021", Fails: "3 endpoints are used"},
				{Break: "DestinationRule spec.trafficPolicy.loadBalancer.consistentHash={httpHeaderName: x-user}", Fails: "3 endpoints are used"},
				{Break: "DestinationRule spec.subsets[0].trafficPolicy.loadBalancer.consistentHash.maglev.tableSize=2", Fails: "2 endpoints are used"},
			},
		},
		{
			Name:    "DestinationRule/Passthrough",
			Doc:     "PASSTHROUGH sends a request to the very address that the client dialled.",
			Fixture: "destinationrule/passthrough.yaml",
			Mesh:    true,
			Needs:   []Capability{Injection},
			Judged:  fmt.Sprintf("exact: each of %d pods dialled %d times on fresh connections answers every time itself", poolEndpoints, stickTurns*4),
			Covers:  []string{"DestinationRule.spec.subsets[].trafficPolicy.loadBalancer.simple=PASSTHROUGH"},
			Check:   checkPassthrough,
			Controls: []Control{
				{Break: "DestinationRule spec.subsets[0].trafficPolicy.loadBalancer.simple=RANDOM", Fails: "was answered by"},
				{Break: "DestinationRule spec.subsets[0].trafficPolicy=", Fails: "was answered by"},
			},
		},
	}
}

// byUser hashes by the header x-user.
func byUser(e *Env, path string) func(int) loadgen.Request {
	return func(key int) loadgen.Request { return with(e.URL(path), "X-User", fmt.Sprintf("user-%d", key)) }
}

// checkRing compares a ring with one that lacks some of its endpoints: as if they had left.
func checkRing(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo,version=v1")
	if err != nil {
		return err
	}
	before, err := sticks(ctx, e, e.Outside(), byUser(e, "/all"))
	if err != nil {
		return err
	}
	after, err := hashed(ctx, e, e.Outside(), byUser(e, "/fewer"))
	if err != nil {
		return err
	}
	stayed, moved := 0, 0
	for key := range before {
		switch {
		case !slices.Contains(podNames(pods), before[key]):
			moved++
		case before[key] != after[key]:
			return mismatch("only values whose endpoint leaves to move", "value %d, which moved although its endpoint stayed: from %s to %s", key, before[key], after[key])
		default:
			stayed++
		}
	}
	if moved == 0 || stayed == 0 {
		return mismatch("values on all of the pods", "%d on the pods that stay and %d on the others: %s", stayed, moved, tallyNames(before))
	}
	e.Figure("values that moved when two of five endpoints left", float64(moved)/stickKeys, "of all")
	return nil
}

func checkMaglev(ctx context.Context, e *Env) error {
	two, err := sticks(ctx, e, e.Outside(), byUser(e, "/two"))
	if err != nil {
		return err
	}
	if err := spread(two, 2); err != nil {
		return err
	}
	_, err = hashed(ctx, e, e.Outside(), byUser(e, "/many"))
	return err
}

// checkPassthrough dials every pod under the Service's name.
func checkPassthrough(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo")
	if err != nil {
		return err
	}
	from, err := e.Mesh(ctx)
	if err != nil {
		return err
	}
	host := fmt.Sprintf("%s.%s.svc.cluster.local:8080", e.Name(), e.Namespace())
	var requests []loadgen.Request
	for _, p := range pods {
		requests = append(requests, loadgen.Request{URL: "http://" + host + "/", Host: host, Address: hostPort(p.Status.PodIP, 8080)})
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: requests, Count: 4 * stickTurns * len(requests), Policy: loadgen.Fresh, Connections: 4})
	if err != nil {
		return err
	}
	if err := all("pods dialled one by one", xs, "200"); err != nil {
		return err
	}
	for _, x := range xs {
		if dialled := pods[x.Seq%len(pods)].Name; pod(x) != dialled {
			return &Mismatch{Want: "an answer of the pod dialled", Got: fmt.Sprintf("%s was answered by %s", dialled, pod(x)), Exchanges: []loadgen.Exchange{x}}
		}
	}
	return nil
}
