// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

const (
	// changeRate is the open-loop load under which configuration changes: a hole of 10 ms loses a request.
	changeRate = 100
	// changeSteady is how many requests are sent while nothing changes, before and after each change.
	changeSteady = 60
)

// stage is one change under load and where requests may go once it is live.
type stage struct {
	edits string   // in the grammar of Control.Break; "" = the fixture as it is
	to    []string // versions that may answer, each of which must
}

// span is when a stage was being made and when it was proved live.
type span struct{ begun, live time.Time }

// underLoad makes the stages one after the other under an open-loop load, and judges that no request is lost or answered
// twice, and that each went where it may: what was sent while a change was on its way to the old or the new place, all else
// to the one of its stage. Requests are told apart by their sequence number, and counted at the backends.
func underLoad(ctx context.Context, e *Env, request loadgen.Request, stages []stage) error {
	load := e.startLoad(ctx, "while configuration changes", changeRate, request)
	defer load.stop() //nolint:errcheck // judged below; here only so that nothing keeps sending
	var spans []span
	for _, s := range stages {
		at := span{begun: time.Now()}
		if s.edits != "" {
			if err := e.change(ctx, s.edits); err != nil {
				return err
			}
			if err := e.Live(ctx); err != nil {
				return err
			}
		}
		at.live = time.Now()
		spans = append(spans, at)
		if err := e.Until(ctx, "some requests are sent while nothing changes", func(context.Context) (bool, error) {
			return time.Since(at.live) >= time.Second*changeSteady/changeRate, nil
		}); err != nil {
			return err
		}
	}
	end := time.Now()
	result, err := load.stop()
	if err != nil {
		return err
	}
	if err := lostNone("while configuration changes", result); err != nil {
		return err
	}
	return e.inStages(ctx, load, stages, spans, end)
}

// inStages judges every request by the stage in which it was due.
func (e *Env) inStages(ctx context.Context, load *steadyLoad, stages []stage, spans []span, end time.Time) error {
	count := make([]map[string]int, len(stages))
	for i := range count {
		count[i] = map[string]int{}
	}
	var stray []string
	for _, segment := range load.segments {
		seen, err := received(ctx, e, segment.prefix)
		if err != nil {
			return err
		}
		for k := range int(changeRate * loadSegment / time.Second) {
			id, due := fmt.Sprintf("%s-%d", segment.prefix, k), segment.start.Add(time.Duration(k)*time.Second/changeRate)
			if n := sum(seen[id]); n != 1 {
				stray = append(stray, fmt.Sprintf("request %s arrived %d times", id, n))
				continue
			}
			version := sortedKeys(seen[id])[0]
			now, from := stageOf(spans, due)
			allowed := stages[now].to
			if from != now {
				allowed = slices.Concat(stages[from].to, allowed)
			} else if due.Before(end) {
				count[now][version]++
			}
			if !slices.Contains(allowed, version) {
				stray = append(stray, fmt.Sprintf("request %s, of stage %d, went to %s", id, now+1, version))
			}
		}
	}
	var missing []string
	for i, s := range stages {
		e.Figure(fmt.Sprintf("stage %d: requests while nothing changed", i+1), float64(sum(count[i])), "requests")
		e.Figure(fmt.Sprintf("stage %d: from change to live", i+1), spans[i].live.Sub(spans[i].begun).Seconds(), "s")
		for _, version := range s.to {
			if count[i][version] == 0 {
				missing = append(missing, fmt.Sprintf("nothing of stage %d went to %s", i+1, version))
			}
		}
	}
	e.Figure("requests misrouted", float64(len(stray)), "requests")
	if wrong := append(stray, missing...); len(wrong) > 0 {
		m := mismatch("every request where its stage sends it, once", "%d that were not", len(wrong))
		m.Detail = strings.Join(wrong[:min(len(wrong), 5)], ", ")
		return m
	}
	return nil
}

// stageOf is the stage in which a request was due, and the one before it when the change was still on its way. A generator
// may be as late as its limit, so a request that was due shortly before a change may have met it.
func stageOf(spans []span, due time.Time) (now, from int) {
	for i := len(spans) - 1; i > 0; i-- {
		if due.After(spans[i].live) {
			return i, i
		}
		if due.Add(loadMaxLag).After(spans[i].begun) {
			return i, i - 1
		}
	}
	return 0, 0
}

// change edits live objects, and takes the edits back when the check or control ends.
func (e *Env) change(ctx context.Context, edits string) error {
	steps, err := parseBreak(edits)
	if err != nil {
		return err
	}
	var changed []*unstructured.Unstructured
	for _, step := range steps {
		target, err := find(e.wanted, step)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(changed, func(o *unstructured.Unstructured) bool { return same(o, target) })
		if i < 0 {
			live, err := e.fx.Get(ctx, target)
			if err != nil {
				return err
			}
			changed, i = append(changed, bare(live)), len(changed)
			before := bare(live)
			e.Undo(func(ctx context.Context) error {
				_, err := e.fx.Apply(ctx, before)
				return err
			})
		}
		if err := fixtures.Edit(changed[i], step.path, step.value); err != nil {
			return err
		}
	}
	_, err = e.fx.Apply(ctx, changed...)
	return err
}

// bare is an object as one would write it: without what the server keeps in it.
func bare(o *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	delete(o.Object, "status")
	for _, name := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"} {
		unstructured.RemoveNestedField(o.Object, "metadata", name)
	}
	return o
}
