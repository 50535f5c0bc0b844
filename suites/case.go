// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"harness.example/harness/fixtures"
)

// Workload says whose pods answer a case's traffic.
type Workload int

// Pool cases bring Services and routing objects only and share the run's backends; Own cases bring their pods too and
// get a namespace of their own.
const (
	Pool Workload = iota
	Own
)

// Case is one behaviour, proved by live traffic: a value and a manifest.
type Case struct {
	Name      string            // Resource/Behaviour: the filter, the report's anchor
	Doc       string            // one sentence: what the cluster promises
	Fixture   string            // file under fixtures/cases
	Needs     []Capability      // unmet = skip
	Labels    map[string]string // beside the implicit resource=<resource in lower case>
	Covers    []string          // API fields that the case asserts: see resolve
	Workload  Workload
	Injection bool          // Own only: the namespace gets sidecars
	Mesh      bool          // the client pod with a sidecar is on the case's path
	Direct    bool          // speaks to a ClusterIP or NodePort: kube-proxy must be proved live too
	Serial    bool          // disturbs what all others use (a node, the gateway, the machine's CPU): runs alone
	Holds     []string      // what only one case can have at a time, such as a fixed port: cases that hold the same do not overlap
	Judged    string        // mechanism, n, alpha and power
	Samples   []Sample      // the parts of the judgement that chance can fool; none = exact, never a false alarm
	Timeout   time.Duration // of apply, live and check together, and of each control; 0 = 2 minutes
	// Prepare, when set, adds variables that are made for each attempt, such as a certificate; it runs before the fixture
	// is loaded.
	Prepare  func(e *Env) error
	Check    func(ctx context.Context, e *Env) error
	Controls []Control
}

// Control breaks one thing; the case's own check must then return a Mismatch that contains Fails.
//
// Without Do, Break is a list of edits of the live fixture, separated by "; ": "Kind[/name-suffix] path=value" (an
// empty value deletes the field) or "delete Kind[/name-suffix]". With Do, Break only describes what Do does, and Do
// registers its undo with Env.Undo.
type Control struct {
	Break string
	Fails string
	Do    func(ctx context.Context, e *Env) error
}

// Sample is a judgement made on random draws. Alpha is the chance that a healthy cluster fails it; Power is the chance that
// one whose probability is off by Shift (0 to 1) is seen.
type Sample struct {
	Of    string // what is counted
	N     int    // draws
	Alpha float64
	Power float64
	Shift float64
}

// covers is the sample of n draws after which each of so many pods must have answered.
func covers(of string, pods, n int, alpha float64) Sample {
	return Sample{Of: of, N: n, Alpha: alpha, Power: 1, Shift: 1 / float64(pods)}
}

// All returns every case, resource by resource.
func All() []Case {
	return slices.Concat(
		gatewayCases(),
		virtualServiceCases(),
		destinationRuleCases(),
		serviceCases(),
		deploymentCases(),
		hpaCases(),
		hpaBehavior(),
		hpaMetrics(),
		hpaMemory(),
		podCases(),
		meshCases(),
		pathCases(),
		pathChanges(),
	)
}

// The error rates that a case may have at most: alpha over all its samples together, and the power of each.
const (
	maxAlpha = 1e-6
	minPower = 0.99
)

// Alpha bounds the chance that the case fails on a healthy cluster by bad luck, over all its samples.
func (c Case) Alpha() float64 {
	total := 0.0
	for _, s := range c.Samples {
		total += s.Alpha
	}
	return total
}

// Resource is the part of the name before the slash.
func (c Case) Resource() string {
	r, _, _ := strings.Cut(c.Name, "/")
	return r
}

// AllLabels are the case's labels and the implicit ones.
func (c Case) AllLabels() map[string]string {
	out := map[string]string{"resource": strings.ToLower(c.Resource()), "serial": fmt.Sprint(c.Serial)}
	for k, v := range c.Labels {
		out[k] = v
	}
	return out
}

func (c Case) timeout() time.Duration {
	if c.Timeout == 0 {
		return 2 * time.Minute
	}
	return c.Timeout
}

// Validate reports every mistake in how the cases are written: a case that could not fail is found here, before a
// cluster is touched. fsys holds the manifests below "cases".
func Validate(fsys fs.FS, cases []Case) error {
	var errs []error
	seen := map[string]bool{}
	for _, c := range cases {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("case %s: "+format, append([]any{c.Name}, a...)...))
		}
		if !regexp.MustCompile(`^[A-Z][A-Za-z]*/[A-Z0-9][A-Za-z0-9-]*$`).MatchString(c.Name) {
			bad("the name must look like Resource/Behaviour")
		}
		if seen[c.Name] {
			bad("the name is taken")
		}
		seen[c.Name] = true
		if !strings.HasSuffix(c.Doc, ".") {
			bad("Doc must be a sentence that ends with a full stop")
		}
		if c.Judged == "" {
			bad("Judged is empty: say the mechanism, n, alpha and power")
		}
		if len(c.Covers) == 0 {
			bad("Covers is empty: name the fields it asserts")
		}
		for _, entry := range c.Covers {
			if err := resolve(entry); err != nil {
				bad("%w", err)
			}
		}
		for _, s := range c.Samples {
			if s.Of == "" || s.N <= 0 || s.Alpha <= 0 || s.Alpha > maxAlpha || s.Power < minPower || s.Power > 1 || s.Shift <= 0 || s.Shift > 1 {
				bad("sample %+v: want what is counted, n > 0, alpha up to %g, power from %g to 1 and a shift from 0 to 1", s, maxAlpha, minPower)
			}
		}
		if alpha := c.Alpha(); alpha > maxAlpha*(1+1e-9) {
			bad("its samples together have an alpha of %g, at most %g is allowed", alpha, maxAlpha)
		}
		if len(c.Samples) == 0 && strings.Contains(c.Judged, "alpha") {
			bad("Judged speaks of alpha: say it in Samples")
		}
		if c.Check == nil {
			bad("Check is nil")
		}
		if c.Injection && c.Workload != Own {
			bad("Injection needs a namespace of its own")
		}
		if len(c.Controls) == 0 {
			bad("has no control: a check that cannot fail is worse than none")
		}
		for i, ctl := range c.Controls {
			if ctl.Break == "" || ctl.Fails == "" {
				bad("control %d: Break and Fails must be set", i)
			}
			if ctl.Do == nil {
				if _, err := parseBreak(ctl.Break); err != nil {
					bad("control %d: %w", i, err)
				}
			}
		}
		objs, err := fixtures.Load(fsys, "cases/"+c.Fixture, sampleVars())
		if err != nil {
			bad("fixture: %w", err)
		}
		if err == nil && len(objs) == 0 {
			bad("fixture %s holds no object", c.Fixture)
		}
	}
	return errors.Join(errs...)
}

// sampleVars has a value for every variable a manifest may use.
func sampleVars() fixtures.Vars {
	return fixtures.Vars{
		"NAMESPACE": "harness-sample", "NAME": "sample", "HOST": "sample.harness.test", "GATEWAY": "ingressgateway",
		"IMAGE": "harness:sample", "TOKEN": "sample-token", "ECHO_TOKEN": "sample-secret", "GATEWAY_TCP_PORT": "31400",
		"GATEWAY_NAMESPACE": "istio-system", "GATEWAY_SERVICE": "gateway", "TLS_CRT": "Y2VydA==", "TLS_KEY": "a2V5", "REPLICAS": "3", "TLS_CA": "Y2E=",
		"TLS_CA_TEXT": `"ca"`, "TLS_CRL": "Y3Js", "OTHER_CRT": "Y2VydA==", "OTHER_KEY": "a2V5", "THIRD_CRT": "Y2VydA==", "THIRD_KEY": "a2V5",
		"CLIENT_HASH": "hash", "CLIENT_SPKI": "spki", "POOL": "harness-pool", "SUBNET": "198.18.0", "GATEWAY_ADDRESS": "192.0.2.1", "ADDRESS": "198.18.0.1", "NODE": "sample-node",
	}
}

// edit is one step of a declarative break.
type edit struct {
	remove     bool
	kind, name string // name is a suffix, "" = any of the kind
	path       string
	value      string
}

// parseBreak reads the grammar documented at Control.
func parseBreak(s string) ([]edit, error) {
	var out []edit
	for _, part := range strings.Split(s, "; ") {
		part = strings.TrimSpace(part)
		var e edit
		head, rest, found := strings.Cut(part, " ")
		if !found || rest == "" {
			return nil, fmt.Errorf("break %q: want \"Kind[/suffix] path=value\" or \"delete Kind[/suffix]\"", part)
		}
		if head == "delete" {
			e.remove, head = true, rest
		}
		e.kind, e.name, _ = strings.Cut(head, "/")
		if !regexp.MustCompile("^[A-Z][A-Za-z]+$").MatchString(e.kind) {
			return nil, fmt.Errorf("break %q: %q is no kind", part, e.kind)
		}
		if !e.remove {
			path, value, found := strings.Cut(rest, "=")
			if !found || path == "" || strings.Contains(path, " ") {
				return nil, fmt.Errorf("break %q: %q is not path=value", part, rest)
			}
			e.path, e.value = path, value
		}
		out = append(out, e)
	}
	return out, nil
}
