// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"
)

// app is what the commands share: the streams, the arguments they were started with, and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	args           []string

	verbose   bool
	logFormat string
	resumed   *resumed // set when this process continues one that entered the network namespace
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "harness",
		Short: "Prove that a cluster still routes, balances, exposes and scales as Kubernetes and Istio promise",
		Long: `harness brings up a Kubernetes cluster with Istio (or takes one that is there), drives traffic through it, judges
the answers, and breaks each thing it checked to prove that the check can fail.

Exit codes: 0 all selected cases passed and at least one ran · 1 fail, blind or regression · 2 usage or configuration
· 3 could not judge (environment, load generator at its limit, leak, or a skip under --strict).`,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usage(didYouMean(args[0], commandNames(cmd), "run `harness --help` for the commands"), "unknown command %q", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.logFormat != "text" && a.logFormat != "json" {
				return usage("use text or json", "unknown --log-format %q", a.logFormat)
			}
			a.quietLibraries()
			var err error
			a.resumed, err = takeResumed()
			return err
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "say more: notes of running steps, passing controls, what libraries log")
	root.PersistentFlags().StringVar(&a.logFormat, "log-format", "text", "progress on standard error as text or json lines")

	root.AddCommand(
		a.e2eCommand(), a.upCommand(), a.downCommand(), a.statusCommand(),
		a.testCommand(), a.listCommand(), a.explainCommand(), a.coverageCommand(), a.reportCommand(), a.compareCommand(), a.loadCommand(), a.overheadCommand(),
		a.execCommand(),
		a.imageCommand(), a.schemaCommand(), a.versionCommand(), a.echoCommand(), a.workCommand(), a.adapterCommand(),
	)
	return root
}

func commandNames(root *cobra.Command) []string {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// logger writes what is not progress. Only -v shows anything below a warning.
func (a *app) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelWarn}
	if a.verbose {
		options.Level = slog.LevelDebug
	}
	if a.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(a.stderr, options))
	}
	return slog.New(slog.NewTextHandler(a.stderr, options))
}

// Output formats of lists.
const (
	outputTable = ""
	outputWide  = "wide"
	outputJSON  = "json"
	outputYAML  = "yaml"
)

// outputFlag adds -o to a command that prints a list.
func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", outputTable, "wide, json or yaml instead of a table")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{outputWide, outputJSON, outputYAML}, cobra.ShellCompDirectiveNoFileComp))
}

// printAs prints v as JSON or YAML, or calls table for the formats made for people.
func (a *app) printAs(output string, v any, table func(wide bool) error) error {
	switch output {
	case outputTable, outputWide:
		return table(output == outputWide)
	case outputJSON:
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	case outputYAML:
		b, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("print as YAML: %w", err)
		}
		_, err = a.stdout.Write(b)
		return err
	}
	return checkOutput(output)
}

// checkOutput refuses an unknown format; commands that work before they print call it first.
func checkOutput(output string) error {
	switch output {
	case outputTable, outputWide, outputJSON, outputYAML:
		return nil
	}
	return usage("use wide, json or yaml", "unknown --output %q", output)
}

// Colours, as the parameter of an SGR sequence.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	faint  = "2"
)

// style colours text for a terminal and leaves it alone elsewhere.
func (a *app) style(w io.Writer, color, text string) string {
	if !colored(w) {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// colored says whether w shows colours: a terminal, not a dumb one, NO_COLOR unset or empty.
func colored(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// animated says whether lines on w may be rewritten in place. A CI log keeps every byte, whatever it pretends to be.
func animated(w io.Writer) bool { return colored(w) && os.Getenv("CI") == "" }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// newTable aligns columns separated by tabs.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 4, 2, ' ', 0) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// quietLibraries sends what client libraries log to our own logger: their default writes to standard error as they like.
func (a *app) quietLibraries() {
	klog.SetSlogLogger(a.logger())
	slog.SetDefault(a.logger())
}
