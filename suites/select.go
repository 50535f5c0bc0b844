// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
)

// ErrEmpty is returned when a selection leaves nothing to run: nothing empty passes.
var ErrEmpty = errors.New("no case selected")

// Selection narrows the cases. The zero value selects all.
type Selection struct {
	// Patterns are regular expressions matched anywhere in a name; a leading "!" excludes what matches. Each must match
	// at least one case. None = all.
	Patterns []string
	// Labels must all be there, key to value. The labels resource and serial are implicit.
	Labels map[string]string
	// Skip are regular expressions; a case they match is left out.
	Skip []string
}

// Select returns the cases chosen, in the order given.
func (s Selection) Select(cases []Case) ([]Case, error) {
	var include, exclude []*regexp.Regexp
	for _, p := range s.Patterns {
		text, negated := strings.CutPrefix(p, "!")
		re, err := compileUsed("pattern", text, cases)
		if err != nil {
			return nil, err
		}
		if negated {
			exclude = append(exclude, re)
		} else {
			include = append(include, re)
		}
	}
	for _, p := range s.Skip {
		re, err := compileUsed("skip", p, cases)
		if err != nil {
			return nil, err
		}
		exclude = append(exclude, re)
	}
	matches := func(c Case) func(*regexp.Regexp) bool {
		return func(re *regexp.Regexp) bool { return re.MatchString(c.Name) }
	}
	var out []Case
	for _, c := range cases {
		if len(include) > 0 && !slices.ContainsFunc(include, matches(c)) || slices.ContainsFunc(exclude, matches(c)) {
			continue
		}
		if hasLabels(c, s.Labels) {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: patterns %q, labels %v, skip %q leave none of %d", ErrEmpty, s.Patterns, s.Labels, s.Skip, len(cases))
	}
	return out, nil
}

// compileUsed compiles a filter and refuses one that matches nothing: a typing mistake must not shrink a run in silence.
func compileUsed(what, text string, cases []Case) (*regexp.Regexp, error) {
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", what, text, err)
	}
	if !slices.ContainsFunc(cases, func(c Case) bool { return re.MatchString(c.Name) }) {
		return nil, fmt.Errorf("%w: %s %q matches none of the %d cases", ErrEmpty, what, text, len(cases))
	}
	return re, nil
}

func hasLabels(c Case, want map[string]string) bool {
	have := c.AllLabels()
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// attempt is one execution of a case.
type attempt struct {
	c Case
	n int // from 1
}

// schedule repeats and orders the cases: those that may share the cluster first, then those that run alone. A seed of 0
// keeps the order given, except that cases with pods of their own come first: they take longest, and the short ones fill the
// places that are left. Any other seed shuffles each group, the same way every time.
func schedule(cases []Case, repeat int, seed uint64) (parallel, serial []attempt) {
	for n := 1; n <= max(repeat, 1); n++ {
		for _, c := range cases {
			if c.Serial {
				serial = append(serial, attempt{c, n})
			} else {
				parallel = append(parallel, attempt{c, n})
			}
		}
	}
	// What takes longest first, so that nothing long is left for the end.
	slices.SortStableFunc(parallel, func(a, b attempt) int {
		return cmp.Or(int(b.c.Workload)-int(a.c.Workload), cmp.Compare(b.c.Timeout, a.c.Timeout))
	})
	if seed != 0 {
		r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // an order to reproduce, not a secret
		for _, s := range [][]attempt{parallel, serial} {
			r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
		}
	}
	return parallel, serial
}
