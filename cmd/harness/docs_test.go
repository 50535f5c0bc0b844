// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const root = "../.."

// pages are the Markdown files of the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "testdata" || d.Name() == "harness-reports"):
			return filepath.SkipDir
		case filepath.Ext(path) == ".md":
			text, err := os.ReadFile(path)
			out[path] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 5 {
		t.Fatalf("found %d pages, so the search is broken", len(out))
	}
	return out
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	fenced  = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```")
	inline  = regexp.MustCompile("`(harness [^`\n]+)`")
	target  = regexp.MustCompile("(?m)(?:^|`|\\$ )make ([a-z0-9]+)")
)

func TestLinksResolve(t *testing.T) {
	for page, text := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			to := page
			if file != "" {
				to = filepath.Join(filepath.Dir(page), filepath.FromSlash(file))
			}
			content, err := os.ReadFile(to)
			if err != nil {
				if info, statErr := os.Stat(to); statErr != nil || !info.IsDir() {
					t.Errorf("%s links to %s, which is not there", page, m[1])
				}
				continue
			}
			if anchor != "" && !hasAnchor(string(content), anchor) {
				t.Errorf("%s links to %s, but there is no such heading", page, m[1])
			}
		}
	}
}

// hasAnchor knows how heading lines become anchors.
func hasAnchor(text, anchor string) bool {
	for _, h := range heading.FindAllStringSubmatch(text, -1) {
		slug := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(h[1]), "")
		if strings.ReplaceAll(slug, " ", "-") == anchor {
			return true
		}
	}
	return false
}

// TestCommandsExist looks at every harness command and make target that the pages name.
func TestCommandsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for page, text := range pages(t) {
		var lines []string
		for _, block := range fenced.FindAllStringSubmatch(text, -1) {
			lines = append(lines, strings.Split(strings.ReplaceAll(block[1], "\\\n", " "), "\n")...)
		}
		for _, m := range inline.FindAllStringSubmatch(text, -1) {
			lines = append(lines, m[1])
		}
		for _, line := range lines {
			line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
			line = strings.TrimPrefix(line, "bin/")
			if !strings.HasPrefix(line, "harness ") {
				continue
			}
			found++
			if problem := checkCommand(strings.Fields(line)[1:]); problem != "" {
				t.Errorf("%s names `%s`: %s", page, line, problem)
			}
		}
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `:.*## `).Match(makefile) {
				t.Errorf("%s names make %s, which the Makefile does not have", page, m[1])
			}
		}
	}
	if found < 10 {
		t.Errorf("found only %d commands in the pages, so the search is broken", found)
	}
}

// checkCommand says what is wrong with a documented command line: its command and its flags must exist.
func checkCommand(words []string) string {
	top := (&app{stdout: io.Discard, stderr: io.Discard}).root()
	top.InitDefaultCompletionCmd()
	cmd, rest, err := top.Find(words)
	if err != nil {
		return err.Error()
	}
	if cmd.Parent() == nil && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && rest[0] != "…" && rest[0] != "COMMAND" {
		return "no command " + rest[0]
	}
	cmd.InitDefaultHelpFlag()
	for _, word := range rest {
		if word == "--" || word == "#" || word == "|" {
			break
		}
		name, isLong := strings.CutPrefix(strings.Trim(word, "[]"), "--")
		name, _, _ = strings.Cut(name, "=")
		if isLong && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
			return "no flag --" + name
		}
	}
	return ""
}

// reference is docs/CLI.md.
func reference() []byte {
	var b bytes.Buffer
	top := (&app{stdout: io.Discard, stderr: io.Discard}).root()
	b.WriteString("# Command line\n\nWritten by `make docs` from the commands themselves; a test compares.\n\n" + top.Long + "\n\n## Flags of every command\n")
	flagTable(&b, top.PersistentFlags())
	for _, cmd := range top.Commands() {
		if !cmd.IsAvailableCommand() || cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		describeCommand(&b, cmd)
	}
	b.WriteString("\n## harness completion\n\nPrint a completion script: `harness completion bash`, and likewise for zsh, fish and powershell.\n")
	return b.Bytes()
}

func describeCommand(b *bytes.Buffer, cmd *cobra.Command) {
	b.WriteString("\n## " + cmd.CommandPath() + "\n\n" + cmd.Short + ".\n\n```\n" + cmd.UseLine() + "\n```\n")
	if cmd.Long != "" {
		b.WriteString("\n" + cmd.Long + "\n")
	}
	if cmd.Example != "" {
		b.WriteString("\n```\n" + cmd.Example + "\n```\n")
	}
	flagTable(b, cmd.LocalNonPersistentFlags())
}

func flagTable(b *bytes.Buffer, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	b.WriteString("\n| flag | default | |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		value := ""
		if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" {
			value = "`" + f.DefValue + "`"
		}
		b.WriteString("| " + name + " | " + value + " | " + strings.ReplaceAll(f.Usage, "|", "\\|") + " |\n")
	})
}
