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

// following says how a control stands to its neighbours.
type following struct {
	// onto: what the control before broke is mended in the same change that makes this break.
	onto bool
	// mend: the fixture is whole again afterwards; otherwise the next control mends it, or clean-up follows.
	mend bool
}

// control breaks one thing, has the same check judge it, and leaves what is said.
func (r *runner) control(ctx context.Context, e *Env, c Control, how following) ControlResult {
	start := time.Now()
	out := ControlResult{Break: c.Break, Fails: c.Fails, Outcome: string(Errored)}
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, e.Case.timeout())
		defer cancel()
		if err := r.breakIt(ctx, e, c, how.onto); err != nil {
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
	if how.mend {
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

// light says whether a control only edits what needs no pod to be replaced: two of them in a row need no whole fixture in
// between, which saves every proxy a change and the run the proof of it.
func light(e *Env, c Control) bool {
	edits, err := parseBreak(c.Break)
	return c.Do == nil && err == nil && !slices.ContainsFunc(edits, func(one edit) bool {
		target, err := find(e.wanted, one)
		return err != nil || one.remove || slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod", "Job", "Secret", "Namespace"}, target.GetKind())
	})
}

// breakIt makes the break and makes sure that it changed something.
func (r *runner) breakIt(ctx context.Context, e *Env, c Control, onto bool) error {
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
	if onto {
		return r.changeTo(ctx, e, edited)
	}
	return r.change(ctx, e, edited)
}

// changeTo applies the whole fixture with the edited objects in it.
func (r *runner) changeTo(ctx context.Context, e *Env, edited []*unstructured.Unstructured) error {
	all := slices.Clone(e.wanted)
	for i, o := range all {
		if k := slices.IndexFunc(edited, func(other *unstructured.Unstructured) bool { return same(other, o) }); k >= 0 {
			all[i] = edited[k]
		}
	}
	live, err := r.fx.Apply(ctx, all...)
	if err != nil {
		return err
	}
	for _, o := range edited {
		is := func(other *unstructured.Unstructured) bool { return same(other, o) }
		before, after := slices.IndexFunc(e.whole, is), slices.IndexFunc(live, is)
		if before >= 0 && after >= 0 && equalButStatus(e.whole[before], live[after]) {
			return fmt.Errorf("%s is the same after the break", fixtures.Describe(o))
		}
	}
	e.Objects = live
	r.settle(ctx, live...)
	return ctx.Err()
}

// settle waits a while for what was changed: a workload that cannot become ready may be the very point of a break.
func (r *runner) settle(ctx context.Context, objs ...*unstructured.Unstructured) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_ = r.fx.WaitReady(ctx, objs...)
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
		r.settle(ctx, after[0])
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
		o.SetGeneration(0)
		return o.Object
	}
	return fmt.Sprint(strip(a)) == fmt.Sprint(strip(b)) // maps print in key order
}
