// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"harness.example/harness/cluster"
	"harness.example/harness/loadgen"
	"harness.example/harness/reports"
	"harness.example/harness/suites"
)

// fill sets every exported field to something that is not zero, so that a field that is not converted shows.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)))
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(3)
	case reflect.Uint64:
		v.SetUint(3)
	case reflect.Float64:
		v.SetFloat(3)
	}
}

// zeroes are the exported fields that are zero, by their path.
func zeroes(v reflect.Value, path string) []string {
	if v.IsZero() {
		return []string{path}
	}
	var out []string
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out = append(out, zeroes(v.Field(i), path+"."+v.Type().Field(i).Name)...)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			out = append(out, zeroes(v.Index(i), path+"[]")...)
		}
	}
	return out
}

func TestTargetIsWhatAccessSays(t *testing.T) {
	var a cluster.Access
	fill(reflect.ValueOf(&a).Elem())
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var want suites.Target
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if missing := zeroes(reflect.ValueOf(want), "Target"); len(missing) > 0 {
		t.Errorf("cluster.Access does not say %v", missing)
	}
	if diff := cmp.Diff(want, targetOf(&a)); diff != "" {
		t.Errorf("targetOf and the JSON of Access differ:\n%s", diff)
	}
}

func TestEveryFieldOfAResultIsReported(t *testing.T) {
	var r suites.Result
	fill(reflect.ValueOf(&r).Elem())
	r.Loads = []suites.Load{{Name: "load", Result: sampleLoad()}}
	c := caseOf(r)
	// Rerun is added by the run; evidence gets its path, and a distribution its text, when the report is written.
	for _, path := range zeroes(reflect.ValueOf(c), "Case") {
		switch path {
		case "Case.Rerun", "Case.Evidence[].Path", "Case.Load[].Unsent", "Case.Load[].Reason", "Case.Load[].PerSecond[].At", "Case.Load[].PerSecond[].P99":
		default:
			t.Errorf("%s is empty although the result has everything", path)
		}
	}
	if len(c.Evidence) != 2 || c.Evidence[0].Name != "notes.txt" {
		t.Errorf("evidence %+v, want the notes and one file", c.Evidence)
	}
}

// sampleLoad has enough requests for the 99th percentile.
func sampleLoad() *loadgen.Result {
	h := &loadgen.Hist{}
	for range 20_000 {
		h.Record(5 * time.Millisecond)
	}
	slice := loadgen.Slice{
		Counts: loadgen.Counts{Planned: 20_010, Sent: 20_010, OK: 20_000, HTTPErrors: 10},
		Times:  loadgen.Times{Response: h, Service: h, Lag: h},
	}
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	return &loadgen.Result{
		Slice: slice, Seconds: []loadgen.Second{{Slice: loadgen.Slice{Counts: slice.Counts, Times: loadgen.Times{}}}},
		Start: start, End: start.Add(time.Minute), Verdict: loadgen.Pass,
	}
}

func TestLoadStatesOnlyWhatItCan(t *testing.T) {
	l := loadOf("load", sampleLoad())
	if l.P99 == nil || *l.P99 < 4.9 || *l.P99 > 5.1 || l.Errors != 10 || l.Seconds != 60 {
		t.Errorf("got %+v, want a 99th percentile of 5 ms, 10 errors in 60 s", l)
	}
	if l.PerSecond[0].P99 != nil {
		t.Error("a second without a response time has a quantile")
	}
}

func TestStepsAreThoseThatEnded(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 10, 0, time.UTC)
	got := stepsOf([]cluster.Event{
		{Step: "nodes", State: cluster.Started, At: at},
		{Step: "nodes", State: cluster.Done, At: at, Elapsed: 10 * time.Second},
		{Step: "gateway", State: cluster.Failed, At: at, Detail: "no address"},
	})
	want := []reports.Step{
		{Name: "nodes", Started: at.Add(-10 * time.Second), Seconds: 10, Outcome: reports.Pass},
		{Name: "gateway", Started: at, Outcome: reports.Error, Detail: "no address"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// TestLabelsShownAreLabelsSelected keeps the list and the filter from telling different stories.
func TestLabelsShownAreLabelsSelected(t *testing.T) {
	for _, c := range suites.All() {
		if _, err := (suites.Selection{Labels: c.AllLabels()}).Select([]suites.Case{c}); err != nil {
			t.Errorf("labels that are shown do not select: %v", err)
		}
	}
}
