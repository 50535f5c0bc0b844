// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"harness.example/harness/fixtures/echo"
)

func (a *app) echoCommand() *cobra.Command {
	cfg := echo.Config{}
	cmd := &cobra.Command{
		Use:   "echo",
		Short: "Serve as the backend: what the pods of a run do",
		Long: `echo answers HTTP/1.1, h2c, gRPC, TCP, TLS, UDP and WebSocket with its pod, node, version and what it received. It can
burn CPU, hold memory, fail or delay on request. Who it is comes from POD_NAME, POD_NAMESPACE, NODE_NAME, POD_IP, ECHO_VERSION
and SERVICE_ACCOUNT; with ECHO_TOKEN set, requests that command it must carry that token.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Identity = echo.IdentityFromEnv()
			cfg.Token = os.Getenv("ECHO_TOKEN")
			if err := echo.Run(cmd.Context(), cfg); err != nil {
				return fmt.Errorf("echo: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.HTTP, "http", ":8080", "address for HTTP/1.1, h2c and WebSocket")
	f.StringVar(&cfg.TLS, "tls", ":8443", "address for HTTPS")
	f.StringVar(&cfg.TCP, "tcp", ":9000", "address for TCP")
	f.StringVar(&cfg.GRPC, "grpc", ":9090", "address for gRPC")
	f.StringVar(&cfg.UDP, "udp", ":9001", "address for UDP")
	f.StringVar(&cfg.Control, "control", ":8081", "address for health, metrics and control")
	f.StringVar(&cfg.CertFile, "cert", "", "certificate for --tls (default: one made at start)")
	f.StringVar(&cfg.KeyFile, "key", "", "key of --cert")
	return cmd
}
