// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"time"

	istio "istio.io/client-go/pkg/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// fixtureClient is what the runner asks of fixtures.Client; a test's fake stands in for it.
type fixtureClient interface {
	Apply(ctx context.Context, objs ...*unstructured.Unstructured) ([]*unstructured.Unstructured, error)
	Get(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error)
	Delete(ctx context.Context, objs ...*unstructured.Unstructured) error
	DeleteRun(ctx context.Context) error
	WaitReady(ctx context.Context, objs ...*unstructured.Unstructured) error
}

// Env is all that a check may touch. It is safe for use by the goroutines of one check.
type Env struct {
	Target  Target
	Case    Case
	Attempt int
	Vars    fixtures.Vars
	Objects []*unstructured.Unstructured // the fixture as it lives: as applied, or as broken by a control
	Kube    kubernetes.Interface
	Istio   istio.Interface
	Config  *rest.Config

	fx      fixtureClient
	wanted  []*unstructured.Unstructured // the fixture as loaded
	whole   []*unstructured.Unstructured // the fixture as it lived last without a break
	pool    string                       // namespace of the run's shared pods
	clients func(ctx context.Context) error
	live    func(ctx context.Context) error
	admin   func(ctx context.Context, proxy *corev1.Pod, path string) ([]byte, error) // asks Envoy's admin port

	atLoopback func(ctx context.Context, p *corev1.Pod, port int, host string) (status string, err error) // asks a port by HTTP
	mu         sync.Mutex
	undo       []func(context.Context) error
	leftover   []*unstructured.Unstructured // objects of the runner's own to delete with the case
	bursts     int
	rec        record
	last       []loadgen.Exchange // of the newest execution of the check, for evidence
}

// record is what one execution of a check leaves beside its verdict.
type record struct {
	notes     []string
	figures   []Figure
	series    []Series
	loads     []Load
	exchanges []loadgen.Exchange
}

// Figure is one measured number.
type Figure struct {
	Name  string
	Value float64
	Unit  string
}

// Series is a value over time, in seconds since the check began.
type Series struct {
	Name, Unit string
	Points     []Point
}

// Point is one sample of a Series.
type Point struct{ At, Value float64 }

// Load is a named load result of a check.
type Load struct {
	Name   string
	Result *loadgen.Result
}

// take returns what was recorded and starts afresh, so that a control's figures do not mix with the check's.
func (e *Env) take() record {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.rec
	e.rec, e.last = record{}, r.exchanges
	return r
}

// exchanges are the last requests of the newest execution of the check.
func (e *Env) exchanges() []loadgen.Exchange {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.rec.exchanges) > 0 {
		return e.rec.exchanges
	}
	return e.last
}

// Namespace is where the case's objects live.
func (e *Env) Namespace() string { return e.Vars["NAMESPACE"] }

// Name is unique to the case and attempt; it is the name of its Service.
func (e *Env) Name() string { return e.Vars["NAME"] }

// Live waits until every proxy on the path serves the case's objects and endpoints as they are now: for a check that
// changes something itself before it judges.
func (e *Env) Live(ctx context.Context) error { return e.live(ctx) }

// Undo registers how to take back a change that re-applying the fixture would not. Undos run in reverse order after the
// check or control that registered them, also when it was interrupted.
func (e *Env) Undo(f func(context.Context) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.undo = append(e.undo, f)
}

// runUndo runs and forgets the undos.
func (e *Env) runUndo(ctx context.Context) error {
	e.mu.Lock()
	undo := e.undo
	e.undo = nil
	e.mu.Unlock()
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		errs = append(errs, undo[i](ctx))
	}
	return errors.Join(errs...)
}

// Figure records a measured number for the report.
func (e *Env) Figure(name string, value float64, unit string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rec.figures = append(e.rec.figures, Figure{name, value, unit})
}

// Series records a value over time for the report.
func (e *Env) Series(s Series) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rec.series = append(e.rec.series, s)
}

// Load records a load result for the report.
func (e *Env) Load(name string, r *loadgen.Result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rec.loads = append(e.rec.loads, Load{name, r})
}

// Note records something a reader of the result should know.
func (e *Env) Note(format string, a ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rec.notes = append(e.rec.notes, fmt.Sprintf(format, a...))
}

// URL is a GET through the gateway's HTTP port to the case's host.
func (e *Env) URL(path string) loadgen.Request {
	return loadgen.Request{
		URL: "http://" + e.Vars["HOST"] + path, Method: "GET", Host: e.Vars["HOST"],
		Address: e.gatewayAddress("http"),
	}
}

func (e *Env) gatewayAddress(port string) string {
	return hostPort(e.Target.Gateway.Host, e.Target.Gateway.Ports[port])
}

// Commanded returns the request with commands for the backend (see fixtures/echo).
func (e *Env) Commanded(r loadgen.Request, commands ...string) loadgen.Request {
	r.Header = maps.Clone(r.Header)
	if r.Header == nil {
		r.Header = map[string][]string{}
	}
	r.Header["X-Echo-Do"] = []string{strings.Join(commands, ",")}
	r.Header["X-Echo-Token"] = []string{e.Vars["ECHO_TOKEN"]}
	return r
}

// Outside is this process: traffic that comes from beyond the cluster.
func (e *Env) Outside() loadgen.Runner { return loadgen.Host{} }

// Inside is a pod without a sidecar on the node ("" = any).
func (e *Env) Inside(ctx context.Context, node string) (loadgen.Runner, error) {
	return e.client(ctx, "role=plain", node)
}

// Mesh is a pod with a sidecar.
func (e *Env) Mesh(ctx context.Context) (loadgen.Runner, error) {
	return e.client(ctx, "role=mesh", "")
}

func (e *Env) client(ctx context.Context, selector, node string) (loadgen.Runner, error) {
	if err := e.clients(ctx); err != nil {
		return nil, err
	}
	pods, err := fixtures.ReadyPods(ctx, e.Kube, e.pool, "app=client,"+selector)
	if err != nil {
		return nil, fmt.Errorf("find client pod: %w", err)
	}
	for _, p := range pods {
		if node == "" || p.Spec.NodeName == node {
			return loadgen.Pod{Config: e.Config, Namespace: p.Namespace, Name: p.Name, Container: "client"}, nil
		}
	}
	return nil, fmt.Errorf("no ready client pod (%s) on node %q in namespace %s", selector, node, e.pool)
}

// Burst sends exactly b.Count requests from somewhere. A refused connection is data; the error means that the burst
// could not be run.
func (e *Env) Burst(ctx context.Context, from loadgen.Runner, b loadgen.Burst) ([]loadgen.Exchange, error) {
	if b.IDPrefix == "" {
		b.IDPrefix = e.Prefix()
	}
	out, err := from.Do(ctx, loadgen.Job{Burst: &b})
	if err == nil && out.Err != "" {
		err = errors.New(out.Err)
	}
	if err == nil && len(out.Exchanges) != b.Count {
		err = fmt.Errorf("%d exchanges of %d requests", len(out.Exchanges), b.Count)
	}
	if err != nil {
		return nil, fmt.Errorf("burst from %s: %w", from, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	const kept = 200
	e.rec.exchanges = append(e.rec.exchanges, out.Exchanges...)
	if n := len(e.rec.exchanges); n > kept {
		e.rec.exchanges = e.rec.exchanges[n-kept:]
	}
	return out.Exchanges, nil
}

// Gateway sends a burst from outside.
func (e *Env) Gateway(ctx context.Context, b loadgen.Burst) ([]loadgen.Exchange, error) {
	return e.Burst(ctx, e.Outside(), b)
}

// Plan runs an open-loop load and records it. A load that the generator itself could not keep up is an error, not a
// verdict about the cluster.
func (e *Env) Plan(ctx context.Context, name string, from loadgen.Runner, p loadgen.Plan) (*loadgen.Result, error) {
	if p.IDPrefix == "" {
		p.IDPrefix = e.Prefix()
	}
	out, err := from.Do(ctx, loadgen.Job{Plan: &p})
	if err == nil && out.Err != "" {
		err = errors.New(out.Err)
	}
	if err == nil && out.Result == nil {
		err = errors.New("no result")
	}
	if err != nil {
		return nil, fmt.Errorf("load %s from %s: %w", name, from, err)
	}
	e.Load(name, out.Result)
	if out.Result.Verdict == loadgen.Invalid {
		return nil, fmt.Errorf("load %s from %s: limited by the generator: %s", name, from, out.Result.Reason)
	}
	return out.Result, nil
}

// Prefix is a fresh prefix for request ids, unique within the run.
func (e *Env) Prefix() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bursts++
	return fmt.Sprintf("%s-%s-%d", e.Name(), e.Vars["TOKEN"], e.bursts)
}

// Pods lists the case namespace's pods that are ready and not on their way out.
func (e *Env) Pods(ctx context.Context, selector string) ([]corev1.Pod, error) {
	return fixtures.ReadyPods(ctx, e.Kube, e.Namespace(), selector)
}

func podNames(pods []corev1.Pod) []string {
	out := make([]string, 0, len(pods))
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return out
}

// Control asks a backend's control port, by way of the API server. query is sent as it is.
func (e *Env) Control(ctx context.Context, method, podName, path string, query url.Values) ([]byte, error) {
	req := e.Kube.CoreV1().RESTClient().Verb(method).Namespace(e.Namespace()).Resource("pods").
		Name(podName+":8081").SubResource("proxy").Suffix(path).SetHeader("X-Echo-Token", e.Vars["ECHO_TOKEN"])
	for k, vs := range query {
		for _, v := range vs {
			req = req.Param(k, v)
		}
	}
	b, err := req.DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s %s on pod %s: %w", method, path, podName, err)
	}
	return b, nil
}

// Seen asks each pod which of the requests whose id has the prefix it has received: pod to id to count.
func (e *Env) Seen(ctx context.Context, pods []corev1.Pod, prefix string) (map[string]map[string]int, error) {
	out := map[string]map[string]int{}
	for _, p := range pods {
		b, err := e.Control(ctx, "GET", p.Name, "/seen", url.Values{"prefix": {prefix}})
		if err != nil {
			return nil, err
		}
		var seen struct {
			Pod string
			IDs map[string]int
		}
		if err := json.Unmarshal(b, &seen); err != nil {
			return nil, fmt.Errorf("what pod %s has seen: %w", p.Name, err)
		}
		out[p.Name] = seen.IDs
	}
	return out, nil
}

// pollEvery is how often a wait looks again. It bounds how late a wait notices, never what is judged.
const pollEvery = 100 * time.Millisecond

// Until waits for a condition, at least once; see [fixtures.Until].
func (e *Env) Until(ctx context.Context, what string, cond func(context.Context) (bool, error)) error {
	return fixtures.Until(ctx, pollEvery, what, cond)
}
