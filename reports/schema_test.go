// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	reflectschema "github.com/invopop/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestSchemaIsCurrent makes schema.json from the Go types and their comments; -update rewrites it.
func TestSchemaIsCurrent(t *testing.T) {
	reflector := &reflectschema.Reflector{AllowAdditionalProperties: true}
	if err := reflector.AddGoComments("harness.example/harness/reports", "./", reflectschema.WithFullComment()); err != nil {
		t.Fatal(err)
	}
	s := reflector.Reflect(&Run{})
	s.ID = "https://harness.example/schema/v1/run-report.json"
	s.Title = "harness run report"
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile("schema.json", got, 0o600); err != nil {
			t.Fatal(err)
		}
		schema = got
	}
	if !bytes.Equal(got, Schema()) {
		t.Error("schema.json does not fit the types: run go test ./reports -run TestSchemaIsCurrent -update")
	}
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("report.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("report.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReportFitsSchema(t *testing.T) {
	s := compiled(t)
	empty := Run{}
	empty.Settle()
	for name, r := range map[string]Run{"sample": sample(), "empty": empty, "many": many(50)} {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(render(t, JSON, r)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(doc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compiled(t)
	for name, change := range map[string][2]string{
		"another kind":      {`"kind": "RunReport"`, `"kind": "Pod"`},
		"unknown outcome":   {`"outcome": "blind"`, `"outcome": "green"`},
		"seed as a number":  {`"seed": "18446744073709551615"`, `"seed": 7`},
		"count as text":     {`"count": 138`, `"count": "many"`},
		"no cases":          {`"cases": [`, `"instances": [`},
		"unknown verdict":   {`"verdict": "failed"`, `"verdict": "fine"`},
		"totals not object": {`"totals": {`, `"totals": 1, "x": {`},
	} {
		text := render(t, JSON, sample())
		if !strings.Contains(text, change[0]) {
			t.Fatalf("%s: the sample has no %s", name, change[0])
		}
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(strings.Replace(text, change[0], change[1], 1)))
		if err != nil {
			t.Fatal(err)
		}
		if s.Validate(doc) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	later := strings.Replace(render(t, JSON, sample()), `"kind":`, `"addedLater": {"a": 1}, "kind":`, 1)
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(later))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("a field added later is refused: %v", err)
	}
}
