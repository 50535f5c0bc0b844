// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"harness.example/harness/cluster"
)

// fakeProgress has a clock that the test moves and no ticker.
func fakeProgress(live bool) (*progress, *bytes.Buffer, *time.Time) {
	out := &bytes.Buffer{}
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &progress{w: out, live: live, style: func(_, text string) string { return text }, now: func() time.Time { return now }}
	return p, out, &now
}

func TestPlainProgress(t *testing.T) {
	p, out, now := fakeProgress(false)
	p.event(cluster.Event{Step: "images", State: cluster.Started})
	p.event(cluster.Event{Step: "compile", Parent: "images", State: cluster.Started, Detail: "kube-apiserver"})
	p.tick() // at once: nothing to say yet
	*now = now.Add(90 * time.Second)
	p.event(cluster.Event{Step: "compile", Parent: "images", State: cluster.Note, Detail: "istiod"})
	p.tick()
	p.tick() // one heartbeat an interval
	p.event(cluster.Event{Step: "compile", Parent: "images", State: cluster.Done})
	p.event(cluster.Event{Step: "images", State: cluster.Failed, Elapsed: 91500 * time.Millisecond, Detail: "disk full"})
	p.event(cluster.Event{Step: "nodes", State: cluster.Skipped, Detail: "there already"})
	want := strings.Join([]string{
		" • images …",
		"   • compile …  kube-apiserver",
		" • images, 90s",
		"   • compile: istiod, 90s",
		"   ✓ compile (90.0s)",
		" ✗ images (91.5s)  disk full",
		" - nodes skipped  there already",
		"",
	}, "\n")
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if len(p.running) != 0 || len(p.ended()) != 3 {
		t.Errorf("%d running and %d ended steps, want 0 and 3", len(p.running), len(p.ended()))
	}
}

func TestLiveProgressShowsWhatIsWaitedFor(t *testing.T) {
	p, out, now := fakeProgress(true)
	p.event(cluster.Event{Step: "images", State: cluster.Started})
	p.event(cluster.Event{Step: "compile", Parent: "images", State: cluster.Started})
	*now = now.Add(12300 * time.Millisecond)
	p.tick()
	last := out.String()[strings.LastIndex(out.String(), "\r\x1b[K")+len("\r\x1b[K"):]
	if want := " • compile 12s"; last != want {
		t.Errorf("live line %q, want %q: the part that runs, not its whole", last, want)
	}
	p.event(cluster.Event{Step: "compile", Parent: "images", State: cluster.Done})
	if want := "   ✓ compile   12.3s\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no line %q in %q", want, out.String())
	}
}

func TestJSONProgress(t *testing.T) {
	out := &bytes.Buffer{}
	a := &app{stderr: out, logFormat: "json"}
	p := a.progress()
	p.event(cluster.Event{Step: "nodes", State: cluster.Done, Elapsed: time.Second})
	p.line("--- PASS: %s", "Service/ClusterIP")
	p.close()
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("line is no JSON: %s", line)
		}
	}
	if !strings.Contains(out.String(), `"step":"nodes","state":"done","seconds":1`) {
		t.Errorf("no record of the step in %s", out)
	}
}

func TestTimings(t *testing.T) {
	var out bytes.Buffer
	timings(&out, []cluster.Event{
		{Step: "compile", Parent: "images", State: cluster.Done, Elapsed: 90 * time.Second},
		{Step: "images", State: cluster.Done, Elapsed: 100 * time.Second},
		{Step: "nodes", State: cluster.Failed, Elapsed: time.Second},
	})
	got := out.String()
	if i, j := strings.Index(got, "  images"), strings.Index(got, "    compile"); i < 0 || j < i {
		t.Errorf("a part does not stand under its step:\n%s", got)
	}
	if !strings.Contains(got, "failed") {
		t.Errorf("a failed step looks like any other:\n%s", got)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"DestinationRule/RoundRobin", "Gateway/HTTP", "Gateway/HTTPS"}
	for word, want := range map[string]string{
		"roundrobin": "DestinationRule/RoundRobin", "Gatway/HTTP": "Gateway/HTTP", "HTTPS": "Gateway/HTTPS", "nothing like it": "",
	} {
		got := ""
		if near := nearest(word, names); len(near) > 0 {
			got = near[0]
		}
		if got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		says string
	}{
		{nil, 0, ""},
		{usage("do that", "no %s", "this"), 2, "ERROR: no this\nHint: do that\n"},
		{errors.New("cluster gone"), 3, "ERROR: cluster gone\n"},
		{errors.Join(silent(1)), 1, ""},
		{silent(0), 0, ""},
	} {
		var out bytes.Buffer
		if got := (&app{stderr: &out}).exit(c.err); got != c.code || out.String() != c.says {
			t.Errorf("%v: exit %d and %q, want %d and %q", c.err, got, out.String(), c.code, c.says)
		}
	}
}
