// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// Workers are N pods of an Indexed Job, spread over the nodes, that send a Plan together. Each runs its share in a process of
// its own; what is here only hands the shares out and fetches the results, and may lose its connection in between.
type Workers struct {
	Cluster Cluster
	N       int
	Mesh    bool                             // with a sidecar each
	Say     func(format string, args ...any) // progress; nil: nobody listens
}

func (w Workers) String() string { return fmt.Sprintf("%d workers", w.N) }

// How long things may take.
const (
	readyTimeout = 2 * time.Minute // until all pods are ready
	fetchTimeout = time.Minute     // from a plan's end until a worker has handed its result over
	callTimeout  = 5 * time.Second // of one call of a worker
	pollInterval = 500 * time.Millisecond
	lead         = 2 * time.Second // from the first job that is handed out until the common start, and leadEach more per worker
	leadEach     = 20 * time.Millisecond
)

// Do makes the pods, runs job's Plan, and removes the pods, also when ctx ends. See [loadgen.Plan.MergeShares] for what becomes of a
// lost worker. When only the removal failed, the Output is there beside the error.
func (w Workers) Do(ctx context.Context, job loadgen.Job) (out loadgen.Output, err error) {
	if job.Plan == nil {
		return out, errors.New("workers: only a plan can be shared out")
	}
	plans, err := job.Plan.Split(w.N)
	if err != nil {
		return out, fmt.Errorf("workers: %w", err)
	}
	lab, err := newLab(w.Cluster, "workers")
	if err != nil {
		return out, fmt.Errorf("workers: %w", err)
	}
	defer func() { err = errors.Join(err, lab.Remove(ctx)) }()
	out.Result, err = w.run(ctx, lab, *job.Plan, plans)
	if err != nil {
		return out, fmt.Errorf("workers: %w", err)
	}
	return out, nil
}

func (w Workers) say(format string, args ...any) {
	if w.Say != nil {
		w.Say(format, args...)
	}
}

// sending is how long a worker is at work, from the start until its last answer is in.
func sending(p loadgen.Plan) time.Duration {
	timeout := p.Timeout
	if timeout == 0 {
		timeout = loadgen.DefaultTimeout
	}
	return p.Warmup + p.Duration + p.MaxLag + timeout
}

func (w Workers) run(ctx context.Context, lab *Lab, plan loadgen.Plan, plans []loadgen.Plan) (*loadgen.Result, error) {
	// The pods end by themselves when nobody is there any more to end them.
	life := readyTimeout + time.Duration(w.N)*leadEach + lead + sending(plan) + 2*fetchTimeout
	_, err := lab.create(ctx, "workers.yaml", fixtures.Vars{
		"N": strconv.Itoa(w.N), "INJECT": strconv.FormatBool(w.Mesh), "LIFE": strconv.Itoa(int(life.Seconds())),
	})
	if err != nil {
		return nil, err
	}
	call, err := podProxy(lab.fixtures.REST(), lab.Namespace)
	if err != nil {
		return nil, err
	}
	c := newCrew(ctx, plans, call)
	defer c.dismiss()
	stop, err := c.watch(lab.fixtures.Kube(), lab.Namespace)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := c.awaitReady(); err != nil {
		return nil, err
	}
	w.say(" • %d workers are ready on %d nodes", w.N, c.nodes())
	shares := c.work()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return plan.MergeShares(shares)
}

// A crew is the workers of one run as the coordinator knows them.
type crew struct{ members []*member }

// A caller carries one HTTP exchange with a pod's Server. An error means that there was none.
type caller func(ctx context.Context, pod, method, path string, body []byte) (status int, answer []byte, err error)

// newCrew has no pods yet: see takes them in.
func newCrew(ctx context.Context, plans []loadgen.Plan, call caller) *crew {
	c := &crew{members: make([]*member, len(plans))}
	for i := range c.members {
		m := &member{plan: plans[i], call: call, pod: watched{ready: make(chan struct{})}}
		m.Index = i
		m.ctx, m.lose = context.WithCancelCause(ctx)
		c.members[i] = m
	}
	return c
}

// dismiss ends what is still being done for the members.
func (c *crew) dismiss() {
	for _, m := range c.members {
		m.lose(nil)
	}
}

// each runs do for every member at the same time.
func (c *crew) each(do func(m *member)) {
	var all sync.WaitGroup
	for _, m := range c.members {
		all.Go(func() { do(m) })
	}
	all.Wait()
}

// work has every member run its plan from a common time on.
func (c *crew) work() []loadgen.Share {
	c.each(func(m *member) {
		if err := m.readClock(); err != nil {
			m.lose(err)
		}
	})
	// The clock furthest ahead decides, so that the start is in the future on every node, also if it is past on this one.
	ahead := c.members[0].Clock
	for _, m := range c.members {
		ahead = max(ahead, m.Clock)
	}
	from := time.Now().Add(lead + time.Duration(len(c.members))*leadEach)
	start := from.Add(ahead)
	c.each(func(m *member) {
		if err := m.work(start, from); err != nil {
			m.Reason = err.Error()
		}
	})
	shares := make([]loadgen.Share, len(c.members))
	for i, m := range c.members {
		shares[i] = m.Share
	}
	return shares
}

// A member is one worker. Its ctx ends when its pod is lost, with what happened as the cause.
type member struct {
	loadgen.Share
	plan loadgen.Plan
	call caller
	ctx  context.Context //nolint:containedctx // a worker's life, within the run's
	lose context.CancelCauseFunc
	pod  watched
}

// work hands the worker its plan and fetches the result. start is on the workers' clocks what from is on this one.
func (m *member) work(start, from time.Time) error {
	plan := m.plan
	plan.StartAt = start
	job, err := json.Marshal(loadgen.Job{Plan: &plan})
	if err != nil {
		return fmt.Errorf("encode job: %w", err)
	}
	ctx, cancel := context.WithDeadlineCause(m.ctx, from.Add(sending(plan)+fetchTimeout), errors.New("gave no result in time"))
	defer cancel()
	if _, err := m.insist(ctx, http.MethodPut, "/job", job, http.StatusAccepted); err != nil {
		return err
	}
	if err := sleepUntil(ctx, from.Add(plan.Warmup+plan.Duration)); err != nil {
		return err
	}
	answer, err := m.insist(ctx, http.MethodGet, "/result", nil, http.StatusOK)
	if err != nil {
		return err
	}
	var out loadgen.Output
	switch err := json.Unmarshal(answer, &out); {
	case err != nil:
		return fmt.Errorf("decode %d bytes of its result: %w", len(answer), err)
	case out.Result == nil:
		return fmt.Errorf("has no result: %s", out.Err)
	}
	m.Result = out.Result
	// Its pod ends by this; it would without it, later.
	_, _, _ = m.ask(ctx, http.MethodPost, "/done", nil)
	return nil
}

// ask calls the worker once.
func (m *member) ask(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return m.call(ctx, m.Pod, method, path, body)
}

// insist calls the worker until it answers with want or refuses. Anything else, such as what the API server says when it does not
// reach the pod, is asked again.
func (m *member) insist(ctx context.Context, method, path string, body []byte, want int) (answer []byte, err error) {
	last := errors.New("was not asked")
	err = wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		status, got, err := m.ask(ctx, method, path, body)
		switch {
		case err != nil:
			last = err
			return false, nil
		case status == want:
			answer = got
			return true, nil
		}
		last = fmt.Errorf("%s %s: %d %.500s", method, path, status, bytes.TrimSpace(got))
		switch status {
		case http.StatusBadRequest, http.StatusForbidden, http.StatusConflict, http.StatusPreconditionFailed:
			return false, last
		}
		return false, nil
	})
	switch {
	case err == nil || ctx.Err() == nil:
		return answer, err
	case m.ctx.Err() != nil:
		return nil, context.Cause(m.ctx)
	default:
		return nil, fmt.Errorf("%w: %w", context.Cause(ctx), last)
	}
}

// readClock estimates how far the worker's clock is ahead. An answer was made at some time within its round trip, so the shortest
// one tells most.
func (m *member) readClock() error {
	const enough, tries = 5 * time.Millisecond, 10
	err := errors.New("was not asked for its clock")
	known := false
	for try := 0; try < tries && !(known && m.ClockError <= enough); try++ {
		sent := time.Now()
		status, answer, askErr := m.ask(m.ctx, http.MethodGet, "/clock", nil)
		half := time.Since(sent) / 2
		var clock loadgen.Clock
		switch {
		case m.ctx.Err() != nil:
			return context.Cause(m.ctx)
		case askErr != nil:
			err = fmt.Errorf("ask for its clock: %w", askErr)
		case status != http.StatusOK || json.Unmarshal(answer, &clock) != nil:
			err = fmt.Errorf("ask for its clock: %d %.200s", status, answer)
		case !known || half < m.ClockError:
			known, m.Clock, m.ClockError = true, clock.Now.Sub(sent.Add(half)), half
		}
	}
	if known {
		return nil
	}
	return err
}

// sleepUntil ends early with ctx.
func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
