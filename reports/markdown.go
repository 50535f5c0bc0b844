// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
)

// markdownBudget bounds summary.md, in bytes: a job summary over 1 MiB is dropped whole, and it may share its page.
const markdownBudget = 960 << 10

// Markdown writes a summary for a CI job's page: the verdict, the cases that need action, then everything else as tables. It
// stays under 1 MiB; what did not fit is counted, and is in index.html.
func Markdown(w io.Writer, r Run) error {
	r = tidy(r)
	m := &budget{left: markdownBudget}
	m.add("# " + symbol(r.Verdict) + " " + mdText(firstLine(r.Verdict, "no verdict")) + ": " + mdText(firstLine(r.Reason, "no reason was given")) + "\n\n")
	m.add(mdTotals(r.Totals))
	m.add(mdFacts(r))
	mdTable(m, "## Outside any case\n\n", append(prefixed("error: ", r.Errors), prefixed("leak: ", r.Leaks)...),
		func(s string) string { return "- " + mdText(firstLine(s, "unnamed")) + "\n" })
	mdProblems(m, r.Cases)
	mdTable(m, "## Cases\n\n| | Case | Time | Controls | Reason |\n|---|---|---:|---|---|\n", byUrgency(r.Cases), func(c Case) string {
		return fmt.Sprintf("| %s %s | %s | %s | %s | %s |\n", symbol(outcome(c)), outcome(c), mdText(caseTitle(c)), seconds(c.Seconds),
			caughtOf(c.Controls), mdText(firstLine(c.Reason, "")))
	})
	var loads []Load
	for _, c := range r.Cases {
		for _, l := range c.Load {
			l.Name = c.Name + ": " + l.Name
			loads = append(loads, l)
		}
	}
	mdTable(m, "## Load\n\n| Load | Verdict | Planned | Sent | Unsent | Errors | p50 | p90 | p99 | max |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n", loads, func(l Load) string {
		return fmt.Sprintf("| %s | %s | %d | %d | %d | %d | %s | %s | %s | %s |\n", mdText(firstLine(l.Name, "")), mdText(firstLine(l.Verdict, "")),
			l.Planned, l.Sent, l.Unsent, l.Errors, millis(l.P50), millis(l.P90), millis(l.P99), millis(l.Max))
	})
	mdTable(m, "## Fields of the APIs\n\n| Kind | Asserted | Used only | Absent | Part asserted |\n|---|---:|---:|---:|---:|\n", r.Coverage, func(c Coverage) string {
		return fmt.Sprintf("| %s | %d | %d | %d | %s |\n", mdText(firstLine(c.Kind, "")), c.Asserted, c.Used, c.Absent, c.Part())
	})
	mdTable(m, "## Slowest cases\n\n| Case | Time | Where it went |\n|---|---:|---|\n", slowest(r.Cases), func(c Case) string {
		return fmt.Sprintf("| %s | %s | %s |\n", mdText(caseTitle(c)), seconds(c.Seconds), mdText(spent(c)))
	})
	mdTable(m, "## Bring-up\n\n| Step | Outcome | Time | Detail |\n|---|---|---:|---|\n", r.BringUp, func(s Step) string {
		name := mdText(firstLine(s.Name, "unnamed"))
		if s.Parent != "" {
			name = "&nbsp;&nbsp;" + name
		}
		return fmt.Sprintf("| %s | %s | %s | %s |\n", name, mdText(firstLine(s.Outcome, "")), seconds(s.Seconds), mdText(firstLine(s.Detail, "")))
	})
	if _, err := io.WriteString(w, m.String()); err != nil {
		return fmt.Errorf("write Markdown: %w", err)
	}
	return nil
}

// budget is text that never grows past a size; add is all or nothing.
type budget struct {
	strings.Builder
	left int
}

func (b *budget) add(s string) bool {
	if len(s) > b.left {
		return false
	}
	b.left -= len(s)
	b.WriteString(s)
	return true
}

// mdTable adds a heading and one text for each item while there is room, keeping enough of it to say how many were left out.
func mdTable[T any](b *budget, heading string, items []T, row func(T) string) {
	const note = 120 // bytes kept for the note
	if len(items) == 0 {
		return
	}
	if b.left -= note; !b.add(heading) {
		b.left += note
		return
	}
	for i, it := range items {
		if !b.add(row(it)) {
			b.left += note
			b.add(fmt.Sprintf("\n%d more did not fit here; they are in index.html.\n\n", len(items)-i))
			return
		}
	}
	b.left += note
	b.add("\n")
}

func mdTotals(t Totals) string {
	return fmt.Sprintf("| Pass | Fail | Blind | Error | Skip | Controls caught |\n|---:|---:|---:|---:|---:|---:|\n| %d | %d | %d | %d | %d | %d of %d |\n\n",
		t.Pass, t.Fail, t.Blind, t.Error, t.Skip, t.Caught, t.Controls)
}

func mdFacts(r Run) string {
	facts := []string{"seed " + fmt.Sprint(r.Seed)}
	for _, f := range fingerprint(r) {
		facts = append(facts, f.Name+" "+mdText(middle(f.Value, 200)))
	}
	facts = append(facts, certainty(r)...)
	if s := stamp(r.Started); s != "" {
		facts = append(facts, "started "+s)
	}
	return strings.Join(facts, " · ") + "\n\n"
}

// mdProblems shows the failing cases in full, in at most half of what is left: the tables after them must have room too.
func mdProblems(m *budget, cases []Case) {
	var bad []Case
	for _, c := range byUrgency(cases) {
		if rank(outcome(c)) < rank(Pass) {
			bad = append(bad, c)
		}
	}
	part := &budget{left: m.left / 2}
	mdTable(part, "## What needs action\n\n", bad, func(c Case) string {
		return fmt.Sprintf("<details><summary>%s %s <b>%s</b>: %s</summary>\n\n%s\n</details>\n\n", symbol(outcome(c)), outcome(c),
			html.EscapeString(caseTitle(c)), html.EscapeString(firstLine(c.Reason, "no reason was given")), fenced(Failure(c)))
	})
	m.add(part.String())
}

// fenced puts text into a code block whose fence is longer than any run of backticks inside.
func fenced(s string) string {
	longest, n := 2, 0
	for _, c := range s {
		if c != '`' {
			n = 0
			continue
		}
		n++
		longest = max(longest, n)
	}
	fence := strings.Repeat("`", longest+1)
	return fence + "text\n" + strings.TrimRight(s, "\n") + "\n" + fence + "\n"
}

// mdEscape escapes everything that means something in Markdown, in a table, or to a forge (mentions, issue numbers). It is not
// for the inside of HTML tags, where Markdown's backslashes would be shown.
var mdEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "#", "&#35;", "@", "&#64;", "$", "&#36;", "\n", " ",
	`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "~", `\~`, "|", `\|`)

func mdText(s string) string { return mdEscape.Replace(s) }

func symbol(outcome string) string {
	switch outcome {
	case Pass, Passed:
		return "✓"
	case Fail, Failed:
		return "✗"
	case Blind:
		return "◌"
	case Skip:
		return "–"
	}
	return "!"
}

func caughtOf(controls []Control) string {
	if len(controls) == 0 {
		return "–"
	}
	n := 0
	for _, k := range controls {
		if k.Outcome == Caught {
			n++
		}
	}
	return fmt.Sprintf("%d of %d", n, len(controls))
}

// byUrgency is a copy with what needs action first, otherwise in order of running.
func byUrgency(cases []Case) []Case {
	out := slices.Clone(cases)
	slices.SortStableFunc(out, func(a, b Case) int { return rank(outcome(a)) - rank(outcome(b)) })
	return out
}

func prefixed(prefix string, in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = prefix + s
	}
	return out
}
