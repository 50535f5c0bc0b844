// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import "math"

// tidy gives a copy that every format can render: no number that JSON cannot hold, no path that leaves the
// run's directory, and cases that are never null. A measurement that went wrong must not cost the whole report.
func tidy(r Run) Run {
	r.BringUp = each(r.BringUp, func(s *Step) bool { s.Seconds = finite(s.Seconds); return true })
	r.Totals.KillRate = finite(r.Totals.KillRate)
	r.Alpha = finite(r.Alpha)
	if r.Live != nil {
		d := *r.Live
		d.P50, d.P90, d.Max = finite(d.P50), finite(d.P90), finite(d.Max)
		r.Live = &d
	}
	r.Cases = append([]Case{}, r.Cases...)
	for i := range r.Cases {
		r.Cases[i] = tidyCase(r.Cases[i])
	}
	return r
}

func tidyCase(c Case) Case {
	c.Seconds = finite(c.Seconds)
	c.Phases = each(c.Phases, func(p *Phase) bool { p.Seconds = finite(p.Seconds); return true })
	c.Controls = each(c.Controls, func(k *Control) bool {
		k.Seconds, k.Live = finite(k.Seconds), finite(k.Live)
		return true
	})
	c.Samples = each(c.Samples, func(s *Sample) bool {
		s.Alpha, s.Power, s.Shift = finite(s.Alpha), finite(s.Power), finite(s.Shift)
		return true
	})
	c.Distribution = each(c.Distribution, func(b *Bar) bool {
		b.Count, b.Low, b.High, b.Expected = finite(b.Count), finite(b.Low), finite(b.High), finite(b.Expected)
		return true
	})
	// A path that leaves the run's directory was not stored by us and is never linked to.
	c.Evidence = each(c.Evidence, func(f *File) bool {
		if f.Path != "" && !isLocal(f.Path) {
			f.Path = ""
		}
		return true
	})
	c.Figures = each(c.Figures, func(f *Figure) bool { return isFinite(f.Value) })
	c.Timeline = each(c.Timeline, func(s *Series) bool {
		s.Points = each(s.Points, func(p *Point) bool { return isFinite(p.At) && isFinite(p.Value) })
		return true
	})
	c.Load = each(c.Load, func(l *Load) bool {
		l.Seconds = finite(l.Seconds)
		l.P50, l.P90, l.P99, l.Max = finiteOrNil(l.P50), finiteOrNil(l.P90), finiteOrNil(l.P99), finiteOrNil(l.Max)
		l.PerSecond = each(l.PerSecond, func(s *Second) bool { s.P99 = finiteOrNil(s.P99); return true })
		return true
	})
	return c
}

// each copies a slice, keeping the elements for which fix says true; nil stays nil.
func each[T any](in []T, fix func(*T) bool) []T {
	if in == nil {
		return nil
	}
	out := make([]T, 0, len(in))
	for _, v := range in {
		if fix(&v) {
			out = append(out, v)
		}
	}
	return out
}

// finite keeps the sense of an infinite bound ("no upper limit") in a form JSON can hold.
func finite(v float64) float64 {
	switch {
	case math.IsNaN(v):
		return 0
	case math.IsInf(v, 1):
		return math.MaxFloat64
	case math.IsInf(v, -1):
		return -math.MaxFloat64
	}
	return v
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func finiteOrNil(p *float64) *float64 {
	if p == nil || !isFinite(*p) {
		return nil
	}
	return p
}
