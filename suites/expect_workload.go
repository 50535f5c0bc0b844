// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	watchtools "k8s.io/client-go/tools/watch"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// steadyLoad is an open-loop load from outside that lasts until it is stopped: plans of loadSegment each, on one schedule,
// the next one starting whether or not the last one has had all its answers.
type steadyLoad struct {
	e       *Env
	name    string
	stopped chan struct{}
	once    sync.Once
	done    chan struct{}
	results []*loadgen.Result
	errs    []error
	// segments are the plans, with the time that their request 0 was due; complete once stopped.
	segments []segment
	result   *loadgen.Result // set by stop
	err      error
}

type segment struct {
	prefix string
	start  time.Time
}

const (
	loadSegment = 2 * time.Second
	// loadMaxLag is loose because latency is not judged: only what became of each request, and in which stage it was due.
	loadMaxLag = 500 * time.Millisecond
	// loadTimeout is how long a request may take before it counts as lost.
	loadTimeout = 5 * time.Second
)

// startLoad begins to send rate requests a second over kept connections. Its stop must be called.
func (e *Env) startLoad(ctx context.Context, name string, rate float64, request loadgen.Request) *steadyLoad {
	return e.startLoadOver(ctx, name, rate, request, loadgen.Pinned)
}

// startLoadOver is startLoad with another use of connections.
func (e *Env) startLoadOver(ctx context.Context, name string, rate float64, request loadgen.Request, policy loadgen.Policy) *steadyLoad {
	l := &steadyLoad{e: e, name: name, stopped: make(chan struct{}), done: make(chan struct{})}
	go l.run(ctx, loadgen.Plan{
		Requests: []loadgen.Request{request}, Rate: rate, Duration: loadSegment, Connections: 8, Policy: policy, Timeout: loadTimeout, MaxLag: loadMaxLag,
	})
	return l
}

func (l *steadyLoad) run(ctx context.Context, plan loadgen.Plan) {
	defer close(l.done)
	var segments sync.WaitGroup
	defer segments.Wait()
	next := time.NewTicker(loadSegment)
	defer next.Stop()
	start := time.Now()
	var mu sync.Mutex
	for k := 0; ; k++ {
		p := plan
		p.StartAt, p.IDPrefix = start.Add(time.Duration(k)*loadSegment), l.e.Prefix()
		l.segments = append(l.segments, segment{p.IDPrefix, p.StartAt})
		segments.Go(func() {
			out, err := l.e.Outside().Do(ctx, loadgen.Job{Plan: &p})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				l.errs = append(l.errs, err)
				return
			}
			for i := range out.Result.Seconds {
				out.Result.Seconds[i].At += k * int(loadSegment/time.Second)
			}
			l.results = append(l.results, out.Result)
		})
		select {
		case <-next.C:
		case <-l.stopped:
			return
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the load after the plan under way, waits for its answers, records the whole and returns it, every time it is
// called.
func (l *steadyLoad) stop() (*loadgen.Result, error) {
	l.once.Do(func() {
		close(l.stopped)
		<-l.done
		if l.err = errors.Join(l.errs...); l.err == nil {
			l.result, l.err = loadgen.Merge(l.results...)
		}
		if l.err != nil {
			l.err = fmt.Errorf("load %s: %w", l.name, l.err)
			return
		}
		l.e.Load(l.name, l.result)
	})
	return l.result, l.err
}

// lostNone judges that every request of a load was answered well. A generator that could not keep its own schedule is an
// error, but never hides a lost request.
func lostNone(what string, r *loadgen.Result) error {
	if lost := r.Sent - r.OK; lost > 0 {
		return &Mismatch{
			Want:      fmt.Sprintf("%s: all of %d requests answered", what, r.Sent),
			Got:       fmt.Sprintf("%d requests lost (%s)", lost, codes(r)),
			Exchanges: r.Failures[:min(len(r.Failures), 5)],
			Detail:    describe(r.Failures[0]),
		}
	}
	if r.Verdict == loadgen.Invalid {
		return fmt.Errorf("%s: limited by the generator: %s", what, r.Reason)
	}
	if r.Sent == 0 {
		return errors.New(what + ": no request was sent")
	}
	return nil
}

func codes(r *loadgen.Result) string {
	m := map[string]int{}
	for k, n := range r.Codes {
		m[k] = int(n)
	}
	return counts(m)
}

// ledger is what a watch has told of a set of pods: every state the set went through, in the order in which the API server
// stored it, so that nothing between two looks is missed.
type ledger struct {
	mu                      sync.Mutex
	pods                    map[types.UID]corev1.Pod
	fewestReady, mostActive int
	fewestAt, mostAt        time.Time
	samples                 []ledgerSample
	rules                   []func(map[types.UID]corev1.Pod)
	stop                    func()
}

type ledgerSample struct {
	at            time.Time
	ready, active int
}

// watchPods begins to keep a ledger of the case's pods. Its stop must be called. Each rule is shown every state, under the
// ledger's lock.
func (e *Env) watchPods(ctx context.Context, selector string, rules ...func(map[types.UID]corev1.Pod)) (*ledger, error) {
	api := e.Kube.CoreV1().Pods(e.Namespace())
	list, err := api.List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list pods %q: %w", selector, err)
	}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, selectedWatch(func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.LabelSelector = selector
		return api.Watch(ctx, o)
	}))
	if err != nil {
		return nil, fmt.Errorf("watch pods %q: %w", selector, err)
	}
	l := &ledger{pods: map[types.UID]corev1.Pod{}, rules: rules, stop: w.Stop}
	for _, p := range list.Items {
		l.pods[p.UID] = p
	}
	l.fewestReady = len(l.pods)
	l.count()
	go func() {
		for event := range w.ResultChan() {
			if p, ok := event.Object.(*corev1.Pod); ok {
				l.see(event.Type, p)
			}
		}
	}()
	return l, nil
}

// selectedWatch is a watch function in the shape that client-go wants.
type selectedWatch func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)

func (w selectedWatch) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return w(ctx, o)
}

func (l *ledger) see(event watch.EventType, p *corev1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if event == watch.Deleted {
		delete(l.pods, p.UID)
	} else {
		l.pods[p.UID] = *p
	}
	l.count()
}

// count notes the extremes. Active pods are those that a Deployment counts: neither ended nor told to end.
func (l *ledger) count() {
	ready, active := 0, 0
	for _, p := range l.pods {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			continue
		}
		active++
		if fixtures.PodReady(&p) {
			ready++
		}
	}
	for _, rule := range l.rules {
		rule(l.pods)
	}
	now := time.Now()
	l.samples = append(l.samples, ledgerSample{now, ready, active})
	if ready < l.fewestReady {
		l.fewestReady, l.fewestAt = ready, now
	}
	if active > l.mostActive {
		l.mostActive, l.mostAt = active, now
	}
}

// extremes are the fewest ready and the most active pods there have been at any moment.
func (l *ledger) extremes() (fewestReady, mostActive int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fewestReady, l.mostActive
}

// series are the pods over time.
func (l *ledger) series(start time.Time) []Series {
	l.mu.Lock()
	defer l.mu.Unlock()
	ready, active := Series{Name: "ready pods", Unit: "pods"}, Series{Name: "pods", Unit: "pods"}
	for _, s := range l.samples {
		at := s.at.Sub(start).Seconds()
		ready.Points = append(ready.Points, Point{at, float64(s.ready)})
		active.Points = append(active.Points, Point{at, float64(s.active)})
	}
	return []Series{ready, active}
}

// now are the pods as of the latest event.
func (l *ledger) now() []corev1.Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]corev1.Pod, 0, len(l.pods))
	for _, p := range l.pods {
		out = append(out, p)
	}
	return out
}

// within waits at most limit for a condition and judges whether it came in time: if not, the Mismatch is made of want and
// what the condition said last. The error of a condition that is not met says why; a Mismatch says that it cannot be met any
// more, and ends the wait. The end of ctx itself is no judgement.
func (e *Env) within(ctx context.Context, limit time.Duration, want string, cond func(context.Context) (bool, error)) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	err := e.Until(limited, want, func(ctx context.Context) (bool, error) {
		done, err := cond(ctx)
		if done {
			return true, nil
		}
		if err == nil || ctx.Err() == nil {
			last = err
		}
		// A condition that has become impossible need not be waited for.
		if asMismatch(err) != nil {
			cancel()
		}
		return false, err
	})
	switch {
	case err == nil:
		return nil
	case asMismatch(last) != nil:
		return last
	case ctx.Err() != nil:
		return err
	case last != nil:
		return mismatch(fmt.Sprintf("%s within %s", want, limit), "%v", last)
	default:
		return mismatch(fmt.Sprintf("%s within %s", want, limit), "it is not so")
	}
}
