// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

func outlierCases() []Case { return nil }
