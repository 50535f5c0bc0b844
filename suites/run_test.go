// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// fakeCluster keeps objects in memory, with generations as an API server counts them.
type fakeCluster struct {
	mu        sync.Mutex
	objects   map[string]*unstructured.Unstructured
	deleteErr error
	runGone   bool
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{objects: map[string]*unstructured.Unstructured{}}
}

func id(o *unstructured.Unstructured) string {
	return o.GetKind() + "/" + o.GetNamespace() + "/" + o.GetName()
}

func (f *fakeCluster) Apply(_ context.Context, objs ...*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*unstructured.Unstructured
	for _, o := range objs {
		live, old := o.DeepCopy(), f.objects[id(o)]
		live.SetGeneration(1)
		if old != nil {
			live.SetGeneration(old.GetGeneration())
			if fmt.Sprint(old.Object["spec"]) != fmt.Sprint(o.Object["spec"]) {
				live.SetGeneration(old.GetGeneration() + 1)
			}
		}
		f.objects[id(o)] = live
		out = append(out, live.DeepCopy())
	}
	return out, nil
}

func (f *fakeCluster) Get(_ context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if live := f.objects[id(o)]; live != nil {
		return live.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: o.GetKind()}, o.GetName())
}

func (f *fakeCluster) Delete(_ context.Context, objs ...*unstructured.Unstructured) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range objs {
		delete(f.objects, id(o))
	}
	return f.deleteErr
}

func (f *fakeCluster) DeleteRun(context.Context) error { f.runGone = true; return nil }

func (f *fakeCluster) WaitReady(context.Context, ...*unstructured.Unstructured) error { return nil }

// policy reads what a RoundRobin-like check would find at work.
func (f *fakeCluster) policy(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, o := range f.objects {
		if strings.HasPrefix(key, "DestinationRule/") && strings.HasSuffix(key, name) {
			simple, _, _ := unstructured.NestedString(o.Object, "spec", "trafficPolicy", "loadBalancer", "simple")
			return simple
		}
	}
	return "absent"
}

type fakeProver struct{ proofs atomic.Int32 }

func (*fakeProver) setUp(context.Context, string) error { return nil }
func (*fakeProver) close()                              {}
func (p *fakeProver) prove(context.Context, *Env) error {
	p.proofs.Add(1)
	return nil
}

// roundRobin is a case that holds as long as the policy in the fake cluster is ROUND_ROBIN.
func roundRobin(f *fakeCluster) Case {
	return Case{
		Name: "DestinationRule/Fake", Doc: "Takes turns.", Fixture: "destinationrule/round-robin.yaml", Judged: "exactly", Covers: []string{"DestinationRule.spec.host"},
		Check: func(_ context.Context, e *Env) error {
			if got := f.policy(e.Name()); got != "ROUND_ROBIN" {
				return mismatch("a cycle", "not a cycle: %s", got)
			}
			return nil
		},
		Controls: []Control{{Break: "DestinationRule spec.trafficPolicy.loadBalancer.simple=RANDOM", Fails: "not a cycle"}},
	}
}

func runFake(t *testing.T, ctx context.Context, f *fakeCluster, o Options, cases ...Case) ([]Result, error) {
	t.Helper()
	var results []Result
	o.Run = "20260101-000000-abcdef"
	o.Done = func(r Result) { results = append(results, r) }
	r := newRunner(Target{Gateway: Gateway{Selector: map[string]string{"istio": "ingressgateway"}, Namespace: "istio-system"}, Image: "image:1"}, o, f)
	r.live = &fakeProver{}
	err := r.run(ctx, cases)
	return results, err
}

func TestRunnerOutcomes(t *testing.T) {
	tests := map[string]struct {
		change  func(f *fakeCluster, c *Case)
		outcome Outcome
		reason  string
		control string
	}{
		"pass": {func(*fakeCluster, *Case) {}, Pass, "", Caught},
		"fail": {func(_ *fakeCluster, c *Case) {
			c.Check = func(context.Context, *Env) error { return mismatch("one", "two") }
		}, Failed, "want one, got two", ""},
		"blind": {func(_ *fakeCluster, c *Case) {
			c.Check = func(context.Context, *Env) error { return nil }
		}, Blind, "passes", Missed},
		"fails for another reason": {func(_ *fakeCluster, c *Case) {
			c.Controls[0].Fails = "something else"
		}, Blind, "does not say", Missed},
		"a control's error is no catch": {func(f *fakeCluster, c *Case) {
			c.Check = func(_ context.Context, e *Env) error {
				if f.policy(e.Name()) == "RANDOM" {
					return errors.New("cannot judge: not a cycle")
				}
				return nil
			}
		}, Errored, "could not judge", "error"},
		"a break that changes nothing": {func(_ *fakeCluster, c *Case) {
			c.Controls[0].Break = "DestinationRule spec.trafficPolicy.loadBalancer.simple=ROUND_ROBIN"
		}, Errored, "is the same after the break", "error"},
		"a break of nothing": {func(_ *fakeCluster, c *Case) {
			c.Controls[0].Break = "delete Secret"
		}, Errored, "means 0 objects", "error"},
		"delete": {func(_ *fakeCluster, c *Case) {
			c.Controls[0].Break = "delete DestinationRule"
		}, Pass, "", Caught},
		"error": {func(_ *fakeCluster, c *Case) {
			c.Check = func(context.Context, *Env) error { return errors.New("no way") }
		}, Errored, "no way", ""},
		"panic": {func(_ *fakeCluster, c *Case) {
			c.Check = func(context.Context, *Env) error { panic("boo") }
		}, Errored, "the check panicked: boo", ""},
		"skip":            {func(_ *fakeCluster, c *Case) { c.Needs = []Capability{Metrics} }, Skipped, "Metrics", ""},
		"clean-up fails":  {func(f *fakeCluster, _ *Case) { f.deleteErr = errors.New("stuck") }, Errored, "clean-up: stuck", Caught},
		"missing fixture": {func(_ *fakeCluster, c *Case) { c.Fixture = "none.yaml" }, Errored, "none.yaml", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFakeCluster()
			c := roundRobin(f)
			test.change(f, &c)
			results, err := runFake(t, t.Context(), f, Options{}, c)
			if err != nil {
				t.Fatal(err)
			}
			if len(results) != 1 {
				t.Fatalf("%d results", len(results))
			}
			r := results[0]
			if r.Outcome != test.outcome || !strings.Contains(r.Reason, test.reason) {
				t.Errorf("outcome %s %q, want %s %q", r.Outcome, r.Reason, test.outcome, test.reason)
			}
			got := ""
			if len(r.Controls) > 0 {
				got = r.Controls[0].Outcome
			}
			if got != test.control {
				t.Errorf("control %q, want %q", got, test.control)
			}
			if !f.runGone {
				t.Error("the run's objects were not removed")
			}
		})
	}
}

func TestControlsStartFromWhatPassed(t *testing.T) {
	f := newFakeCluster()
	c := roundRobin(f)
	c.Controls = append(c.Controls, Control{Break: "the pool", Fails: "not a cycle", Do: func(_ context.Context, e *Env) error {
		if got := f.policy(e.Name()); got != "ROUND_ROBIN" {
			t.Errorf("the second control starts from %s", got)
		}
		broken := e.Objects[0].DeepCopy()
		for _, o := range e.Objects {
			if o.GetKind() == "DestinationRule" {
				broken = o.DeepCopy()
			}
		}
		_ = unstructured.SetNestedField(broken.Object, "RANDOM", "spec", "trafficPolicy", "loadBalancer", "simple")
		_, err := f.Apply(t.Context(), broken)
		return err
	}})
	undone := 0
	check := c.Check
	c.Check = func(ctx context.Context, e *Env) error {
		e.Undo(func(context.Context) error { undone++; return nil })
		return check(ctx, e)
	}
	results, err := runFake(t, t.Context(), f, Options{}, c)
	if err != nil || results[0].Outcome != Pass || len(results[0].Controls) != 2 {
		t.Fatalf("%v %+v", err, results)
	}
	if undone != 3 {
		t.Errorf("%d undos ran, want one for the check and each control", undone)
	}
}

func TestInterruptStopsTheRunAndCleansUp(t *testing.T) {
	f := newFakeCluster()
	ctx, cancel := context.WithCancel(t.Context())
	c := roundRobin(f)
	c.Check = func(ctx context.Context, _ *Env) error { cancel(); return ctx.Err() }
	second := roundRobin(f)
	second.Name = "DestinationRule/Never"
	results, err := runFake(t, ctx, f, Options{Parallel: 1}, c, second)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0].Outcome != Errored || results[0].Reason != "interrupted" {
		t.Errorf("results %+v", results)
	}
	if !f.runGone || f.policy(slug(c.Name)+"-abcdef") != "absent" {
		t.Error("objects stay behind")
	}
}

func TestSerialCasesRunAloneAndFailFastStops(t *testing.T) {
	f := newFakeCluster()
	var running, most atomic.Int32
	overlap := func(serial bool) func(context.Context, *Env) error {
		return func(context.Context, *Env) error {
			if n := running.Add(1); serial && n > 1 {
				most.Store(n)
			}
			running.Add(-1)
			return mismatch("a", "b")
		}
	}
	var cases []Case
	for i := range 6 {
		c := roundRobin(f)
		c.Name = fmt.Sprintf("DestinationRule/N%d", i)
		c.Serial = i%2 == 0
		c.Check = overlap(c.Serial)
		cases = append(cases, c)
	}
	results, err := runFake(t, t.Context(), f, Options{}, cases...)
	if err != nil || len(results) != 6 || most.Load() > 0 {
		t.Errorf("%v, %d results, a serial case beside %d others", err, len(results), most.Load())
	}
	results, err = runFake(t, t.Context(), f, Options{FailFast: true, Parallel: 1}, cases...)
	if err != nil || len(results) != 1 {
		t.Errorf("%v, %d results after the first failure", err, len(results))
	}
}

// Cases that hold the same do not overlap, whatever else they hold, and all of them run.
func TestCasesTakeTurnsAtWhatTheyHold(t *testing.T) {
	f := newFakeCluster()
	running := map[string]*atomic.Int32{"a": {}, "b": {}}
	var overlaps atomic.Int32
	var cases []Case
	for i, holds := range [][]string{{"a"}, {"a", "b"}, {"b", "a"}, {"b"}, {"b"}, nil, {"a"}} {
		c := roundRobin(f)
		c.Name, c.Holds = fmt.Sprintf("DestinationRule/N%d", i), holds
		c.Check = func(context.Context, *Env) error {
			for _, h := range holds {
				defer running[h].Add(-1)
				if running[h].Add(1) > 1 {
					overlaps.Add(1)
				}
			}
			return mismatch("a", "b")
		}
		cases = append(cases, c)
	}
	results, err := runFake(t, t.Context(), f, Options{Parallel: 4}, cases...)
	if err != nil || len(results) != len(cases) || overlaps.Load() > 0 {
		t.Errorf("%v, %d results, %d overlaps", err, len(results), overlaps.Load())
	}
}

func TestScheduleShufflesTheSameWay(t *testing.T) {
	var cases []Case
	for i := range 20 {
		cases = append(cases, Case{Name: fmt.Sprintf("A/%d", i), Serial: i%4 == 0})
	}
	order := func(seed uint64) string {
		parallel, serial := schedule(cases, 2, seed)
		var names []string
		for _, a := range append(parallel, serial...) {
			names = append(names, fmt.Sprintf("%s#%d", a.c.Name, a.n))
		}
		return strings.Join(names, " ")
	}
	if seven, again := order(7), order(7); seven != again || seven == order(8) {
		t.Error("a seed does not name an order")
	}
	if n := len(strings.Fields(order(7))); n != 40 {
		t.Errorf("%d attempts, want 40", n)
	}
}

func TestNothingToRunIsAnError(t *testing.T) {
	if err := Run(t.Context(), Target{}, nil, Options{}); !errors.Is(err, ErrEmpty) {
		t.Errorf("got %v", err)
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"DestinationRule/RoundRobin": "dr-roundrobin", "Gateway/HTTP": "gateway-http", "HPA/ScaleOutCPU": "hpa-scaleoutcpu",
		"VirtualService/Weights80-20": "vs-weights80-20",
	} {
		if got := slug(name); got != want {
			t.Errorf("slug(%s) = %s, want %s", name, got, want)
		}
	}
}
