// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import "slices"

// virtualServiceMore are the rarer fields of HTTP routes.
func virtualServiceMore() []Case {
	return slices.Concat(
		virtualServiceConditions(), virtualServiceScopes(), virtualServiceAnswers(), virtualServiceTries(), virtualServiceFaults(),
		virtualServiceCopies(), virtualServiceRefused(),
	)
}
