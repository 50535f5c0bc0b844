// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"fmt"
	"strconv"
	"strings"
)

// Policy says which connection carries which request, over N connections.
//
//	pinned       request i on connection i mod N; a burst drives the connections side by side (the default)
//	round-robin  request i on connection i mod N; a burst sends strictly one request after the other
//	rotate=K     as pinned, but a connection is closed after K requests and the next one opened
//	fresh        a new connection for every request; N are used side by side
//
// A connection that the peer has closed is replaced before the next request, never after one was written to it.
// Requests to different places (URL host, address, TLS, protocol) have connections of their own.
type Policy string

// The policies; see [Policy]. Rotate makes the fourth one.
const (
	Pinned     Policy = "pinned"
	RoundRobin Policy = "round-robin"
	Fresh      Policy = "fresh"
)

// Rotate is the policy that closes a connection after n requests.
func Rotate(n int) Policy { return Policy("rotate=" + strconv.Itoa(n)) }

// ParsePolicy checks s; the empty string is Pinned.
func ParsePolicy(s string) (Policy, error) {
	p := Policy(s)
	if p == "" {
		p = Pinned
	}
	if p == Pinned || p == RoundRobin || p == Fresh || p.uses() > 0 {
		return p, nil
	}
	return "", fmt.Errorf("policy: %q is not one of pinned, round-robin, rotate=N (N ≥ 1), fresh", s)
}

// uses is how many requests a connection may carry; 0 is any number.
func (p Policy) uses() int {
	if p == Fresh {
		return 1
	}
	n, ok := strings.CutPrefix(string(p), "rotate=")
	if !ok {
		return 0
	}
	uses, err := strconv.Atoi(n)
	if err != nil || uses < 1 {
		return 0
	}
	return uses
}
