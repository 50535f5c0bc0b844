// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"harness.example/harness/fixtures/echo"
	"harness.example/harness/loadgen"
)

// Mismatch says that the cluster was seen to behave otherwise than promised. Any other error means that it could not be
// judged.
type Mismatch struct {
	Want, Got    string
	Distribution []Bar              // what answered, when counts were judged
	Exchanges    []loadgen.Exchange // the first that failed
	Detail       string
}

// Bar is one row of a distribution: a count, the interval it had to lie in, and its expectation.
type Bar struct {
	Name                       string
	Count, Low, High, Expected float64
}

// Error is the whole text: a control's Fails is looked for in it.
func (m *Mismatch) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "want %s, got %s", m.Want, m.Got)
	if m.Detail != "" {
		b.WriteString("; " + m.Detail)
	}
	for _, bar := range m.Distribution {
		fmt.Fprintf(&b, "; %s: %g", bar.Name, bar.Count)
		if bar.High > 0 {
			fmt.Fprintf(&b, " (expected %.4g, within %g to %g)", bar.Expected, bar.Low, bar.High)
		}
	}
	return b.String()
}

// mismatch is the plain form.
func mismatch(want, format string, a ...any) *Mismatch {
	return &Mismatch{Want: want, Got: fmt.Sprintf(format, a...)}
}

// asMismatch finds a Mismatch in an error.
func asMismatch(err error) *Mismatch {
	var m *Mismatch
	if errors.As(err, &m) {
		return m
	}
	return nil
}

// outcomeOf names what an exchange ended in: its status, or the kind of transport error.
func outcomeOf(x loadgen.Exchange) string {
	if x.ErrKind != "" {
		return x.ErrKind
	}
	return fmt.Sprint(x.Status)
}

// tally counts exchanges by a key, as "200 ×3, reset ×1".
func tally(xs []loadgen.Exchange, key func(loadgen.Exchange) string) string {
	return counts(countBy(xs, key))
}

func countBy(xs []loadgen.Exchange, key func(loadgen.Exchange) string) map[string]int {
	out := map[string]int{}
	for _, x := range xs {
		out[key(x)]++
	}
	return out
}

func counts(m map[string]int) string {
	var parts []string
	for _, k := range sortedKeys(m) {
		parts = append(parts, fmt.Sprintf("%s ×%d", k, m[k]))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// all judges that every exchange ended in the outcome wanted ("200", "dial-refused"); none at all is a mismatch.
func all(what string, xs []loadgen.Exchange, outcomes ...string) error {
	want := fmt.Sprintf("%s: %s on each of %d requests", what, strings.Join(outcomes, " or "), len(xs))
	if len(xs) == 0 {
		return mismatch(what+": answers", "no request was made")
	}
	var bad []loadgen.Exchange
	for _, x := range xs {
		if !slices.Contains(outcomes, outcomeOf(x)) {
			bad = append(bad, x)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return &Mismatch{Want: want, Got: tally(xs, outcomeOf), Exchanges: bad[:min(len(bad), 5)], Detail: describe(bad[0])}
}

// describe is an exchange in one line.
func describe(x loadgen.Exchange) string {
	if x.Err != "" {
		return fmt.Sprintf("request %d: %s (%s)", x.Seq, x.Err, x.ErrKind)
	}
	body := strings.TrimSpace(string(x.Body))
	if len(body) > 200 {
		body = body[:200] + "…"
	}
	return fmt.Sprintf("request %d: %d from pod %q version %q: %s", x.Seq, x.Status, pod(x), version(x), body)
}

func pod(x loadgen.Exchange) string     { return x.Header.Get("X-Echo-Pod") }
func version(x loadgen.Exchange) string { return x.Header.Get("X-Echo-Version") }

// answer decodes what the backend said; an answer that names no backend is a mismatch, since it proves nothing.
func answer(x loadgen.Exchange) (echo.Answer, error) {
	var a echo.Answer
	if err := json.Unmarshal(x.Body, &a); err != nil || a.Pod == "" {
		return a, &Mismatch{Want: "an answer that names its backend", Got: describe(x), Exchanges: []loadgen.Exchange{x}}
	}
	return a, nil
}

// reached judges that every one of the names answered and nothing else did.
func reached(what string, xs []loadgen.Exchange, key func(loadgen.Exchange) string, names []string) error {
	if err := all(what, xs, "200"); err != nil {
		return err
	}
	seen := countBy(xs, key)
	var missing, stray []string
	for _, n := range names {
		if seen[n] == 0 {
			missing = append(missing, n)
		}
	}
	for n := range seen {
		if !slices.Contains(names, n) {
			stray = append(stray, fmt.Sprintf("%q", n))
		}
	}
	slices.Sort(stray)
	if len(missing)+len(stray) == 0 && len(names) > 0 {
		return nil
	}
	m := mismatch(fmt.Sprintf("%s: answers from all of %s", what, strings.Join(names, ", ")), "%s", counts(seen))
	if len(missing) > 0 {
		m.Detail = "never answered: " + strings.Join(missing, ", ")
	}
	if len(stray) > 0 {
		m.Detail = strings.TrimPrefix(m.Detail+"; not expected: "+strings.Join(stray, ", "), "; ")
	}
	for _, n := range sortedKeys(seen) {
		m.Distribution = append(m.Distribution, Bar{Name: n, Count: float64(seen[n])})
	}
	return m
}
