// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// destinationRuleLimits are connection pools, outlier detection and protocol upgrades.
func destinationRuleLimits() []Case {
	return nil
}
