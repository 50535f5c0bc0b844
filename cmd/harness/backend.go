// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"

	"harness.example/harness/fixtures"
)

// backend makes the image of the suites' backends from this very program.
func backend() (ref string, save func(io.Writer) error, err error) {
	exe, err := os.Executable()
	if err != nil {
		return "", nil, fmt.Errorf("find this program: %w", err)
	}
	img, ref, err := fixtures.BackendImage(exe)
	if err != nil {
		return "", nil, fmt.Errorf("make the backends' image: %w", err)
	}
	return ref, func(w io.Writer) error { return fixtures.SaveImage(w, ref, img) }, nil
}
