// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"harness.example/harness/cluster"
)

// heartbeat is how long a step may run in a plain log without a line that says so: a silent log looks like a hung one.
const heartbeat = 30 * time.Second

// progress shows steps as they run, on standard error. Steps may overlap and report from several goroutines. On a terminal the
// last line shows what runs now; elsewhere every start and end is a line of its own.
type progress struct {
	mu      sync.Mutex
	w       io.Writer
	live    bool
	verbose bool
	log     *slog.Logger // set for --log-format json: everything goes there
	style   func(color, text string) string
	running []*running
	drawn   bool
	steps   []cluster.Event // those that ended, in order of their ends
	now     func() time.Time
	stop    chan struct{}
	stopped sync.WaitGroup
}

// running is a step that has begun and not ended.
type running struct {
	step, parent, note string
	since, told        time.Time
}

// progress starts showing; the caller must close it.
func (a *app) progress() *progress {
	p := &progress{
		w: a.stderr, live: animated(a.stderr) && a.logFormat != "json", verbose: a.verbose, now: time.Now, stop: make(chan struct{}),
		style: func(color, text string) string { return a.style(a.stderr, color, text) },
	}
	if a.logFormat == "json" {
		p.log = slog.New(slog.NewJSONHandler(a.stderr, nil))
	}
	p.stopped.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.tick()
			}
		}
	})
	return p
}

// close ends the live line. It may be called once.
func (p *progress) close() {
	close(p.stop)
	p.stopped.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

// clear takes the live line away, before another process writes to the same terminal.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

// ended are the steps that are over, in the order of their ends.
func (p *progress) ended() []cluster.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.steps)
}

// adopt takes over the steps of the process that this one continues; they were shown there.
func (p *progress) adopt(steps []cluster.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps = append(slices.Clone(steps), p.steps...)
}

// event is a cluster.Progress.
func (p *progress) event(e cluster.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.At.IsZero() {
		e.At = p.now()
	}
	if p.log != nil {
		p.logEvent(e)
	}
	i := slices.IndexFunc(p.running, func(r *running) bool { return r.step == e.Step && r.parent == e.Parent })
	switch e.State {
	case cluster.Started:
		if i < 0 {
			p.running = append(p.running, &running{step: e.Step, parent: e.Parent, note: e.Detail, since: e.At, told: p.now()})
		}
		if !p.live {
			p.println(p.indent(e.Parent) + "• " + e.Step + " …" + suffix(e.Detail))
		}
	case cluster.Note:
		if i >= 0 {
			p.running[i].note = e.Detail
		}
		if p.verbose || i < 0 {
			p.println(p.indent(e.Parent) + "  " + p.style(faint, e.Step+": "+e.Detail))
		}
	default:
		if i >= 0 {
			if e.Elapsed == 0 {
				e.Elapsed = e.At.Sub(p.running[i].since)
			}
			p.running = slices.Delete(p.running, i, i+1)
		}
		p.steps = append(p.steps, e)
		p.println(p.indent(e.Parent) + p.endLine(e))
	}
	p.draw()
}

// endLine is the line of a step that is over.
func (p *progress) endLine(e cluster.Event) string {
	took := fmt.Sprintf("(%.1fs)", e.Elapsed.Seconds())
	if p.live {
		took = fmt.Sprintf("  %.1fs", e.Elapsed.Seconds())
	}
	switch e.State {
	case cluster.Failed:
		return p.style(red, "✗") + " " + e.Step + " " + took + suffix(e.Detail)
	case cluster.Skipped:
		return p.style(faint, "-") + " " + e.Step + " " + p.style(faint, "skipped") + suffix(e.Detail)
	}
	return p.style(green, "✓") + " " + e.Step + " " + p.style(faint, took) + suffix(e.Detail)
}

func (p *progress) logEvent(e cluster.Event) {
	level := slog.LevelInfo
	if e.State == cluster.Failed {
		level = slog.LevelError
	}
	attrs := []any{"step", e.Step, "state", string(e.State)}
	if e.Parent != "" {
		attrs = append(attrs, "parent", e.Parent)
	}
	if e.Elapsed > 0 {
		attrs = append(attrs, "seconds", e.Elapsed.Seconds())
	}
	if e.Detail != "" {
		attrs = append(attrs, "detail", e.Detail)
	}
	p.log.Log(context.Background(), level, "step", attrs...)
}

// line prints one lasting line above the live one.
func (p *progress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if p.log != nil {
		p.log.Info(strings.TrimSpace(text))
		return
	}
	p.println(text)
	p.draw()
}

// tick redraws the live line, or says that a long step is still running.
func (p *progress) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live {
		p.draw()
		return
	}
	now := p.now()
	for _, r := range p.running {
		if now.Sub(r.told) < heartbeat {
			continue
		}
		r.told = now
		what := r.step
		if r.note != "" {
			what += ": " + r.note
		}
		took := now.Sub(r.since).Truncate(time.Second)
		if p.log != nil {
			p.log.Info("still running", "step", r.step, "seconds", took.Seconds(), "detail", r.note)
			continue
		}
		p.println(fmt.Sprintf("%s• %s, %.0fs", p.indent(r.parent), what, took.Seconds()))
	}
}

func (p *progress) println(text string) {
	if p.log != nil {
		return
	}
	p.erase()
	fmt.Fprintln(p.w, text)
}

func (p *progress) erase() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// draw shows the running steps that have no running part of their own: those are what is being waited for.
func (p *progress) draw() {
	if !p.live || len(p.running) == 0 {
		return
	}
	var parts []string
	for _, r := range p.running {
		if slices.ContainsFunc(p.running, func(o *running) bool { return o.parent == r.step && o != r }) {
			continue
		}
		text := r.step
		if r.note != "" {
			text += ": " + r.note
		}
		parts = append(parts, fmt.Sprintf("%s %.0fs", text, p.now().Sub(r.since).Seconds()))
	}
	width := 80
	if f, ok := p.w.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width = w
		}
	}
	p.erase()
	fmt.Fprint(p.w, cut(" • "+strings.Join(parts, " · "), width-1))
	p.drawn = true
}

func (p *progress) indent(parent string) string {
	if parent != "" {
		return "   "
	}
	return " "
}

// cut keeps the first n characters, and says that there were more.
func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:max(0, n-1)]) + "…"
	}
	return s
}

func suffix(detail string) string {
	if detail == "" {
		return ""
	}
	return "  " + detail
}

// timings prints how long each step took, once all have ended.
func (p *progress) timings() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log == nil { // JSON lines have said it with each step
		p.erase()
		timings(p.w, p.steps)
	}
}

// timings prints how long each step took, parts under their step.
func timings(w io.Writer, steps []cluster.Event) {
	if len(steps) == 0 {
		return
	}
	fmt.Fprintln(w, "\nTime of each step (steps may overlap):")
	tw := newTable(w)
	var rows func(parent, indent string)
	rows = func(parent, indent string) {
		for _, e := range steps {
			if e.Parent != parent || e.Step == parent {
				continue
			}
			note := ""
			if e.State != cluster.Done {
				note = string(e.State)
			}
			fmt.Fprintf(tw, "  %s%s\t%8.1fs\t%s\n", indent, e.Step, e.Elapsed.Seconds(), note)
			rows(e.Step, indent+"  ")
		}
	}
	rows("", "")
	_ = tw.Flush()
}
