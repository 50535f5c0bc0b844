// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"harness.example/harness/fixtures"
	"harness.example/harness/suites"
)

func (a *app) explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [CASE]",
		Short: "Say what a case proves, how it is judged, how it is proved able to fail, and how to run it",
		Long: "explain prints everything about a case. Without one it lists every judgement that chance can fool, with its n, alpha, power and the\n" +
			"smallest shift it detects, and the chance that a healthy cluster fails a run of all cases.",
		Args: maxArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.explainSamples(suites.All())
			}
			c, err := findCase(args[0])
			if err != nil {
				return err
			}
			return a.explain(c)
		},
		ValidArgsFunction: completeCases,
	}
	return cmd
}

// explainSamples lists what chance can fool.
func (a *app) explainSamples(cases []suites.Case) error {
	tw := newTable(a.stdout)
	fmt.Fprintln(tw, "CASE\tN\tALPHA\tPOWER\tSHIFT\tOF")
	exact, alpha := 0, 0.0
	for _, c := range cases {
		if len(c.Samples) == 0 {
			exact++
		}
		alpha += c.Alpha()
		for _, s := range c.Samples {
			fmt.Fprintf(tw, "%s\t%d\t%.2g\t%.6g\t%.3g\t%s\n", c.Name, s.N, s.Alpha, s.Power, s.Shift, s.Of)
		}
	}
	fmt.Fprintf(tw, "\nThe other %d of %d cases are exact. A healthy cluster fails a run of all of them by bad luck with a chance of at most %.2g.\n", exact, len(cases), alpha)
	return tw.Flush()
}

func (a *app) explain(c suites.Case) error {
	file := path.Join("cases", c.Fixture)
	manifest, err := fs.ReadFile(fixtures.FS, file)
	if err != nil {
		return fmt.Errorf("explain %s: %w", c.Name, err)
	}
	info := infoOf(c)
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  %s\n", c.Name, c.Doc)
	fmt.Fprintf(&b, "\nHow it is judged\n  %s\n", info.Judged)
	for _, s := range c.Samples {
		fmt.Fprintf(&b, "  sample: %s: n %d, alpha %g, power %.8g, smallest shift seen %.3g\n", s.Of, s.N, s.Alpha, s.Power, s.Shift)
	}
	if len(c.Samples) == 0 {
		fmt.Fprintf(&b, "  sample: none: nothing in the verdict is left to chance, alpha 0\n")
	}
	fmt.Fprintf(&b, "\nHow it is proved able to fail: after a pass each of these is done to the live fixture, and the check must fail for the reason given\n")
	for _, k := range info.Controls {
		fmt.Fprintf(&b, "  %s\n    must say: %s\n", k.Break, k.Fails)
	}
	fmt.Fprintf(&b, "\nWhat it covers\n")
	for _, field := range info.Covers {
		fmt.Fprintf(&b, "  %s\n", field)
	}
	if len(info.Needs) > 0 {
		fmt.Fprintf(&b, "\nWhat it needs of the cluster (else it is skipped)\n  %s\n", strings.Join(info.Needs, ", "))
	}
	fmt.Fprintf(&b, "\nLabels\n  %s\n", pairs(info.Labels))
	fmt.Fprintf(&b, "\nRun it\n  harness test '^%s$'\n", c.Name)
	fmt.Fprintf(&b, "\nManifest: fixtures/%s\n%s", file, manifest)
	_, err = fmt.Fprint(a.stdout, b.String())
	return err
}
