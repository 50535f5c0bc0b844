// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	istio "istio.io/client-go/pkg/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"harness.example/harness/fixtures"
)

// Options say how to run.
type Options struct {
	Run      string // unique name of the run, a valid label value; names its namespaces
	Seed     uint64 // order; 0 keeps the order given
	Repeat   int    // attempts per case; 0 = 1
	Parallel int    // cases side by side; 0 = four for each processor
	FailFast bool   // start no further case after one that did not pass
	// Done is told of every result as it comes, one at a time.
	Done func(Result)
}

const (
	// cleanUpTimeout bounds the clean-up, which goes on after the run's own context has ended.
	cleanUpTimeout = time.Minute
	// setUpTimeout bounds the wait for the shared pods: an image that cannot be had must not hang the run.
	setUpTimeout = 3 * time.Minute
)

// runner is one run: the one place that knows how a case is executed.
type runner struct {
	target    Target // complete once the run is set up
	promised  Target // what is known of it before
	options   Options
	fx        fixtureClient
	live      prover
	collect   func(ctx context.Context, e *Env) []Evidence
	admin     func(ctx context.Context, proxy *corev1.Pod, path string) ([]byte, error)
	loopback  func(ctx context.Context, p *corev1.Pod, port int, host string) (string, error)
	kube      kubernetes.Interface
	istio     istio.Interface
	config    *rest.Config
	pool      string // namespace of the shared pods
	suffix    string // makes names of this run its own on a shared cluster
	echoToken string
	// ownGateway has setUp make the ingress gateway.
	ownGateway bool

	ready      func(context.Context) error // brings the pool up, once
	clients    func(context.Context) error // waits for the client pods
	adapter    func(context.Context) error // brings the metrics adapter up, once
	background sync.WaitGroup
	mu         sync.Mutex
	stopped    bool
	troubles   []error
}

// prover proves that the cluster serves what was applied.
type prover interface {
	// setUp makes what the proofs need, in the pool's namespace.
	setUp(ctx context.Context, namespace string) error
	prove(ctx context.Context, e *Env) error
	close()
}

// Run runs the cases on the target. Results go to Options.Done; the error is about everything that is not a case: set-up
// and clean-up. The namespaces it made are gone when it returns, or the error says that they are not.
func Run(ctx context.Context, target Target, cases []Case, o Options) error {
	if len(cases) == 0 {
		return ErrEmpty
	}
	r, err := connect(target, o)
	if err != nil {
		return err
	}
	return r.run(ctx, cases)
}

// connect makes a runner for the target. Its finish must be called.
func connect(target Target, o Options) (*runner, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: target.Kubeconfig},
		&clientcmd.ConfigOverrides{CurrentContext: target.Context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", target.Kubeconfig, err)
	}
	config.QPS, config.Burst = 200, 400
	config.WarningHandler = rest.NoWarnings{}
	fx, err := fixtures.NewClient(config, o.Run)
	if err != nil {
		return nil, err
	}
	r := newRunner(target, o, fx)
	r.kube, r.istio, r.config = fx.Kube(), fx.Istio(), config
	live := newLive(r)
	r.live, r.collect, r.admin, r.loopback = live, live.collect, live.admin, live.atLoopback
	return r, nil
}

func newRunner(target Target, o Options, fx fixtureClient) *runner {
	r := &runner{target: target, options: o, fx: fx, echoToken: random(8)}
	short := o.Run
	if len(short) > 6 {
		short = short[len(short)-6:]
	}
	r.suffix = regexp.MustCompile(`[^a-z0-9]`).ReplaceAllString(strings.ToLower(short), "")
	r.pool = "harness-" + r.suffix
	if target.Gateway.Service == OwnGateway {
		r.withOwnGateway()
	}
	r.promised = r.target
	r.ready = once(r.setUp)
	r.adapter = once(r.startAdapter)
	r.clients = once(func(ctx context.Context) error {
		objs, err := r.load("base/client.yaml", r.vars())
		if err != nil {
			return err
		}
		return r.fx.WaitReady(ctx, objs...)
	})
	return r
}

// once runs f for the first caller; the others wait and share its error. An interrupted first caller does not spoil it
// for a later run: there is none.
func once(f func(context.Context) error) func(context.Context) error {
	var o sync.Once
	var err error
	return func(ctx context.Context) error {
		o.Do(func() { err = f(ctx) })
		return err
	}
}

func random(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (r *runner) run(ctx context.Context, cases []Case) error {
	parallel, serial := schedule(cases, r.options.Repeat, r.options.Seed)
	limit := r.options.Parallel
	if limit <= 0 {
		limit = 4 * runtime.NumCPU() // they mostly wait
	}
	r.sideBySide(ctx, parallel, limit)
	for _, a := range serial {
		r.attempt(ctx, a)
	}
	return r.finish(ctx)
}

// sideBySide runs so many attempts at a time; one with pods of its own counts twice. One that waits for what another holds
// takes no place meanwhile.
func (r *runner) sideBySide(ctx context.Context, attempts []attempt, limit int) {
	places, held := semaphore.NewWeighted(int64(limit)), map[string]*sync.Mutex{}
	var all sync.WaitGroup
	for _, a := range attempts {
		what := slices.Compact(slices.Sorted(slices.Values(a.c.Holds)))
		for _, h := range what {
			if held[h] == nil {
				held[h] = &sync.Mutex{}
			}
		}
		locks := make([]*sync.Mutex, len(what)) // in one order for all, so that none waits for one that waits for it
		for i, h := range what {
			locks[i] = held[h]
		}
		size := int64(1)
		if a.c.Workload == Own {
			size = int64(min(2, limit))
		}
		in := func() {
			// Without a place the run is over, and attempt knows that, too.
			if places.Acquire(ctx, size) == nil {
				defer places.Release(size)
			}
			r.attempt(ctx, a)
		}
		if len(locks) > 0 {
			all.Go(func() {
				for _, l := range locks {
					l.Lock()
					defer l.Unlock()
				}
				in()
			})
			continue
		}
		if places.Acquire(ctx, size) != nil {
			break
		}
		all.Go(func() {
			defer places.Release(size)
			r.attempt(ctx, a)
		})
	}
	all.Wait()
}

// finish removes everything of the run and returns what went wrong outside of the cases.
func (r *runner) finish(ctx context.Context) error {
	r.background.Wait()
	r.live.close()
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*cleanUpTimeout)
	defer cancel()
	if err := r.fx.DeleteRun(clean); err != nil {
		r.trouble(fmt.Errorf("clean up: %w", err))
	}
	return errors.Join(r.troubles...)
}

func (r *runner) trouble(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.troubles = append(r.troubles, err)
}

// attempt runs one case unless the run has been stopped, and tells its result.
func (r *runner) attempt(ctx context.Context, a attempt) {
	r.mu.Lock()
	stopped := r.stopped
	r.mu.Unlock()
	if stopped || ctx.Err() != nil {
		return
	}
	result := r.execute(ctx, a)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.options.FailFast && result.Outcome != Pass && result.Outcome != Skipped {
		r.stopped = true
	}
	if r.options.Done != nil {
		r.options.Done(result)
	}
}

// setUp makes the pool's namespace, the shared backends and the clients.
func (r *runner) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	pool, err := r.load("base/pool.yaml", r.vars())
	if err != nil {
		return err
	}
	clients, err := r.load("base/client.yaml", r.vars())
	if err != nil {
		return err
	}
	if _, err := r.fx.Apply(ctx, append(append([]*unstructured.Unstructured{namespace(r.pool, nil)}, pool...), clients...)...); err != nil {
		return fmt.Errorf("set the backends up: %w", err)
	}
	if err := r.live.setUp(ctx, r.pool); err != nil {
		return fmt.Errorf("set the backends up: %w", err)
	}
	// A gateway listens only once a Gateway selects it.
	if r.ownGateway {
		if err := r.makeGateway(ctx); err != nil {
			return fmt.Errorf("make a gateway: %w", err)
		}
	}
	if err := r.fx.WaitReady(ctx, pool...); err != nil {
		return fmt.Errorf("wait for the backends: %w", err)
	}
	return nil
}

func namespace(name string, labels map[string]string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	u.SetName(name)
	u.SetLabels(labels)
	return u
}

func (r *runner) load(name string, vars fixtures.Vars) ([]*unstructured.Unstructured, error) {
	return fixtures.Load(fixtures.FS, name, vars)
}

// vars are the variables that all manifests of the run share.
func (r *runner) vars() fixtures.Vars {
	return fixtures.Vars{
		"NAMESPACE": r.pool, "GATEWAY": r.target.Gateway.Selector["istio"], "GATEWAY_NAMESPACE": r.target.Gateway.Namespace,
		"GATEWAY_SERVICE": r.target.Gateway.Service, "GATEWAY_TCP_PORT": "31400", "IMAGE": r.target.Image, "ECHO_TOKEN": r.echoToken, "REPLICAS": "3",
	}
}

// env is what one attempt may touch.
func (r *runner) env(a attempt) *Env {
	name := slug(a.c.Name) + "-" + r.suffix
	if a.n > 1 {
		name += "-" + strconv.Itoa(a.n)
	}
	vars := r.vars()
	vars["NAME"], vars["HOST"], vars["TOKEN"] = name, name+".harness.test", random(6)
	if a.c.Workload == Own {
		vars["NAMESPACE"] = "harness-" + name
	}
	e := &Env{
		Target: r.target, Case: a.c, Attempt: a.n, Vars: vars, Kube: r.kube, Istio: r.istio, Config: r.config,
		fx: r.fx, pool: r.pool, clients: r.clients,
	}
	e.admin, e.atLoopback = r.admin, r.loopback
	e.live = func(ctx context.Context) error { return r.live.prove(ctx, e) }
	return e
}

// slug makes a short DNS label of a case's name: the resource's capitals and the behaviour.
func slug(name string) string {
	resource, behaviour, _ := strings.Cut(name, "/")
	capitals := regexp.MustCompile(`[^A-Z]`).ReplaceAllString(resource, "")
	if len(capitals) < 2 {
		capitals = resource
	}
	out := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(capitals+"-"+behaviour), "-"), "-")
	return strings.TrimRight(out[:min(len(out), 36)], "-")
}

// execute runs one attempt from skip to clean-up. It never panics.
func (r *runner) execute(ctx context.Context, a attempt) (result Result) {
	result = Result{Case: a.c, Attempt: a.n, Started: time.Now(), Outcome: Errored}
	defer func() { result.Elapsed = time.Since(result.Started) }()
	for _, need := range a.c.Needs {
		if reason := r.promised.Missing(need); reason != "" {
			result.Outcome, result.Reason = Skipped, reason
			return result
		}
	}
	err := r.ready(ctx)
	if err == nil && needsAdapter(a.c) {
		err = r.adapter(ctx)
	}
	e := r.env(a)
	if err == nil {
		err = r.judge(ctx, e, &result)
	}
	result.conclude(ctx, err)
	if result.Outcome != Pass {
		evidence, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout/2)
		if r.collect != nil {
			result.Evidence = r.collect(evidence, e)
		}
		cancel()
	}
	cleanErr := result.phase("clean-up", func() error { return r.cleanUp(ctx, e) })
	if cleanErr != nil && result.Outcome == Pass {
		result.Outcome, result.Reason = Errored, "clean-up: "+cleanErr.Error()
	} else if cleanErr != nil {
		r.trouble(fmt.Errorf("clean up after %s: %w", a.c.Name, cleanErr))
	}
	return result
}

// conclude turns what judge returned into an outcome.
func (r *Result) conclude(ctx context.Context, err error) {
	m := asMismatch(err)
	switch {
	case ctx.Err() != nil:
		r.Outcome, r.Reason = Errored, "interrupted"
	case m != nil:
		r.Outcome, r.Reason = Failed, m.Error()
		r.Want, r.Got, r.Distribution = m.Want, m.Got, m.Distribution
	case err != nil:
		r.Outcome, r.Reason = Errored, err.Error()
	default:
		r.Outcome = Pass
	}
	if r.Outcome != Pass {
		return
	}
	for _, c := range r.Controls {
		switch {
		case c.Outcome == Missed:
			r.Outcome, r.Reason = Blind, fmt.Sprintf("with %q the check still %s", c.Break, c.Reason)
			return
		case c.Outcome != Caught && r.Outcome == Pass:
			r.Outcome, r.Reason = Errored, fmt.Sprintf("control %q: %s", c.Break, c.Reason)
		}
	}
}

// judge applies the case, proves it live, checks it and then every control.
func (r *runner) judge(ctx context.Context, e *Env, result *Result) error {
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, e.Case.timeout())
		defer cancel()
		if err := result.phase("apply", func() error { return r.apply(ctx, e) }); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		if err := result.phase("live", func() error { return r.live.prove(ctx, e) }); err != nil {
			return fmt.Errorf("prove live: %w", err)
		}
		err := result.phase("check", func() error { return check(ctx, e) })
		result.adopt(e.take())
		return errors.Join(err, r.undo(ctx, e))
	}()
	if err != nil {
		return err
	}
	return result.phase("controls", func() error {
		for i, c := range e.Case.Controls {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			how := following{onto: i > 0 && light(e, e.Case.Controls[i-1]) && light(e, c)}
			if i+1 < len(e.Case.Controls) {
				how.mend = !light(e, c) || !light(e, e.Case.Controls[i+1])
			}
			result.Controls = append(result.Controls, r.control(ctx, e, c, how))
		}
		return nil
	})
}

// check is the case's own judgement.
func check(ctx context.Context, e *Env) error {
	return guard("check", func() error { return e.Case.Check(ctx, e) })
}

// guard turns a panic in a case's own code into an error: one broken case must not take the others' results away.
func guard(what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the %s panicked: %v\n%s", what, p, debug.Stack())
		}
	}()
	return f()
}

// apply loads the fixture, applies it and waits until its pods are ready.
func (r *runner) apply(ctx context.Context, e *Env) error {
	if e.Case.Prepare != nil {
		if err := guard("preparation", func() error { return e.Case.Prepare(e) }); err != nil {
			return err
		}
	}
	objs, err := r.load("cases/"+e.Case.Fixture, e.Vars)
	if err != nil {
		return err
	}
	if e.Case.Workload == Own {
		labels := map[string]string{}
		if e.Case.Injection {
			labels["istio-injection"] = "enabled"
		}
		objs = append([]*unstructured.Unstructured{namespace(e.Namespace(), labels)}, objs...)
	}
	e.wanted = objs
	return r.restore(ctx, e)
}

// restore brings the fixture to the state that its manifest describes.
func (r *runner) restore(ctx context.Context, e *Env) error {
	live, err := r.fx.Apply(ctx, e.wanted...)
	if err != nil {
		return err
	}
	e.Objects, e.whole = live, live
	return r.fx.WaitReady(ctx, live...)
}

// undo takes back what checks and controls did beyond the fixture. It runs although ctx has ended.
func (r *runner) undo(ctx context.Context, e *Env) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	if err := e.runUndo(ctx); err != nil {
		return fmt.Errorf("undo: %w", err)
	}
	return nil
}

// cleanUp removes the attempt's objects. A namespace with pods takes long to end: it goes in the background, after
// everything that other cases could meet is gone.
func (r *runner) cleanUp(ctx context.Context, e *Env) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	undone := r.undo(ctx, e)
	var now, later []*unstructured.Unstructured
	for _, o := range append(append([]*unstructured.Unstructured{}, e.wanted...), e.leftover...) {
		switch o.GetKind() {
		case "Namespace":
			later = append(later, o)
		case "Deployment", "HorizontalPodAutoscaler", "Pod", "ReplicaSet", "StatefulSet", "DaemonSet":
			if e.Case.Workload != Own {
				now = append(now, o)
			}
		default:
			now = append(now, o)
		}
	}
	err := errors.Join(undone, r.fx.Delete(ctx, now...))
	if len(later) > 0 {
		r.background.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*cleanUpTimeout)
			defer cancel()
			if err := r.fx.Delete(ctx, later...); err != nil {
				r.trouble(fmt.Errorf("remove namespace %s: %w", e.Namespace(), err))
			}
		})
	}
	return err
}
