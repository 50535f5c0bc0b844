// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package loadgen

// A usage is what this process has used so far; it is not known here.
type usage struct {
	cpu       float64
	throttled uint64
}

func readUsage() usage { return usage{} }
