// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"harness.example/harness/suites"
)

// selectionFlags narrow the cases, the same way for list, test and e2e.
type selectionFlags struct {
	labels, skip []string
}

func (s *selectionFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&s.labels, "label", "l", nil, "only cases with this label, as key=value; repeatable, all must match")
	cmd.Flags().StringArrayVar(&s.skip, "skip", nil, "leave out cases this pattern matches; repeatable")
	cmd.ValidArgsFunction = completeCases
	_ = cmd.RegisterFlagCompletionFunc("skip", completeCases)
	_ = cmd.RegisterFlagCompletionFunc("label", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var pairs []string
		for _, c := range suites.All() {
			for k, v := range c.AllLabels() {
				pairs = append(pairs, k+"="+v)
			}
		}
		slices.Sort(pairs)
		return slices.Compact(pairs), cobra.ShellCompDirectiveNoFileComp
	})
}

func completeCases(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var out []string
	for _, c := range suites.All() {
		out = append(out, c.Name+"\t"+c.Doc)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// cases are those that patterns and flags leave. Every mistake is one of usage: a selection that is empty, or a pattern that
// matches nothing, must not look like a pass.
func (s *selectionFlags) cases(patterns []string) ([]suites.Case, error) {
	labels := map[string]string{}
	for _, l := range s.labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" || value == "" {
			return nil, usage("write a label as key=value, for example --label resource=service", "--label %q is no key=value", l)
		}
		if old, twice := labels[key]; twice && old != value {
			return nil, usage("all labels must match, so one key can have one value", "--label %s is given as %s and as %s", key, old, value)
		}
		labels[key] = value
	}
	all := suites.All()
	selected, err := suites.Selection{Patterns: patterns, Labels: labels, Skip: s.skip}.Select(all)
	if err != nil {
		hint := "run `harness list` for the cases"
		if errors.Is(err, suites.ErrEmpty) {
			for _, p := range slices.Concat(patterns, s.skip) {
				if near := nearest(strings.TrimPrefix(p, "!"), names(all)); len(near) > 0 {
					hint = "did you mean " + strings.Join(near, " or ") + "? " + hint
					break
				}
			}
		}
		return nil, usage(hint, "%w", err)
	}
	return selected, nil
}

func names(cases []suites.Case) []string {
	out := make([]string, len(cases))
	for i, c := range cases {
		out[i] = c.Name
	}
	return out
}

// findCase takes the name in any letter case.
func findCase(name string) (suites.Case, error) {
	all := suites.All()
	for _, c := range all {
		if strings.EqualFold(c.Name, name) {
			return c, nil
		}
	}
	return suites.Case{}, usage(didYouMean(name, names(all), "run `harness list` for the cases"), "no case %q", name)
}

// caseInfo is a case as list and explain print it.
type caseInfo struct {
	Name     string            `json:"name"`
	Resource string            `json:"resource"`
	Doc      string            `json:"doc"`
	Fixture  string            `json:"fixture"`
	Needs    []string          `json:"needs,omitempty"`
	Labels   map[string]string `json:"labels"`
	Covers   []string          `json:"covers"`
	Judged   string            `json:"judged"`
	Controls []controlInfo     `json:"controls"`
}

type controlInfo struct {
	Break string `json:"break"`
	Fails string `json:"fails"`
}

func infoOf(c suites.Case) caseInfo {
	info := caseInfo{
		Name: c.Name, Resource: c.Resource(), Doc: c.Doc, Fixture: c.Fixture, Labels: c.AllLabels(), Covers: c.Covers, Judged: c.Judged,
	}
	for _, n := range c.Needs {
		info.Needs = append(info.Needs, string(n))
	}
	for _, k := range c.Controls {
		info.Controls = append(info.Controls, controlInfo{k.Break, k.Fails})
	}
	return info
}

// printCases prints a list of cases.
func (a *app) printCases(output string, cases []suites.Case) error {
	infos := make([]caseInfo, len(cases))
	for i, c := range cases {
		infos[i] = infoOf(c)
	}
	return a.printAs(output, infos, func(wide bool) error {
		tw := newTable(a.stdout)
		header := "CASE\tCONTROLS\tWHAT IT PROVES"
		if wide {
			header = "CASE\tCONTROLS\tNEEDS\tLABELS\tWHAT IT PROVES"
		}
		fmt.Fprintln(tw, header)
		for _, c := range infos {
			if wide {
				fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\n", c.Name, len(c.Controls), dash(strings.Join(c.Needs, ",")), pairs(c.Labels), c.Doc)
			} else {
				fmt.Fprintf(tw, "%s\t%d\t%s\n", c.Name, len(c.Controls), c.Doc)
			}
		}
		return tw.Flush()
	})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func pairs(m map[string]string) string {
	var out []string
	for _, k := range sortedKeys(m) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}
