// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fresh is the sample as a runner gives it: evidence has bodies and no paths yet.
func fresh() Run {
	r := sample()
	for i := range r.Cases {
		for k := range r.Cases[i].Evidence {
			f := &r.Cases[i].Evidence[k]
			f.Path = ""
			if f.Body == "" {
				f.Body = strings.Repeat("{}\n", MaxInline)
			}
		}
	}
	return r
}

func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			want = info.Mode().Perm()
		case d.IsDir():
			want = 0o700
		}
		if p != dir && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		if !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			out = append(out, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWrite(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "runs", "one")
	if err := Write(dir, fresh()); err != nil {
		t.Fatal(err)
	}
	want := []string{"SHA256SUMS",
		"cases/DestinationRule_RoundRobin/envoy/clusters.json", "cases/DestinationRule_RoundRobin/reason.txt", "cases/DestinationRule_RoundRobin/response.txt",
		"cases/Pod_Readiness.2/reason.txt", "cases/Pod_Readiness.3/reason.txt", "cases/Service_NodePort/events.txt", "cases/Service_NodePort/reason.txt",
		"cases/VirtualService_Weights/reason.txt", "index.html", "junit.xml", "metrics.prom", "report.json", "summary.md"}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
	r, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	small, big := r.Cases[1].Evidence[0], r.Cases[1].Evidence[1]
	if small.Body == "" || big.Body != "" || big.Path != "cases/DestinationRule_RoundRobin/envoy/clusters.json" {
		t.Errorf("evidence is %q and %+v", small.Body, big)
	}
	sums, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(sums)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		data, err := os.ReadFile(filepath.Join(dir, name))
		if !ok || err != nil || sum != fmt.Sprintf("%x", sha256.Sum256(data)) {
			t.Errorf("checksum line %q: %v", line, err)
		}
		n++
	}
	if n != len(want)-1 {
		t.Errorf("%d checksums of %d files", n, len(want)-1)
	}

	// Rendering the read report again, as `harness report` does, gives the same files; a second run moves the link.
	before, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, r); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("rendering again gives another page (%v)", err)
	}
	second := fresh()
	second.ID = "two"
	if err := Write(filepath.Join(parent, "runs", "two"), second, "junit"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(parent, "runs", "two", "index.html")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a format nobody asked for: %v", err)
	}
	if link, err := os.Readlink(filepath.Join(parent, "runs", "latest")); err != nil || link != "two" {
		t.Errorf("latest is %q, %v", link, err)
	}
	history, err := os.ReadFile(filepath.Join(parent, "runs", historyFile))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range bytes.Lines(history) {
		var p past
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, p.ID)
		if p.Cases["Pod/Readiness"] != Fail || p.Seconds != 212 {
			t.Errorf("history says %+v", p)
		}
	}
	if diff := cmp.Diff([]string{"20260314-150926", "two"}, ids); diff != "" {
		t.Error(diff)
	}
}

// TestWriteGoesOn: what can be written is written, and the rest is told.
func TestWriteGoesOn(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "run")
	for _, d := range []string{filepath.Join(dir, "index.html", "x"), filepath.Join(parent, latestLink)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	err := Write(dir, fresh(), "html", "junit", "pdf")
	for _, want := range []string{"index.html", "latest", `no format "pdf"; known: json, junit, markdown, html, metrics`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error does not tell of %s: %v", want, err)
		}
	}
	for _, name := range []string{reportFile, "junit.xml", sumsFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range tree(t, dir) {
		if strings.Contains(name, "tmp") || strings.HasPrefix(filepath.Base(name), ".") {
			t.Errorf("left behind: %s", name)
		}
	}
}

func TestWriteTellsOfLostEvidence(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	outside := t.TempDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, casesDir)); err != nil {
		t.Fatal(err)
	}
	r := Run{ID: "x", Cases: []Case{{Name: "A", Outcome: Pass, Evidence: []File{{Name: "f", Body: "b"}}}}}
	if err := Write(dir, r); err == nil || !strings.Contains(err.Error(), "store evidence of A") {
		t.Errorf("error is %v", err)
	}
	if files := tree(t, outside); len(files) > 0 {
		t.Errorf("written through a link: %v", files)
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Verdict != Errored || !strings.Contains(got.Reason, "store evidence") || got.Cases[0].Evidence[0].Body != "b" {
		t.Errorf("the report says %s: %s", got.Verdict, got.Reason)
	}
}

func TestWriteHostile(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "run")
	if err := Write(dir, hostile()); err != nil {
		t.Error(err)
	}
	for _, name := range tree(t, parent) {
		if len(name) > 250 || strings.ContainsAny(name, "\x1b\n<>|") || !(strings.HasPrefix(name, "run/") || name == historyFile || name == latestLink) {
			t.Errorf("a file named %q", name)
		}
	}
	if _, err := Read(dir); err != nil {
		t.Error(err)
	}
}

func TestHistoryKeepsTornLine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, historyFile)
	if err := os.WriteFile(file, []byte(`{"id":"a"}`+"\n"+`{"id":"b`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := appendHistory(dir, Run{ID: "c"}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(got)), "\n")
	if len(lines) != 3 || lines[1] != `{"id":"b` || !strings.HasPrefix(lines[2], `{"id":"c"`) {
		t.Errorf("history is %q", lines)
	}
}

func TestIDs(t *testing.T) {
	for c, want := range map[*Case]string{
		{Name: "DestinationRule/RoundRobin"}:             "DestinationRule_RoundRobin",
		{Name: "DestinationRule/RoundRobin", Attempt: 1}: "DestinationRule_RoundRobin",
		{Name: "DestinationRule/RoundRobin", Attempt: 3}: "DestinationRule_RoundRobin.3",
	} {
		if got := c.ID(); got != want {
			t.Errorf("%q is %s, want %s", c.Name, got, want)
		}
	}
	seen := map[string]string{}
	for _, name := range []string{"", "/", "A/B", "A_B", "A.B", "A-B", "A B", "A/B.2", "..", "../A", ".", "a/b", "ä", "ö", strings.Repeat("x", 300), strings.Repeat("x", 301), nasty} {
		id := Case{Name: name}.ID()
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q are both %s", name, other, id)
		}
		seen[id] = name
		if id == "" || len(id) > maxName || strings.ContainsAny(id, "/\\ .") {
			t.Errorf("the ID of %q is %q", name, id)
		}
	}
}

func FuzzSafePath(f *testing.F) {
	for _, s := range []string{"", "a", "envoy/clusters.json", "../../x", "/etc/passwd", "a//b/./../c", ".ssh/id", nasty, strings.Repeat("é/", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := safePath(name)
		if !isLocal(got) || len(got) > 4*(maxName+1) || got == "." || strings.ContainsAny(got, "\x00\\ \n:") {
			t.Errorf("safePath(%q) = %q", name, got)
		}
		for part := range strings.SplitSeq(got, "/") {
			if len(part) > maxName || strings.HasPrefix(part, ".") || strings.HasPrefix(part, "-") {
				t.Errorf("safePath(%q) = %q", name, got)
			}
		}
	})
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	good := render(t, JSON, sample())
	tests := []struct{ name, text, says string }{
		{"empty", " \n", "empty"},
		{"not JSON", "<html>", "line 1: invalid character"},
		{"cut off", good[:len(good)/2], "unexpected end of JSON"},
		{"two documents", good + good, "after top-level value"},
		{"another kind", `{"apiVersion":"apps/v1","kind":"Deployment"}`, `kind is "Deployment", not "RunReport"`},
		{"no kind", `{}`, "kind is missing"},
		{"kind is an object", `{"kind":{}}`, "kind is"},
		{"later version", `{"apiVersion":"harness.example/v2","kind":"RunReport"}`, `apiVersion is "harness.example/v2", this harness reads "harness.example/v1"`},
		{"a field of another type", strings.Replace(good, `"cases": [`, `"cases": 7, "x": [`, 1), "cannot unmarshal number"},
		{"path that leaves", strings.Replace(good, "cases/DestinationRule_RoundRobin/response.txt", "../../etc/passwd", 1), "leaves the run's directory"},
		{"field added later", strings.Replace(good, `"kind"`, `"later": 1, "kind"`, 1), ""},
		{"good", good, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(dir, "r.json")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Read(file)
			switch {
			case tt.says == "" && err != nil:
				t.Error(err)
			case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "r.json")):
				t.Errorf("error is %v, want it to name the file and say %q", err, tt.says)
			}
		})
	}
	if _, err := Read(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func openSample(t *testing.T) (*Journal, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	r := fresh()
	r.BringUp, r.Leaks = nil, nil
	j, err := OpenJournal(dir, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, dir
}

func TestJournal(t *testing.T) {
	j, dir := openSample(t)
	whole := fresh()
	for _, s := range whole.BringUp {
		if err := j.AppendStep(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range whole.Cases {
		if err := j.Append(c); err != nil {
			t.Fatal(err)
		}
	}
	killed, err := Rebuild(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !killed.Interrupted || len(killed.Cases) != len(whole.Cases) || len(killed.BringUp) != 4 || killed.Verdict != Failed {
		t.Errorf("rebuilt before the end: interrupted %v, %d cases, %d steps, %s", killed.Interrupted, len(killed.Cases), len(killed.BringUp), killed.Verdict)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "rebuild it from events.jsonl") {
		t.Errorf("error is %v", err)
	}
	if err := j.End(whole); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if err := j.Append(Case{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("appending to a closed journal: %v", err)
	}
	rebuilt, err := Rebuild(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, whole); err != nil {
		t.Fatal(err)
	}
	written, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(written, rebuilt); diff != "" {
		t.Errorf("the rebuilt run is not the written one (-written +rebuilt):\n%s", diff)
	}
	if _, err := OpenJournal(dir, whole); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second journal in one directory: %v", err)
	}
}

func TestJournalTorn(t *testing.T) {
	j, dir := openSample(t)
	for _, c := range fresh().Cases[:3] {
		if err := j.Append(c); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, journalFile)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(bytes.Lines(data))
	first := len(lines[0])
	for cut := first; cut < len(data); cut += 101 {
		r, err := rebuild(data[:cut])
		if err != nil || !r.Interrupted || len(r.Errors) > 0 {
			t.Fatalf("cut at byte %d: %v, %+v", cut, err, r.Errors)
		}
		if want := bytes.Count(data[:cut], []byte("\n")) - 1; len(r.Cases) != want {
			t.Errorf("cut at byte %d: %d cases, want %d", cut, len(r.Cases), want)
		}
	}
	if _, err := rebuild(data[:first-1]); err == nil {
		t.Error("a run nobody knows anything about")
	}
	damaged := bytes.Join([][]byte{lines[0], []byte("{\"type\":\"ca\x00\n"), lines[2]}, nil)
	r, err := rebuild(damaged)
	if err != nil || len(r.Cases) != 1 || len(r.Errors) != 1 || !strings.Contains(r.Errors[0], "line 2") {
		t.Errorf("damaged in the middle: %v, %d cases, %q", err, len(r.Cases), r.Errors)
	}
	if _, err := Rebuild(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no journal: %v", err)
	}
}

func TestJournalParallel(t *testing.T) {
	j, dir := openSample(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 5 {
				if err := j.Append(Case{Name: fmt.Sprintf("Case/%d", 10*i+n), Outcome: Pass, Evidence: []File{{Name: "a", Body: "b"}}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r, err := Rebuild(dir)
	if err != nil || r.Totals.Pass != 40 {
		t.Errorf("%v, %+v", err, r.Totals)
	}
}

func FuzzRebuild(f *testing.F) {
	head, _ := json.Marshal(event{Type: "run", Run: header(sample())})
	c, _ := json.Marshal(event{Type: "case", Case: &sample().Cases[1]})
	f.Add(append(append(head, '\n'), append(c, '\n')...))
	f.Add(append(head, '\n'))
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"type":"run","run":{"kind":"RunReport","apiVersion":"harness.example/v1"}}` + "\n" + `{"type":"end","run":{"cases":[{}]}}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := rebuild(data)
		if err != nil {
			return
		}
		if r.Verdict == Passed && (len(r.Cases) == 0 || r.Interrupted) {
			t.Error("nothing, or half of it, passed")
		}
		rendersAll(t, r)
	})
}

func FuzzRead(f *testing.F) {
	for _, r := range []Run{sample(), {APIVersion: APIVersion, Kind: Kind}} {
		var b bytes.Buffer
		if err := JSON(&b, r); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte(`{"apiVersion":"harness.example/v1","kind":"RunReport","cases":[{"timeline":[{"points":[{"at":1e308,"value":-1e308},{"at":-1e308}]}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := decode(data); err == nil {
			rendersAll(t, r)
		}
	})
}

func rendersAll(t *testing.T, r Run) {
	t.Helper()
	for name, f := range renderers {
		text := render(t, f, r)
		if name == "json" {
			if _, err := decode([]byte(text)); err != nil && r.Kind == Kind {
				t.Errorf("cannot read what was written: %v", err)
			}
		}
	}
}
