// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"bytes"
	_ "embed" // schema.json
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxReport bounds what Read takes into memory, in bytes.
const maxReport = 512 << 20

//go:embed schema.json
var schema []byte

// Schema is the JSON Schema (draft 2020-12) of report.json. Fields it does not know are allowed: later harnesses add some.
func Schema() []byte { return bytes.Clone(schema) }

// JSON writes the report itself: indented, in the order of the Go fields, a newline at the end.
func JSON(w io.Writer, r Run) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(tidy(r)); err != nil {
		return fmt.Errorf("write report as JSON: %w", err)
	}
	return nil
}

// Read reads a report.json, or the one in a run's directory. It refuses other kinds and versions, and paths of evidence that
// leave the run's directory; it ignores fields it does not know.
func Read(path string) (Run, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, reportFile)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, jerr := os.Stat(filepath.Join(filepath.Dir(path), journalFile)); jerr == nil {
			return Run{}, fmt.Errorf("read report: %w; the run was killed before it could write one: rebuild it from %s", err, journalFile)
		}
	}
	if err != nil {
		return Run{}, fmt.Errorf("read report: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxReport+1))
	if err != nil {
		return Run{}, fmt.Errorf("read report %s: %w", path, err)
	}
	r, err := decode(data)
	if err != nil {
		return Run{}, fmt.Errorf("read report %s: %w", path, err)
	}
	return r, nil
}

func decode(data []byte) (Run, error) {
	if len(data) > maxReport {
		return Run{}, fmt.Errorf("larger than %d MiB", maxReport>>20)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return Run{}, errors.New("the file is empty")
	}
	// What it is comes before whether its fields fit, so that the wrong file is called the wrong file.
	var head struct {
		APIVersion any `json:"apiVersion"`
		Kind       any `json:"kind"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Run{}, located(data, err)
	}
	if head.Kind != Kind {
		return Run{}, fmt.Errorf("kind is %s, not %q: give the %s of a run", orMissing(head.Kind), Kind, reportFile)
	}
	if head.APIVersion != APIVersion {
		return Run{}, fmt.Errorf("apiVersion is %s, this harness reads %q: use the harness that wrote it", orMissing(head.APIVersion), APIVersion)
	}
	var r Run
	if err := json.Unmarshal(data, &r); err != nil {
		return Run{}, located(data, err)
	}
	for _, c := range r.Cases {
		for _, f := range c.Evidence {
			if f.Path != "" && !isLocal(f.Path) {
				return Run{}, fmt.Errorf("case %q: evidence path %q leaves the run's directory", c.Name, f.Path)
			}
		}
	}
	return r, nil
}

func isLocal(path string) bool { return filepath.IsLocal(filepath.FromSlash(path)) }

func orMissing(v any) string {
	if v == nil {
		return "missing"
	}
	return fmt.Sprintf("%.80q", fmt.Sprint(v))
}

// located adds the line to a JSON error, and says what a cut-off file means.
func located(data []byte, err error) error {
	offset := int64(-1)
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typed):
		offset = typed.Offset
	}
	if offset < 0 || offset > int64(len(data)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:offset], []byte("\n")), err)
}
