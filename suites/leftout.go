// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// Omission is a behaviour that one could expect a case for, and why there is none.
type Omission struct{ What, Why string }

// LeftOut are the behaviours that no case proves. Single fields have their reasons in scopes.
func LeftOut() []Omission {
	return []Omission{
		{"HPA to ten pods", "ten pods on a machine of two processors would time the start of pods, not the autoscaler; the maximum is four."},
	}
}
