// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

// virtualServiceStreams are routes of TCP and of TLS by server name.
func virtualServiceStreams() []Case {
	return nil
}
