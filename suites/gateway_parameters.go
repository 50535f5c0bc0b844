// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"

	"harness.example/harness/loadgen"
)

// gatewayParameters are the cases about what a handshake may agree on, and where a server is.
func gatewayParameters() []Case {
	return []Case{gatewayVersions(), gatewayCiphers(), gatewayBind()}
}

// handshakesShow is handshakesCase for tables of what an exchange shows beside its answerer.
func handshakesShow(c Case, shown func(loadgen.Exchange) string, table func(e *Env) []route) Case {
	c = handshakesCase(c, table)
	c.Check = func(ctx context.Context, e *Env) error { return takesBy(ctx, e, e.Outside(), table(e), shown) }
	return c
}

// certifiedOnly prepares a case whose clients need no certificates.
func certifiedOnly(e *Env) error {
	_, err := certified(e)
	return err
}

func gatewayVersions() Case {
	return handshakesShow(Case{
		Name:    "Gateway/ProtocolVersions",
		Doc:     "A host's TLS version is the client's, within the host's minimum and maximum, which are 1.2 and 1.3 if nothing else is said.",
		Fixture: "gateway/protocol-versions.yaml",
		Covers:  []string{"Gateway.spec.servers[].tls.minProtocolVersion", "Gateway.spec.servers[].tls.maxProtocolVersion"},
		Prepare: certifiedOnly,
		Controls: []Control{
			{Break: "Gateway spec.servers[0].tls.minProtocolVersion=TLSV1_0", Fails: "1.2 where 1.3 is the minimum: v1 over TLS 1.2 instead of tls"},
			{Break: "Gateway spec.servers[1].tls.maxProtocolVersion=", Fails: "up to 1.3 where 1.2 is the maximum: v1 over TLS 1.3 instead of v1 over TLS 1.2"},
			{Break: "Gateway spec.servers[2].tls.minProtocolVersion=TLSV1_1", Fails: "1.0 where it is the minimum: tls instead of v1 over TLS 1.0"},
			{Break: "Gateway spec.servers[3].tls.maxProtocolVersion=TLSV1_2", Fails: "1.3 where nothing is said: tls instead of v1 over TLS 1.3"},
		},
	}, func(x loadgen.Exchange) string {
		if x.ErrKind != "" {
			return x.ErrKind
		}
		return answerer(x) + " over " + x.TLSVersion
	}, func(e *Env) []route {
		to := func(host, from, to string) loadgen.Request {
			return secured(e, host+"."+e.Vars["HOST"], loadgen.TLS{MinVersion: from, MaxVersion: to})
		}
		return []route{
			{"1.3 where it is the minimum", to("newest", "1.3", "1.3"), "v1 over TLS 1.3"},
			{"1.2 where 1.3 is the minimum", to("newest", "1.2", "1.2"), refused},
			{"1.2 where it is the maximum", to("older", "1.2", "1.2"), "v1 over TLS 1.2"},
			{"up to 1.3 where 1.2 is the maximum", to("older", "1.2", "1.3"), "v1 over TLS 1.2"},
			{"1.3 where 1.2 is the maximum", to("older", "1.3", "1.3"), refused},
			{"1.0 where it is the minimum", to("oldest", "1.0", "1.0"), "v1 over TLS 1.0"},
			{"1.1 where it is the maximum", to("oldest", "1.1", "1.1"), "v1 over TLS 1.1"},
			{"1.2 where 1.1 is the maximum", to("oldest", "1.2", "1.2"), refused},
			{"1.1 where nothing is said", to("default", "1.1", "1.1"), refused},
			{"1.2 where nothing is said", to("default", "1.2", "1.2"), "v1 over TLS 1.2"},
			{"1.3 where nothing is said", to("default", "1.3", "1.3"), "v1 over TLS 1.3"},
		}
	})
}

func gatewayCiphers() Case {
	const (
		aes256 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
		aes128 = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
		chacha = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
	)
	return handshakesShow(Case{
		Name:    "Gateway/CipherSuites",
		Doc:     "Up to TLS 1.2 a host takes only the suites of its list, of which those that do not exist are passed over.",
		Fixture: "gateway/cipher-suites.yaml",
		Covers:  []string{"Gateway.spec.servers[].tls.cipherSuites[]"},
		Prepare: certifiedOnly,
		Controls: []Control{
			{Break: "Gateway spec.servers[0].tls.cipherSuites=", Fails: "an unlisted suite: v1 by " + aes128 + " instead of tls"},
			{Break: "Gateway spec.servers[0].tls.cipherSuites=[ECDHE-ECDSA-AES128-GCM-SHA256]", Fails: "the listed suite: tls instead of v1 by " + aes256},
			{Break: "Gateway spec.servers[1].tls.cipherSuites[1]=ECDHE-ECDSA-AES256-GCM-SHA384", Fails: "any suite where one of two is known: v1 by " + aes256 + " instead of v1 by " + chacha},
		},
	}, func(x loadgen.Exchange) string {
		if x.ErrKind != "" {
			return x.ErrKind
		}
		return answerer(x) + " by " + x.TLSCipher
	}, func(e *Env) []route {
		to := func(host string, suites ...string) loadgen.Request {
			return secured(e, host+"."+e.Vars["HOST"], loadgen.TLS{MaxVersion: "1.2", CipherSuites: suites})
		}
		modern := secured(e, "mixed."+e.Vars["HOST"], loadgen.TLS{MinVersion: "1.3"})
		return []route{
			{"any suite where one is listed", to("one"), "v1 by " + aes256},
			{"the listed suite", to("one", aes256), "v1 by " + aes256},
			{"an unlisted suite", to("one", aes128), refused},
			{"any suite where one of two is known", to("mixed"), "v1 by " + chacha},
			{"an unlisted suite where one of two is known", to("mixed", aes256), refused},
			{"TLS 1.3, whose suites no list concerns", modern, "v1 by TLS_AES_128_GCM_SHA256|v1 by TLS_AES_256_GCM_SHA384|v1 by TLS_CHACHA20_POLY1305_SHA256"},
		}
	})
}
