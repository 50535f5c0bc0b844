// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// destinationRuleBalance are the balancers beyond the plain ones, and where a policy applies.
func destinationRuleBalance() []Case {
	return nil
}
