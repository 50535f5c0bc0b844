// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Metrics writes the run as gauges in OpenMetrics text, which node_exporter's textfile collector reads as well.
func Metrics(w io.Writer, r Run) error {
	r = tidy(r)
	m := &metrics{}
	m.family("harness_run_info", "The run and what it ran on.")
	info := []string{"run", r.ID, "name", r.Name, "verdict", r.Verdict}
	for _, f := range fingerprint(r) {
		info = append(info, strings.ToLower(f.Name), f.Value)
	}
	m.sample(1, info...)
	m.family("harness_run_exit_code", "Exit code of the run: 0 passed, 1 failed, 3 could not be judged.")
	m.sample(float64(r.Exit))
	if !r.Ended.IsZero() {
		m.family("harness_run_ended_timestamp_seconds", "When the run ended.")
		m.sample(float64(r.Ended.Unix()))
	}
	m.family("harness_cases", "Attempts at cases by outcome.")
	t := r.Totals
	for _, o := range []struct {
		name string
		n    int
	}{{Pass, t.Pass}, {Fail, t.Fail}, {Blind, t.Blind}, {Error, t.Error}, {Skip, t.Skip}} {
		m.sample(float64(o.n), "outcome", o.name)
	}
	m.family("harness_controls", "Controls that were run.")
	m.sample(float64(t.Controls))
	m.family("harness_controls_caught", "Controls that were caught.")
	m.sample(float64(t.Caught))
	m.family("harness_leaks", "Things the run could not remove.")
	m.sample(float64(len(r.Leaks)))
	worst := byName(r.Cases)
	m.family("harness_case_seconds", "Time of a case, of its worst attempt when it was repeated.")
	for _, a := range worst {
		m.sample(a[0].Seconds, "case", a[0].Name, "outcome", outcome(a[0]))
	}
	m.family("harness_figure", "Figures measured by cases.")
	for _, a := range worst {
		for _, f := range unique(a[0].Figures, func(f Figure) string { return f.Name }) {
			m.sample(f.Value, "case", a[0].Name, "figure", f.Name, "unit", f.Unit)
		}
	}
	m.family("harness_load_latency_seconds", "Latency of load runs from the scheduled start of each request.")
	for _, a := range worst {
		for _, l := range unique(a[0].Load, func(l Load) string { return l.Name }) {
			for _, q := range []struct {
				name string
				ms   *float64
			}{{"0.5", l.P50}, {"0.9", l.P90}, {"0.99", l.P99}, {"1", l.Max}} {
				if q.ms != nil {
					m.sample(*q.ms/1000, "case", a[0].Name, "load", l.Name, "q", q.name)
				}
			}
		}
	}
	m.family("harness_bringup_step_seconds", "Time of the steps of bringing the environment up.")
	for _, s := range unique(r.BringUp, func(s Step) string { return s.Parent + "\x00" + s.Name }) {
		m.sample(s.Seconds, "parent", s.Parent, "step", s.Name)
	}
	m.WriteString("# EOF\n")
	if _, err := io.WriteString(w, m.String()); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}

// metrics writes a family's head with its first sample, since a reader may refuse an empty family.
type metrics struct {
	strings.Builder
	name, help string
}

func (m *metrics) family(name, help string) { m.name, m.help = name, help }

func (m *metrics) sample(v float64, labels ...string) {
	if m.help != "" {
		fmt.Fprintf(m, "# HELP %s %s\n# TYPE %s gauge\n", m.name, m.help, m.name)
		m.help = ""
	}
	m.WriteString(m.name)
	sep := "{"
	for i := 0; i < len(labels); i += 2 {
		fmt.Fprintf(m, `%s%s="%s"`, sep, labels[i], labelEscape.Replace(middle(oneLine(labels[i+1]), 300)))
		sep = ","
	}
	if sep == "," {
		m.WriteString("}")
	}
	m.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

var labelEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// unique keeps the last of those with the same name: two samples of one series make a whole file unreadable.
func unique[T any](in []T, name func(T) string) []T {
	at := map[string]int{}
	var out []T
	for _, v := range in {
		k := name(v)
		if i, ok := at[k]; ok {
			out[i] = v
			continue
		}
		at[k] = len(out)
		out = append(out, v)
	}
	return out
}
