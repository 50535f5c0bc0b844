// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"harness.example/harness/fixtures"
)

// FieldState is what the cases make of an API field.
type FieldState string

// The states of a field.
const (
	Asserted FieldState = "asserted" // a case fails when the field is not obeyed
	Used     FieldState = "used"     // a manifest sets it, no case asserts it
	Absent   FieldState = "absent"   // no manifest sets it
)

// FieldCoverage is one leaf field of an API.
type FieldCoverage struct {
	Path  string
	State FieldState
	Cases []string // that assert it, or else that use it; sorted
}

// Coverage is what the cases make of one kind's fields.
type Coverage struct {
	Kind   string
	Fields []FieldCoverage // in the API's own order
	// Excluded are the fields that do not count, with the reason.
	Excluded []ExcludedField
}

// ExcludedField does not count in a Coverage.
type ExcludedField struct{ Path, Reason string }

// Count is how many fields are in the state.
func (c Coverage) Count(state FieldState) int {
	n := 0
	for _, f := range c.Fields {
		if f.State == state {
			n++
		}
	}
	return n
}

// Part is the asserted part of the fields that count, from 0 to 1.
func (c Coverage) Part() float64 {
	return float64(c.Count(Asserted)) / float64(max(len(c.Fields), 1))
}

// CoverageOf says what the cases make of the APIs' fields: those they assert are in Covers, those they use in their
// manifests, below "cases" in fsys. The kinds are in the order in which a request meets them.
func CoverageOf(fsys fs.FS, cases []Case) ([]Coverage, error) {
	asserted, used := map[string][]string{}, map[string][]string{}
	for _, c := range cases {
		for _, entry := range c.Covers {
			path, _, _ := strings.Cut(entry, "=")
			path = canonical(path)
			asserted[path] = append(asserted[path], c.Name)
		}
		objs, err := fixtures.Load(fsys, "cases/"+c.Fixture, sampleVars())
		if err != nil {
			return nil, fmt.Errorf("fields of case %s: %w", c.Name, err)
		}
		for _, o := range objs {
			for _, path := range leavesOf(o) {
				path = canonical(path)
				used[path] = append(used[path], c.Name)
			}
		}
	}
	var out []Coverage
	for _, s := range scopes {
		cov := Coverage{Kind: s.kind}
		for _, leaf := range s.leaves() {
			if reason := s.excluded(leaf); reason != "" {
				cov.Excluded = append(cov.Excluded, ExcludedField{leaf.path, reason})
				continue
			}
			f := FieldCoverage{Path: leaf.path, State: Absent}
			if names := asserted[leaf.path]; len(names) > 0 {
				f.State, f.Cases = Asserted, names
			} else if names := used[leaf.path]; len(names) > 0 {
				f.State, f.Cases = Used, names
			}
			f.Cases = slices.Compact(slices.Sorted(slices.Values(f.Cases)))
			cov.Fields = append(cov.Fields, f)
		}
		out = append(out, cov)
	}
	return out, nil
}

// scope says which fields of a kind count.
type scope struct {
	kind string
	in   []string // paths below which fields count
	// out are fields that do not, with the reason; a path stands for all below it.
	out map[string]string
}

// whole are subtrees that repeat another and count as one field each.
var whole = []string{ //nolint:gochecknoglobals // a constant list
	"DestinationRule.spec.subsets[].trafficPolicy",
	"DestinationRule.spec.trafficPolicy.portLevelSettings[].loadBalancer",
	"DestinationRule.spec.trafficPolicy.portLevelSettings[].connectionPool",
	"DestinationRule.spec.trafficPolicy.portLevelSettings[].outlierDetection",
	"DestinationRule.spec.trafficPolicy.portLevelSettings[].tls",
	"HorizontalPodAutoscaler.spec.metrics[].external.metric.selector",
	"HorizontalPodAutoscaler.spec.metrics[].object.metric.selector",
	"HorizontalPodAutoscaler.spec.metrics[].pods.metric.selector",
}

// canonical names a field that can be written in two ways in one: a Deployment's template is a Pod, and a subtree of whole
// is itself.
func canonical(path string) string {
	if rest, ok := strings.CutPrefix(path, "Deployment.spec.template.spec."); ok {
		path = "Pod.spec." + rest
	}
	for _, w := range whole {
		if below(path, w) {
			return w
		}
	}
	return path
}

func below(path, root string) bool { return path == root || strings.HasPrefix(path, root+".") }

type leaf struct {
	path       string
	deprecated bool
}

// leaves are the fields in scope, in the API's order.
func (s scope) leaves() []leaf {
	var out []leaf
	seen := map[string]bool{}
	var walk func(path string, f field)
	walk = func(path string, f field) {
		path += "." + f.name + f.mark
		c := canonical(path)
		if f.fields != nil && c == path && !slices.Contains(whole, path) {
			if s.reaches(path) {
				for _, child := range f.fields() {
					walk(path, child)
				}
			}
			return
		}
		if !seen[c] && slices.ContainsFunc(s.in, func(root string) bool { return below(c, root) }) {
			seen[c] = true
			out = append(out, leaf{c, f.deprecated})
		}
	}
	for _, f := range apiKinds()[s.kind] {
		walk(s.kind, f)
	}
	return out
}

// reaches says whether anything below the path can be in scope: an API may hold itself, and the walk must end.
func (s scope) reaches(path string) bool {
	return slices.ContainsFunc(s.in, func(root string) bool { return below(path, root) || below(root, path) })
}

func (s scope) excluded(l leaf) string {
	for _, path := range slices.Sorted(maps.Keys(s.out)) {
		if below(l.path, path) {
			return s.out[path]
		}
	}
	if l.deprecated {
		return "deprecated"
	}
	return ""
}

// leavesOf are the fields that an object sets.
func leavesOf(o *unstructured.Unstructured) []string {
	fields, known := apiKinds()[o.GetKind()]
	if !known {
		return nil
	}
	var out []string
	var walk func(path string, fields []field, value map[string]any)
	walk = func(path string, fields []field, value map[string]any) {
		for _, f := range fields {
			v, set := value[f.name]
			if !set {
				continue
			}
			at := path + "." + f.name + f.mark
			for _, element := range elements(f, v) {
				if m, ok := element.(map[string]any); ok && f.fields != nil {
					walk(at, f.fields(), m)
				} else {
					out = append(out, at)
				}
			}
		}
	}
	walk(o.GetKind(), fields, o.Object)
	return out
}

// elements are the values that a field holds: several of a list or a map.
func elements(f field, v any) []any {
	switch v := v.(type) {
	case []any:
		if f.mark == "[]" {
			return v
		}
	case map[string]any:
		if f.mark == "{}" {
			return slices.Collect(maps.Values(v))
		}
	}
	return []any{v}
}
