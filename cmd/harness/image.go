// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func (a *app) imageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "image FILE",
		Short: "Write this program's own container image as an archive that docker, podman and containerd load",
		Args:  exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ref, save, err := backend()
			if err != nil {
				return err
			}
			f, err := os.Create(args[0])
			if err != nil {
				return usage("name a file in a directory that can be written", "write image: %w", err)
			}
			if err := errors.Join(save(f), f.Close()); err != nil {
				// Half an archive would only be noticed where it is loaded.
				return errors.Join(fmt.Errorf("write image %s: %w", args[0], err), os.Remove(args[0]))
			}
			_, err = fmt.Fprintln(a.stdout, ref)
			return err
		},
	}
}
