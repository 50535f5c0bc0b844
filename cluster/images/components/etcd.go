// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build ignore

package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
