// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// virtualServiceMore are the rarer fields of HTTP routes.
func virtualServiceMore() []Case {
	return nil
}
