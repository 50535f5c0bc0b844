// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/loadgen"
)

// destinationRuleTLS are what the proxy says to a backend that speaks TLS.
func destinationRuleTLS() []Case {
	return []Case{tlsVerify(), tlsSkipVerify(), tlsMutual(), tlsFiles()}
}

func tlsVerify() Case {
	const rule, subset = "DestinationRule.spec.trafficPolicy.tls.", "DestinationRule.spec.subsets[].trafficPolicy.tls."
	return helloCase(Case{
		Name:     "DestinationRule/TLSVerify",
		Doc:      "The proxy talks to a backend only if the authority in the secret vouches for it under one of the names expected, and has not revoked it.",
		Fixture:  "destinationrule/tls-verify.yaml",
		Workload: Own,
		Covers: []string{
			rule + "mode=SIMPLE", rule + "credentialName", rule + "subjectAltNames[]", rule + "sni",
			subset + "credentialName", subset + "subjectAltNames[]",
		},
		Prepare: prepareBackend,
		Controls: []Control{
			{Break: "DestinationRule spec.trafficPolicy.tls.subjectAltNames=[backend.test.elsewhere, '*.test']", Fails: "as it should be: no connection instead of TLS for asked.test"},
			{Break: "DestinationRule spec.trafficPolicy.tls.sni=another.test", Fails: "as it should be: TLS for another.test instead of TLS for asked.test"},
			{Break: "the subset for what is revoked names the secret without the list", Fails: "revoked: TLS for asked.test instead of no connection", Do: func(ctx context.Context, e *Env) error {
				return changeRule(ctx, e, e.Name(), func(spec *networking.DestinationRule) { spec.Subsets[2].TrafficPolicy.Tls.CredentialName = e.Name() })
			}},
			{Break: "the rule names another authority's secret", Fails: "as it should be: no connection instead of TLS for asked.test", Do: func(ctx context.Context, e *Env) error {
				return changeRule(ctx, e, e.Name(), func(spec *networking.DestinationRule) { spec.TrafficPolicy.Tls.CredentialName += "-foreign" })
			}},
		},
	}, func(e *Env) []route {
		return []route{
			{"as it should be", e.URL("/"), "TLS for asked.test"},
			{"another name", e.URL("/name"), "no connection"},
			{"another authority", e.URL("/authority"), "no connection"},
			{"revoked", e.URL("/revoked"), "no connection"},
			{"no name said, the request's own known to the backend", e.URL("/unsaid"), "TLS for " + e.Vars["HOST"]},
			{"no name said, the request's own unknown to it", toHost(e, "unknown."+e.Vars["HOST"], "/unsaid"), "no connection"},
		}
	})
}

// prepareBackend makes the backend's certificate, the list that revokes it, a client's, and an authority that knows neither.
func prepareBackend(e *Env) error {
	ca, err := newAuthority(e.Name())
	if err != nil {
		return err
	}
	foreign, err := newAuthority("foreign " + e.Name())
	if err != nil {
		return err
	}
	server, err := ca.issue("backend.test", e.Vars["HOST"])
	if err != nil {
		return err
	}
	crl, err := ca.revoke(server)
	if err != nil {
		return err
	}
	client, err := foreign.issue("ours.test")
	if err != nil {
		return err
	}
	keep(e, "TLS_CA", ca.pem)
	keep(e, "TLS_CRL", crl)
	keep(e, "OTHER_CRT", foreign.pem)
	keepCredential(e, "TLS", server)
	keepCredential(e, "THIRD", client)
	return nil
}

// changeRule changes a DestinationRule of the fixture, where a break cannot know what it must say. Applying the fixture
// again takes it back.
func changeRule(ctx context.Context, e *Env, name string, change func(*networking.DestinationRule)) error {
	rules := e.Istio.NetworkingV1().DestinationRules(e.Namespace())
	rule, err := rules.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the rule: %w", err)
	}
	change(&rule.Spec)
	if _, err := rules.Update(ctx, rule, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("change the rule: %w", err)
	}
	return nil
}

func tlsSkipVerify() Case {
	const rule, subset = "DestinationRule.spec.trafficPolicy.tls.", "DestinationRule.spec.subsets[].trafficPolicy.tls."
	return helloCase(Case{
		Name:    "DestinationRule/TLSSkipVerify",
		Doc:     "insecureSkipVerify takes any certificate; without it, one that no authority of the system vouches for is refused.",
		Fixture: "destinationrule/tls-skip-verify.yaml",
		Covers:  []string{rule + "insecureSkipVerify", subset + "insecureSkipVerify", subset + "caCertificates", subset + "mode=DISABLE"},
		Controls: []Control{
			{Break: "DestinationRule spec.trafficPolicy.tls.insecureSkipVerify=", Fails: "not verified: no connection instead of TLS for"},
			{Break: "DestinationRule spec.subsets[0].trafficPolicy.tls.insecureSkipVerify=true", Fails: "verified: TLS for"},
			{Break: "DestinationRule spec.subsets[1].trafficPolicy.tls.insecureSkipVerify=true", Fails: "verified by the system's authorities: TLS for"},
			{Break: "DestinationRule spec.subsets[2].trafficPolicy=", Fails: "in plain: TLS for"},
		},
	}, func(e *Env) []route {
		return []route{
			{"not verified", e.URL("/"), "TLS for " + e.Vars["HOST"]},
			{"verified", e.URL("/strict"), "no connection"},
			{"verified by the system's authorities", e.URL("/system"), "no connection"},
			{"in plain", e.URL("/off"), "plain HTTP"},
		}
	})
}

func tlsMutual() Case {
	const rule, subset = "DestinationRule.spec.trafficPolicy.tls.", "DestinationRule.spec.subsets[].trafficPolicy.tls."
	table := func(e *Env) []route {
		return []route{
			{"the rule", e.URL("/"), "TLS for asked.test by CN=ours.test"},
			{"a subset with another secret", e.URL("/other"), "TLS for asked.test by CN=theirs.test"},
			{"a subset that is SIMPLE", e.URL("/simple"), "TLS for asked.test"},
		}
	}
	return Case{
		Name:    "DestinationRule/TLSMutual",
		Doc:     "MUTUAL shows the backend the certificate of the secret.",
		Fixture: "destinationrule/tls-mutual.yaml",
		Judged:  judgedExactly(len(table(sampleEnv()))) + "; the backend tells whose certificate it was shown in a handshake that proves its key",
		Covers:  []string{rule + "mode=MUTUAL", rule + "credentialName", rule + "insecureSkipVerify", subset + "mode=MUTUAL", subset + "credentialName"},
		Prepare: func(e *Env) error {
			ca, err := newAuthority(e.Name())
			if err != nil {
				return err
			}
			for name, host := range map[string]string{"TLS": "ours.test", "OTHER": "theirs.test"} {
				c, err := ca.issue(host)
				if err != nil {
					return err
				}
				keepCredential(e, name, c)
			}
			return nil
		},
		Check: func(ctx context.Context, e *Env) error { return says(ctx, e, e.Outside(), helloBy, table(e)) },
		Controls: []Control{
			{Break: "DestinationRule spec.trafficPolicy.tls.mode=SIMPLE", Fails: "the rule: TLS for asked.test instead of TLS for asked.test by CN=ours.test"},
			{Break: "the rule names the other secret", Fails: "the rule: TLS for asked.test by CN=theirs.test instead of", Do: func(ctx context.Context, e *Env) error {
				return changeRule(ctx, e, e.Name(), func(spec *networking.DestinationRule) { spec.TrafficPolicy.Tls.CredentialName += "-other" })
			}},
			{Break: "DestinationRule spec.subsets[1].trafficPolicy.tls.mode=MUTUAL", Fails: "a subset that is SIMPLE: TLS for asked.test by CN=ours.test instead of"},
		},
	}
}

// tlsFiles does without caCrl: Istio 1.31 hands its sidecars every authority together with the mesh's own revocation list,
// which is there even when it is empty and takes the place of the rule's.
func tlsFiles() Case {
	const rule, subset = "DestinationRule.spec.trafficPolicy.tls.", "DestinationRule.spec.subsets[].trafficPolicy.tls."
	table := func(e *Env) []route {
		inside := func(path string) loadgen.Request {
			return loadgen.Request{URL: "http://" + e.Name() + "." + e.Namespace() + path}
		}
		return []route{
			{"as it should be", inside("/"), "TLS for asked.test by CN=ours.test"},
			{"another authority", inside("/authority"), "no connection"},
		}
	}
	return Case{
		Name:      "DestinationRule/TLSFiles",
		Doc:       "A sidecar shows and demands the certificates of the files that the rule names.",
		Fixture:   "destinationrule/tls-files.yaml",
		Workload:  Own,
		Injection: true,
		Needs:     []Capability{Injection},
		Judged:    judgedExactly(len(table(sampleEnv()))) + "; the backend tells whose certificate it was shown in a handshake that proves its key",
		Covers: []string{
			rule + "mode=MUTUAL", rule + "clientCertificate", rule + "privateKey", rule + "caCertificates", rule + "subjectAltNames[]",
			subset + "caCertificates",
		},
		Prepare: prepareBackend,
		Check: func(ctx context.Context, e *Env) error {
			from, err := e.ownClient(ctx)
			if err != nil {
				return err
			}
			return says(ctx, e, from, helloBy, table(e))
		},
		Controls: []Control{
			{Break: "DestinationRule spec.trafficPolicy.tls.caCertificates=/etc/files/foreign.pem", Fails: "as it should be: no connection instead of"},
			{Break: "DestinationRule spec.trafficPolicy.tls.mode=SIMPLE", Fails: "as it should be: TLS for asked.test instead of TLS for asked.test by CN=ours.test"},
			{Break: "DestinationRule spec.trafficPolicy.tls.subjectAltNames=[other.test]", Fails: "as it should be: no connection instead of"},
		},
	}
}

// ownClient is the case's own client pod, whose sidecar differs from the shared one's.
func (e *Env) ownClient(ctx context.Context) (loadgen.Runner, error) {
	pods, err := e.Pods(ctx, "app=client")
	if err != nil {
		return nil, err
	}
	if len(pods) != 1 {
		return nil, fmt.Errorf("%d client pods are ready in namespace %s, want 1", len(pods), e.Namespace())
	}
	return loadgen.Pod{Config: e.Config, Namespace: pods[0].Namespace, Name: pods[0].Name, Container: "client"}, nil
}

// helloCase completes a case that is a table of how the proxy greets the backend.
func helloCase(c Case, table func(e *Env) []route) Case {
	c.Judged = judgedExactly(len(table(sampleEnv()))) + "; the backend's TLS port tells how it was greeted"
	c.Check = func(ctx context.Context, e *Env) error { return says(ctx, e, e.Outside(), hello, table(e)) }
	return c
}

// hello is how the proxy greeted a backend's TLS port, or why it would not.
func hello(x loadgen.Exchange) string {
	a, err := answer(x)
	switch {
	case x.Status == 400 && bytes.Contains(x.Body, []byte("HTTP request to an HTTPS server")):
		return "plain HTTP"
	case x.Status == 503 && pod(x) == "":
		return "no connection"
	case x.Status != 200 || err != nil:
		return outcomeOf(x)
	case a.TLS == nil:
		return "no TLS port"
	}
	return "TLS for " + a.TLS.ServerName
}

// helloBy is hello with whose certificate the proxy showed.
func helloBy(x loadgen.Exchange) string {
	if a, err := answer(x); err == nil && a.TLS != nil && a.TLS.PeerSubject != "" {
		return hello(x) + " by " + a.TLS.PeerSubject
	}
	return hello(x)
}

// says is takes with another idea of what an answer says.
func says(ctx context.Context, e *Env, from loadgen.Runner, read func(loadgen.Exchange) string, table []route) error {
	b := loadgen.Burst{Count: routeTries * len(table), Connections: routeTries, Policy: loadgen.Fresh}
	for _, r := range table {
		b.Requests = append(b.Requests, r.request)
	}
	xs, err := e.Burst(ctx, from, b)
	if err != nil {
		return err
	}
	wrong := map[string]int{}
	var bad []loadgen.Exchange
	for _, x := range xs {
		r := table[x.Seq%len(table)]
		if got := read(x); !slices.Contains(strings.Split(r.want, "|"), got) {
			wrong[fmt.Sprintf("%s: %s instead of %s", r.name, got, strings.ReplaceAll(r.want, "|", " or "))]++
			bad = append(bad, x)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return &Mismatch{
		Want: fmt.Sprintf("each of %d requests to say what it must", len(xs)), Got: counts(wrong),
		Detail: describe(bad[0]), Exchanges: bad[:min(len(bad), 5)],
	}
}
