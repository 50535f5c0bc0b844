// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// meshCases are clients and servers with sidecars.
func meshCases() []Case {
	return nil
}
