// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"harness.example/harness/fixtures"
)

// control breaks one thing, has the same check judge it, and mends it again if there are more to come.
func (r *runner) control(ctx context.Context, e *Env, c Control, more bool) ControlResult {
	start := time.Now()
	out := ControlResult{Break: c.Break, Fails: c.Fails, Outcome: string(Errored)}
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, e.Case.timeout())
		defer cancel()
		if err := r.breakIt(ctx, e, c); err != nil {
			return fmt.Errorf("break: %w", err)
		}
		broken := time.Now()
		if err := r.live.prove(ctx, e); err != nil {
			return fmt.Errorf("prove the break live: %w", err)
		}
		out.Live = time.Since(broken)
		err := check(ctx, e)
		e.take() // figures of a broken system are nobody's result
		m := asMismatch(err)
		switch {
		case m != nil && strings.Contains(m.Error(), c.Fails):
			out.Outcome, out.Got = Caught, m.Error()
		case m != nil:
			out.Outcome, out.Got = Missed, m.Error()
			out.Reason = fmt.Sprintf("fails, but does not say %q: %s", c.Fails, m.Error())
		case err != nil:
			return fmt.Errorf("the check could not judge the broken fixture: %w", err)
		default:
			out.Outcome, out.Reason = Missed, "passes"
		}
		return nil
	}()
	if err != nil {
		out.Reason = err.Error()
	}
	mend := r.undo
	if more {
		mend = r.mend
	}
	if err := mend(ctx, e); err != nil {
		out.Outcome, out.Reason = string(Errored), strings.TrimPrefix(out.Reason+"; mend: "+err.Error(), "; ")
	}
	out.Elapsed = time.Since(start)
	return out
}

// mend undoes a break and proves the fixture live again, so that the next control starts from what passed.
func (r *runner) mend(ctx context.Context, e *Env) error {
	undone := r.undo(ctx, e)
	ctx, cancel := context.WithTimeout(ctx, e.Case.timeout())
	defer cancel()
	if err := errors.Join(undone, r.restore(ctx, e)); err != nil {
		return err
	}
	return r.live.prove(ctx, e)
}

// breakIt makes the break and makes sure that it changed something.
func (r *runner) breakIt(ctx context.Context, e *Env, c Control) error {
	if c.Do != nil {
		return guard("control", func() error { return c.Do(ctx, e) })
	}
	edits, err := parseBreak(c.Break)
	if err != nil {
		return err
	}
	var edited []*unstructured.Unstructured
	for _, edit := range edits {
		target, err := find(e.wanted, edit)
		if err != nil {
			return err
		}
		if edit.remove {
			if err := r.remove(ctx, e, target); err != nil {
				return err
			}
			continue
		}
		// Several edits of one object are one change.
		i := slices.IndexFunc(edited, func(o *unstructured.Unstructured) bool { return same(o, target) })
		if i < 0 {
			edited = append(edited, target.DeepCopy())
			i = len(edited) - 1
		}
		if err := fixtures.Edit(edited[i], edit.path, edit.value); err != nil {
			return err
		}
	}
	return r.change(ctx, e, edited)
}

// change applies edited objects; one that stays as it was is a control that controls nothing.
func (r *runner) change(ctx context.Context, e *Env, edited []*unstructured.Unstructured) error {
	for _, o := range edited {
		before, err := r.fx.Get(ctx, o)
		if err != nil {
			return err
		}
		after, err := r.fx.Apply(ctx, o)
		if err != nil {
			return err
		}
		if before.GetGeneration() == after[0].GetGeneration() && equalButStatus(before, after[0]) {
			return fmt.Errorf("%s is the same after the break", fixtures.Describe(o))
		}
		i := slices.IndexFunc(e.Objects, func(live *unstructured.Unstructured) bool { return same(live, o) })
		if i < 0 {
			return fmt.Errorf("%s is both deleted and edited", fixtures.Describe(o))
		}
		e.Objects = slices.Clone(e.Objects)
		e.Objects[i] = after[0]
		// A workload that cannot become ready may be the very point of a break.
		wait, cancel := context.WithTimeout(ctx, 30*time.Second)
		_ = r.fx.WaitReady(wait, after[0])
		cancel()
	}
	return ctx.Err()
}

func (r *runner) remove(ctx context.Context, e *Env, o *unstructured.Unstructured) error {
	if _, err := r.fx.Get(ctx, o); apierrors.IsNotFound(err) {
		return fmt.Errorf("%s was not there to be deleted", fixtures.Describe(o))
	} else if err != nil {
		return err
	}
	if err := r.fx.Delete(ctx, o); err != nil {
		return err
	}
	e.Objects = slices.DeleteFunc(slices.Clone(e.Objects), func(live *unstructured.Unstructured) bool { return same(live, o) })
	return nil
}

// find returns the one object of the fixture that an edit means.
func find(objs []*unstructured.Unstructured, e edit) (*unstructured.Unstructured, error) {
	var found []*unstructured.Unstructured
	for _, o := range objs {
		if o.GetKind() == e.kind && strings.HasSuffix(o.GetName(), e.name) {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%s/%s means %d objects of the fixture, want 1", e.kind, e.name, len(found))
	}
	return found[0], nil
}

func same(a, b *unstructured.Unstructured) bool {
	return a.GetKind() == b.GetKind() && a.GetNamespace() == b.GetNamespace() && a.GetName() == b.GetName()
}

// equalButStatus compares what a user wrote: all but status and the server's own bookkeeping.
func equalButStatus(a, b *unstructured.Unstructured) bool {
	strip := func(o *unstructured.Unstructured) map[string]any {
		o = o.DeepCopy()
		delete(o.Object, "status")
		o.SetManagedFields(nil)
		o.SetResourceVersion("")
		return o.Object
	}
	return fmt.Sprint(strip(a)) == fmt.Sprint(strip(b)) // maps print in key order
}
