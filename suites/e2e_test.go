// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"sigs.k8s.io/e2e-framework/pkg/env"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"
)

// The second driver of the same runner: every case as a feature of sigs.k8s.io/e2e-framework, with its check and its
// controls as assessments, so that its flags (--feature, --assess, --labels, --skip-…, --dry-run, --fail-fast) and an
// IDE's "run this test" work:
//
//	harness exec -- go test ./suites -run TestCases -args --feature Gateway
const targetVariable = "HARNESS_TARGET"

// driver is what the features share.
type driver struct {
	framework env.Environment
	runner    *runner
}

var shared driver //nolint:gochecknoglobals // TestMain has no other way to hand something to a test

func TestMain(m *testing.M) {
	framework, err := env.NewFromFlags()
	if err != nil {
		fmt.Fprintln(os.Stderr, "ERROR:", err)
		os.Exit(2)
	}
	shared.framework = framework
	file := os.Getenv(targetVariable)
	if file == "" {
		os.Exit(m.Run())
	}
	framework.Setup(func(ctx context.Context, _ *envconf.Config) (context.Context, error) {
		target, err := ReadTarget(file)
		if err != nil {
			return ctx, err
		}
		shared.runner, err = connect(target, Options{Run: "gotest-" + time.Now().UTC().Format("20060102-150405")})
		return ctx, err
	})
	framework.Finish(func(ctx context.Context, _ *envconf.Config) (context.Context, error) {
		if shared.runner == nil {
			return ctx, nil
		}
		return ctx, shared.runner.finish(ctx)
	})
	os.Exit(framework.Run(m))
}

func TestCases(t *testing.T) {
	if shared.runner == nil && os.Getenv(targetVariable) == "" {
		t.Skip("needs a cluster: run `harness up`, then `harness exec -- go test ./suites`")
	}
	for _, c := range All() {
		t.Run(c.Name, func(t *testing.T) {
			feature := features.New(c.Name)
			for k, v := range c.AllLabels() {
				feature = feature.WithLabel(k, v)
			}
			feature = feature.Assess("holds, and fails under every control", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
				report(t, shared.runner.execute(ctx, attempt{c: c, n: 1}))
				return ctx
			})
			_ = shared.framework.Test(t, feature.Feature())
		})
	}
}

func report(t *testing.T, r Result) {
	t.Helper()
	for _, c := range r.Controls {
		t.Logf("control %s: %s: %s%s", c.Break, c.Outcome, c.Got, c.Reason)
	}
	switch r.Outcome {
	case Pass:
	case Skipped:
		t.Skip(r.Reason)
	default:
		t.Error(errors.New(string(r.Outcome) + ": " + r.Reason))
	}
}
