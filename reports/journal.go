// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Journal keeps a run on disk while it goes on, so that a run that was killed still has a report: one JSON object a line, each
// synced before the call that wrote it returns. Its methods may be called from several goroutines.
type Journal struct {
	mu   sync.Mutex
	dir  string
	file *os.File
	err  error // the first failed write; later records would only seem complete
}

// event is one line of events.jsonl. Run is the run without its cases.
type event struct {
	Type string `json:"type"` // "run" first, then "step" and "case", "end" last
	Run  *Run   `json:"run,omitempty"`
	Step *Step  `json:"step,omitempty"`
	Case *Case  `json:"case,omitempty"`
}

// OpenJournal makes dir when needed and begins its events.jsonl with what is known of the run: its identity, command, seed and
// environment. A journal belongs to one run; an existing one is an error.
func OpenJournal(dir string, r Run) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	path := filepath.Join(dir, journalFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("open journal: %w; give each run a directory of its own", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{dir: dir, file: f}
	r.APIVersion, r.Kind = APIVersion, Kind
	if err := j.write(event{Type: "run", Run: header(r)}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

// AppendStep records a step of bring-up that has ended.
func (j *Journal) AppendStep(s Step) error {
	s.Seconds = finite(s.Seconds)
	return j.write(event{Type: "step", Step: &s})
}

// Append stores the case's evidence, then records the case.
func (j *Journal) Append(c Case) error {
	c, err := storeEvidence(j.dir, tidyCase(c))
	return errors.Join(err, j.write(event{Type: "case", Case: &c}))
}

// End records how the run ended (all of r but its cases and steps, which are recorded already) and closes the journal.
func (j *Journal) End(r Run) error {
	r.APIVersion, r.Kind = APIVersion, Kind
	h := header(r)
	h.BringUp = nil
	return errors.Join(j.write(event{Type: "end", Run: h}), j.Close())
}

// Close closes the journal. Without End before it, the rebuilt run is an interrupted one. Closing twice is fine.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	if err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

func (j *Journal) write(e event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("journal a %s: %w", e.Type, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return fmt.Errorf("journal a %s: %w", e.Type, os.ErrClosed)
	}
	if j.err != nil {
		return fmt.Errorf("journal a %s: an earlier write failed: %w", e.Type, j.err)
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		j.err = err
		return fmt.Errorf("journal a %s: %w", e.Type, err)
	}
	if err := j.file.Sync(); err != nil {
		j.err = err
		return fmt.Errorf("journal a %s: %w", e.Type, err)
	}
	return nil
}

func header(r Run) *Run {
	r = tidy(r)
	r.Cases = []Case{}
	return &r
}

// Rebuild makes a settled run from a directory's journal. A torn last line, which a killed run leaves, is dropped; a damaged line
// before it is an entry in Errors. Without the last record the run counts as interrupted.
func Rebuild(dir string) (Run, error) {
	path := filepath.Join(dir, journalFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return Run{}, fmt.Errorf("rebuild report: %w", err)
	}
	r, err := rebuild(data)
	if err != nil {
		return Run{}, fmt.Errorf("rebuild report from %s: %w", path, err)
	}
	return r, nil
}

func rebuild(data []byte) (Run, error) {
	var r Run
	began, ended := false, false
	var damaged []string
	cases, steps := []Case{}, []Step(nil)
	for n := 1; len(data) > 0; n++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		data = rest
		if !whole {
			break // torn: the newline is written with the record, so a record without one is not complete
		}
		var e event
		err := json.Unmarshal(line, &e)
		switch {
		case err == nil && e.Type == "run" && e.Run != nil && !began:
			if e.Run.Kind != Kind || e.Run.APIVersion != APIVersion {
				return Run{}, fmt.Errorf("line %d: %q %q is not a journal this harness reads", n, e.Run.APIVersion, e.Run.Kind)
			}
			began, r = true, *e.Run
			steps = append(steps, r.BringUp...)
		case err == nil && e.Type == "step" && e.Step != nil:
			steps = append(steps, *e.Step)
		case err == nil && e.Type == "case" && e.Case != nil:
			e.Case.Evidence = each(e.Case.Evidence, func(f *File) bool { return f.Path == "" || isLocal(f.Path) })
			cases = append(cases, *e.Case)
		case err == nil && e.Type == "end" && e.Run != nil && began:
			ended, r = true, *e.Run
		case err == nil && e.Type != "" && e.Type != "run" && e.Type != "step" && e.Type != "case" && e.Type != "end":
			// A later harness may record more.
		default:
			damaged = append(damaged, fmt.Sprintf("%s line %d cannot be read, what it recorded is lost", journalFile, n))
		}
	}
	if !began {
		return Run{}, errors.New("it has no complete first record, so nothing is known about the run")
	}
	r.Cases, r.BringUp = cases, steps
	r.Interrupted = r.Interrupted || !ended
	r.Errors = append(r.Errors, damaged...)
	r.Settle()
	return r, nil
}
