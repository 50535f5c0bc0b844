// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// Names in a run's directory, and beside it.
const (
	reportFile  = "report.json"
	journalFile = "events.jsonl"
	sumsFile    = "SHA256SUMS"
	casesDir    = "cases"
	historyFile = "history.jsonl"
	latestLink  = "latest"
)

// formats lists what Write can render, in order; the report itself comes first and is always written.
var formats = []struct {
	name, file string
	render     func(io.Writer, Run) error
}{
	{"json", reportFile, JSON},
	{"junit", "junit.xml", JUnit},
	{"markdown", "summary.md", Markdown},
	{"html", "index.html", HTML},
	{"metrics", "metrics.prom", Metrics},
}

// Formats names what Write accepts.
func Formats() []string {
	var names []string
	for _, f := range formats {
		names = append(names, f.name)
	}
	return names
}

// Write settles the run and writes its directory: evidence under cases/, report.json and the formats asked for (none means
// all), and SHA256SUMS; beside it a line in history.jsonl and the link "latest". Each file appears whole or not at all. What can
// be written is written; everything that could not is in the error. Writing a run again replaces its files and its line.
func Write(dir string, r Run, only ...string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	var errs []error
	for _, name := range only {
		if !slices.Contains(Formats(), name) {
			errs = append(errs, fmt.Errorf("write report: no format %q; known: %s", name, strings.Join(Formats(), ", ")))
		}
	}
	r = tidy(r)
	for i, c := range r.Cases {
		stored, err := storeEvidence(dir, c)
		r.Cases[i] = stored
		errs = append(errs, err, writeReason(dir, stored))
	}
	// The report must not claim evidence it lost.
	if err := errors.Join(errs...); err != nil {
		r.Errors = append(slices.Clone(r.Errors), strings.Split(err.Error(), "\n")...)
	}
	r.Settle()
	for _, f := range formats {
		if f.file != reportFile && len(only) > 0 && !slices.Contains(only, f.name) {
			continue
		}
		if err := replace(filepath.Join(dir, f.file), func(w io.Writer) error { return f.render(w, r) }); err != nil {
			errs = append(errs, fmt.Errorf("write %s: %w", f.file, err))
		}
	}
	errs = append(errs, writeSums(dir), appendHistory(filepath.Dir(dir), r), pointLatest(dir))
	return errors.Join(errs...)
}

// replace renders into a temporary file beside path and renames it into place.
func replace(path string, render func(io.Writer) error) error {
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup() //nolint:errcheck // nothing to do once it was renamed
	w := bufio.NewWriterSize(f, 64<<10)
	if err := render(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// writeReason leaves the failure block beside the evidence of a case that needs action.
func writeReason(dir string, c Case) error {
	const name = "reason.txt"
	at := path.Join(casesDir, c.ID(), name)
	if rank(outcome(c)) >= rank(Pass) || slices.ContainsFunc(c.Evidence, func(f File) bool { return f.Path == at }) {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // a directory handle
	if err := writeIn(root, at, Failure(c)); err != nil {
		return fmt.Errorf("write %s of %s: %w", name, c.Name, err)
	}
	return nil
}

// writeSums writes checksums in the format of sha256sum over this run's files; it names no file that others put there.
func writeSums(dir string) error {
	var files []string
	for _, f := range formats {
		files = append(files, f.file)
	}
	files = append(files, journalFile)
	err := filepath.WalkDir(filepath.Join(dir, casesDir), func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.Type().IsRegular():
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	errs := []error{err}
	slices.Sort(files)
	var out bytes.Buffer
	for _, name := range files {
		// A file of another's making may have a name that breaks the format.
		if strings.ContainsAny(name, "\n\\") {
			continue
		}
		sum, err := sumFile(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		default:
			fmt.Fprintf(&out, "%x  %s\n", sum, name)
		}
	}
	errs = append(errs, replace(filepath.Join(dir, sumsFile), func(w io.Writer) error { _, err := out.WriteTo(w); return err }))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write %s: %w", sumsFile, err)
	}
	return nil
}

func sumFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// past is a run's line in history.jsonl: enough to draw trends without opening every report.
type past struct {
	ID          string            `json:"id"`
	Name        string            `json:"name,omitempty"`
	Started     time.Time         `json:"started,omitzero"`
	Seconds     float64           `json:"seconds,omitempty"`
	Verdict     string            `json:"verdict"`
	Exit        int               `json:"exit"`
	Reason      string            `json:"reason,omitempty"`
	Environment Environment       `json:"environment"`
	Totals      Totals            `json:"totals"`
	Cases       map[string]string `json:"cases"` // name to the outcome of its worst attempt
}

// appendHistory adds the run's line, or replaces the one that is there already.
func appendHistory(dir string, r Run) error {
	p := past{ID: r.ID, Name: r.Name, Started: r.Started, Verdict: r.Verdict, Exit: r.Exit, Reason: r.Reason,
		Environment: r.Environment, Totals: r.Totals, Cases: map[string]string{}}
	if d := r.Ended.Sub(r.Started); d > 0 && !r.Started.IsZero() {
		p.Seconds = d.Seconds()
	}
	for _, attempts := range byName(r.Cases) {
		p.Cases[attempts[0].Name] = outcome(attempts[0])
	}
	line, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write %s: %w", historyFile, err)
	}
	file := filepath.Join(dir, historyFile)
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", historyFile, err)
	}
	kept, again := withoutRun(old, r.ID)
	if !again {
		if len(old) > 0 && old[len(old)-1] != '\n' { // a torn last line must not swallow this one
			line = append([]byte("\n"), line...)
		}
		err = appendLine(file, append(line, '\n'))
	} else {
		kept = append(append(kept, line...), '\n')
		err = replace(file, func(w io.Writer) error { _, err := w.Write(kept); return err })
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", historyFile, err)
	}
	return nil
}

// withoutRun drops the lines of one run; lines it cannot read are kept.
func withoutRun(data []byte, id string) (kept []byte, found bool) {
	for line := range bytes.Lines(data) {
		var p struct {
			ID string `json:"id"`
		}
		if id != "" && json.Unmarshal(line, &p) == nil && p.ID == id {
			found = true
			continue
		}
		kept = append(kept, bytes.TrimSuffix(line, []byte("\n"))...)
		kept = append(kept, '\n')
	}
	return kept, found
}

func appendLine(file string, line []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Close())
}

// pointLatest makes the link "latest" beside the run's directory point to it; anything else of that name is left alone.
func pointLatest(dir string) error {
	link := filepath.Join(filepath.Dir(dir), latestLink)
	if info, err := os.Lstat(link); err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("point %q to the run: %s is there and is no link; move it away", latestLink, link)
	}
	if err := renameio.Symlink(filepath.Base(dir), link); err != nil {
		return fmt.Errorf("point %q to the run: %w", latestLink, err)
	}
	return nil
}
