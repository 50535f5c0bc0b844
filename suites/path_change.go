// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// pathChanges are changes of configuration and of the machines under load.
func pathChanges() []Case {
	return nil
}
