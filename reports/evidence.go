// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
)

// storeEvidence writes the bodies of a case's evidence below dir/cases/<id>/ and gives the case with their paths and without
// bodies over MaxInline. What could not be written stays inline, cut to that size, and is part of the error. An os.Root keeps
// every write inside dir, whatever a name or a link says.
func storeEvidence(dir string, c Case) (Case, error) {
	if len(c.Evidence) == 0 {
		return c, nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return c, fmt.Errorf("store evidence of %s: %w", c.Name, err)
	}
	defer root.Close() //nolint:errcheck // a directory handle
	c.Evidence = slices.Clone(c.Evidence)
	taken := map[string]bool{}
	var errs []error
	for i := range c.Evidence {
		f := &c.Evidence[i]
		if f.Path == "" {
			name := safePath(f.Name)
			for n := 2; taken[name]; n++ {
				name = safePath(fmt.Sprintf("%s (%d)", f.Name, n))
			}
			taken[name] = true
			at := path.Join(casesDir, c.ID(), name)
			if err := writeIn(root, at, f.Body); err != nil {
				errs = append(errs, fmt.Errorf("store evidence of %s: %w", c.Name, err))
				f.Body = head(f.Body, MaxInline)
				continue
			}
			f.Path = at
		}
		if len(f.Body) > MaxInline {
			f.Body = ""
		}
	}
	return c, errors.Join(errs...)
}

func writeIn(root *os.Root, name, body string) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	return root.WriteFile(name, []byte(body), 0o600)
}
