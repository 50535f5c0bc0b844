// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "harness.example/harness"

// arrows says what each room may import of ours, itself and its own sub-packages aside, and why. A room that is not named may
// not exist: a new one is a decision, taken here.
var arrows = map[string]struct {
	may []string
	why string
}{
	"internal/stats": {nil, "arithmetic knows nothing of what it counts"},
	"fixtures":       {[]string{"internal/stats"}, "objects are applied the same way whoever asks"},
	"loadgen":        {[]string{"internal/stats"}, "traffic can be replaced by another engine, which is one method"},
	"cluster":        {[]string{"internal/stats"}, "an environment is data (Access); a cluster that is there already fills it too"},
	"reports":        {[]string{"internal/stats"}, "a report is plain data that later programs must read"},
	"suites":         {[]string{"fixtures", "loadgen", "internal/stats"}, "a case runs on any cluster and into any report"},
	"cmd/harness":    {[]string{"cluster", "fixtures", "loadgen", "reports", "suites", "internal/stats"}, "glue: it maps one room's data to another's"},
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func TestArrows(t *testing.T) {
	packages := list(t)
	if len(packages) < len(arrows) {
		t.Fatalf("go list found %d packages, fewer than there are rooms", len(packages))
	}
	seen := map[string]bool{}
	for _, p := range packages {
		room, ok := roomOf(p.ImportPath)
		if !ok {
			t.Errorf("%s is in no known room: add it to arrows with its reason", p.ImportPath)
			continue
		}
		seen[room] = true
		// Tests follow the same arrows: a test that needs another room tests the wrong thing.
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			to, ours := roomOf(imported)
			if ours && to != room && !slices.Contains(arrows[room].may, to) {
				t.Errorf("%s imports %s; %s may import %v only: %s", p.ImportPath, imported, room, arrows[room].may, arrows[room].why)
			}
			if strings.HasPrefix(imported, module) && !ours {
				t.Errorf("%s imports %s, which is in no known room", p.ImportPath, imported)
			}
		}
		if slices.Contains(p.Imports, "testing") {
			t.Errorf("%s imports testing: checks return errors, so that they run outside of go test", p.ImportPath)
		}
	}
	for room := range arrows {
		if !seen[room] {
			t.Errorf("there is no room %s any more: take it out of arrows", room)
		}
	}
}

// roomOf is the longest room that the package lies in.
func roomOf(path string) (string, bool) {
	rel, ours := strings.CutPrefix(path, module+"/")
	best := ""
	for room := range arrows {
		if ours && (rel == room || strings.HasPrefix(rel, room+"/")) && len(room) > len(best) {
			best = room
		}
	}
	return best, best != ""
}

func list(t *testing.T) []listed {
	t.Helper()
	// -e: a package that does not build yet still has imports.
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}
