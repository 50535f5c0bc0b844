// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a failure block. Every part has a share of its own, so that a talkative part cannot push out the last line.
const (
	blockLines = 25
	blockWidth = 200 // bytes in one line
	wantLines  = 2   // of Want, and of Got
	barLines   = 5
	firstFile  = 4 // lines of the first piece of evidence
	ctlLines   = 2
	loadLines  = 2
)

// Failure tells about one case in at most 25 lines of plain text, the same on a terminal, in JUnit, Markdown and HTML:
// what was seen and expected, the distribution with whatever lies outside its band first, how it was judged, controls that
// were not caught, the first piece of evidence, load that did not reach its plan, where the time went, and last how to run
// just this case again. The text has no control characters; a format still escapes it in its own way.
func Failure(c Case) string {
	b := &block{}
	b.line("%s %s: %s", strings.ToUpper(outcome(c)), caseTitle(c), firstLine(c.Reason, "no reason was given"))
	b.quote("want", c.Want, wantLines)
	b.quote("got", c.Got, wantLines)
	b.bars(c.Distribution)
	if c.Judged != "" {
		b.line("  judged  %s", oneLine(c.Judged))
	}
	b.controls(c.Controls)
	b.evidence(c.Evidence)
	b.load(c.Load)
	if len(c.Phases) > 0 {
		b.line("  time    %s", phases(c.Phases))
	}
	if c.Rerun != "" {
		b.line("  rerun   %s", oneLine(c.Rerun))
	}
	return strings.Join(b.lines, "\n") + "\n"
}

func caseTitle(c Case) string {
	name := firstLine(c.Name, "unnamed case")
	if c.Attempt > 1 {
		name += fmt.Sprintf(" (attempt %d)", c.Attempt)
	}
	return name
}

type block struct{ lines []string }

func (b *block) line(format string, args ...any) {
	b.lines = append(b.lines, strings.TrimRight(middle(fmt.Sprintf(format, args...), blockWidth), " "))
}

func (b *block) quote(label, s string, most int) {
	if strings.TrimSpace(s) == "" {
		return
	}
	for i, l := range firstLines(s, most) {
		if i > 0 {
			label = ""
		}
		b.line("  %-7s %s", label, l)
	}
}

func (b *block) bars(bars []Bar) {
	if len(bars) == 0 {
		return
	}
	bounded := hasBand(bars)
	if bounded {
		bars = slices.Clone(bars)
		slices.SortStableFunc(bars, func(x, y Bar) int { return outsideFirst(x) - outsideFirst(y) })
		b.line("  %-32s %9s %10s  %s", "received by", "count", "expected", "band")
	} else {
		b.line("  %-32s %9s", "received by", "count")
	}
	for i, bar := range bars {
		if i == barLines {
			b.line("  … and %d more", len(bars)-i)
			return
		}
		name := middle(firstLine(bar.Name, "unnamed"), 32)
		if bounded {
			b.line("  %-32s %9s %10s  %s", name, num(bar.Count), num(bar.Expected), band(bar))
		} else {
			b.line("  %-32s %9s", name, num(bar.Count))
		}
	}
}

func outsideFirst(b Bar) int {
	if b.Outside() {
		return 0
	}
	return 1
}

// hasBand says whether any expectation was stated; without one there is nothing to lie outside of.
func hasBand(bars []Bar) bool {
	return slices.ContainsFunc(bars, func(b Bar) bool { return b.Low != 0 || b.High != 0 || b.Expected != 0 })
}

func band(b Bar) string {
	s := fmt.Sprintf("[%s, %s]", num(b.Low), num(b.High))
	if b.Outside() {
		s += "  ✗ outside"
	}
	return s
}

func (b *block) controls(controls []Control) {
	n := 0
	for _, k := range controls {
		if k.Outcome == Caught {
			continue
		}
		if n++; n > ctlLines {
			continue
		}
		said := firstLine(k.Got, "nothing")
		if k.Reason != "" {
			said += " (" + firstLine(k.Reason, "") + ")"
		}
		b.line("  control %s: %s, expected the check to say %q, it said %s",
			oneLine(k.Break), firstLine(k.Outcome, "not run"), oneLine(k.Fails), said)
	}
}

func (b *block) evidence(files []File) {
	shown := -1
	for i, f := range files {
		if strings.TrimSpace(f.Body) == "" {
			continue
		}
		b.line("  %s:", firstLine(f.Name, "evidence"))
		for _, l := range firstLines(f.Body, firstFile) {
			b.line("    | %s", l)
		}
		shown = i
		break
	}
	var rest []string
	for i, f := range files {
		if i == shown && f.Path == "" {
			continue
		}
		if f.Path != "" {
			rest = append(rest, oneLine(f.Path))
		} else {
			rest = append(rest, oneLine(f.Name))
		}
	}
	if len(rest) > 0 {
		b.line("  files   %s", strings.Join(rest, "  "))
	}
}

func (b *block) load(loads []Load) {
	n := 0
	for _, l := range loads {
		if l.Verdict == "PASS" || n == loadLines {
			continue
		}
		n++
		b.line("  load    %s: %s, %d planned, %d sent, %d unsent, %d errors: %s", firstLine(l.Name, "unnamed"),
			firstLine(l.Verdict, "no verdict"), l.Planned, l.Sent, l.Unsent, l.Errors, firstLine(l.Reason, "no reason was given"))
	}
}

// firstLines gives at most n lines that are not blank, without their common tail of spaces; a note stands for the rest.
func firstLines(s string, n int) []string {
	var out []string
	all := strings.Split(strings.TrimSpace(clean(head(s, mostText))), "\n")
	for i, l := range all {
		l = strings.ReplaceAll(strings.TrimRight(l, " \t"), "\t", "  ")
		if len(out) == n-1 && i < len(all)-1 {
			return append(out, middle(l, 140)+fmt.Sprintf(" … (%d more lines)", len(all)-1-i))
		}
		out = append(out, l)
	}
	return out
}

func phases(ps []Phase) string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = firstLine(p.Name, "?") + " " + seconds(p.Seconds)
	}
	return strings.Join(parts, " · ")
}

// num writes whole numbers whole and others with as many digits as a reader can use.
func num(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	switch a := math.Abs(v); {
	case a >= 1e15 || a < 1e-3:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// seconds writes a duration given in seconds.
func seconds(s float64) string {
	switch {
	case s >= 119.5:
		return fmt.Sprintf("%d min %02d s", int(math.Min(s+0.5, 1e9))/60, int(math.Min(s+0.5, 1e9))%60)
	case s >= 10:
		return fmt.Sprintf("%.0f s", s)
	case s >= 1:
		return fmt.Sprintf("%.1f s", s)
	}
	return fmt.Sprintf("%.0f ms", s*1000)
}

func millis(p *float64) string {
	if p == nil {
		return "–"
	}
	return num(*p) + " ms"
}
