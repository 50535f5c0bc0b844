// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// destinationRuleTLS are what the proxy says to a backend that speaks TLS.
func destinationRuleTLS() []Case {
	return nil
}
