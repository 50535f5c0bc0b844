// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// consoleCases is how many cases the terminal lists one by one; of more, only those that did not pass.
const consoleCases = 60

// Console writes the final summary for a terminal: a table of cases, what needs action in full, and the verdict last, where
// the reader's eye is. Colours are used only when asked for; every outcome is also a word and a symbol.
func Console(w io.Writer, r Run, color bool) error {
	r = tidy(r)
	var b strings.Builder
	paint := func(outcome, s string) string {
		if !color {
			return s
		}
		return ansiColor(outcome) + s + "\x1b[0m"
	}
	consoleTable(&b, r.Cases, paint)
	for _, c := range byUrgency(r.Cases) {
		if rank(outcome(c)) >= rank(Pass) {
			break
		}
		first, rest, _ := strings.Cut(Failure(c), "\n")
		fmt.Fprintf(&b, "\n%s\n%s", paint(outcome(c), symbol(outcome(c))+" "+first), rest)
	}
	if outside := append(prefixed("error: ", r.Errors), prefixed("leak: ", r.Leaks)...); len(outside) > 0 {
		b.WriteString("\n")
		for _, s := range outside {
			fmt.Fprintf(&b, "%s\n", paint(Error, "! "+firstLine(s, "unnamed")))
		}
	}
	t := r.Totals
	fmt.Fprintf(&b, "\n%d pass, %d fail, %d blind, %d error, %d skip; %d of %d controls caught", t.Pass, t.Fail, t.Blind, t.Error, t.Skip, t.Caught, t.Controls)
	if d := r.Ended.Sub(r.Started); d > 0 && !r.Started.IsZero() {
		fmt.Fprintf(&b, "; %s", seconds(d.Seconds()))
	}
	fmt.Fprintf(&b, "; seed %d\n", r.Seed)
	if facts := certainty(r); len(facts) > 0 {
		fmt.Fprintf(&b, "%s\n", strings.Join(facts, "; "))
	}
	verdict := firstLine(r.Verdict, "no verdict")
	fmt.Fprintf(&b, "%s: %s\n", paint(r.Verdict, symbol(r.Verdict)+" "+strings.ToUpper(verdict)), firstLine(r.Reason, "no reason was given"))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

func consoleTable(b *strings.Builder, cases []Case, paint func(outcome, s string) string) {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	t.AppendHeader(table.Row{"", "Case", "Time", "Controls", "Reason"})
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 3, Align: text.AlignRight, AlignHeader: text.AlignRight}})
	t.SuppressTrailingSpaces()
	rows, hidden := 0, 0
	for _, c := range cases {
		o := outcome(c)
		if o == Pass && len(cases) > consoleCases {
			hidden++
			continue
		}
		rows++
		reason := ""
		if o != Pass {
			reason = middle(firstLine(c.Reason, "no reason was given"), 90)
		}
		t.AppendRow(table.Row{paint(o, fmt.Sprintf("%s %s", symbol(o), o)), middle(caseTitle(c), 60), seconds(c.Seconds), caughtOf(c.Controls), reason})
	}
	if rows > 0 {
		b.WriteString(t.Render() + "\n")
	}
	if hidden > 0 {
		fmt.Fprintf(b, "%s that passed not listed\n", count(hidden, "case"))
	}
}

func ansiColor(outcome string) string {
	switch outcome {
	case Pass, Passed:
		return "\x1b[32m"
	case Fail, Failed:
		return "\x1b[31m"
	case Blind:
		return "\x1b[35m"
	case Skip:
		return "\x1b[2m"
	}
	return "\x1b[33m"
}
