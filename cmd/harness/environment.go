// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"harness.example/harness/cluster"
)

// environmentFlags name an environment: one that harness makes itself, or a cluster that is already there.
type environmentFlags struct {
	own    cluster.Config
	attach cluster.AttachConfig

	disruptive bool
}

// addOwn adds the flags of an environment made by harness.
func (e *environmentFlags) addOwn(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&e.own.Name, "name", "harness", "name of the environment; several can live side by side")
	f.StringVar(&e.own.Images, "images", "", "where images come from: registry or source (default: source where no registry answers)")
	f.StringVar(&e.own.Mirror, "registry-mirror", "", "registry to pull from instead of the public ones")
	f.StringVar(&e.own.Engine, "engine", "", "container engine: docker or podman (default: the one that is there)")
	f.StringVar(&e.own.Isolation, "isolation", "auto", "network namespace of its own: auto, on or off")
	fixed(cmd, "images", "registry", "source")
	fixed(cmd, "engine", "docker", "podman")
	fixed(cmd, "isolation", "auto", "on", "off")
}

// addAttach adds the flags of a cluster that is already there.
func (e *environmentFlags) addAttach(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&e.attach.Kubeconfig, "kubeconfig", "", "work on the cluster of this file instead of an environment of harness's own")
	f.StringVar(&e.attach.Context, "context", "", "context of the kubeconfig; implies an attached cluster")
	f.StringVar(&e.attach.Image, "image", "", "image of the backends on an attached cluster, already within its reach")
	f.StringVar(&e.attach.Push, "push", "", "push the backends' image to this repository for an attached cluster")
	f.StringVar(&e.attach.Gateway, "gateway", "", "ingress gateway of an attached cluster: NAMESPACE/SERVICE, or own for one that the run makes (default: the one that is found)")
	f.BoolVar(&e.disruptive, "disruptive", false, "on an attached cluster, also run cases that disturb nodes, proxies or the control plane, or register APIs")
}

// fixed completes a flag from a list.
func fixed(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func (e *environmentFlags) attached() bool {
	return e.attach.Kubeconfig != "" || e.attach.Context != ""
}

// config is the checked configuration of an own environment.
func (e *environmentFlags) config() (cluster.Config, error) {
	for _, c := range []struct{ flag, value, a, b, c string }{
		{"--images", e.own.Images, "", "registry", "source"},
		{"--engine", e.own.Engine, "", "docker", "podman"},
		{"--isolation", e.own.Isolation, "auto", "on", "off"},
	} {
		if c.value != c.a && c.value != c.b && c.value != c.c {
			return cluster.Config{}, usage(fmt.Sprintf("use %s or %s", c.b, c.c), "unknown %s %q", c.flag, c.value)
		}
	}
	e.own.Backend = backend
	cfg, err := e.own.WithDefaults()
	if err != nil {
		return cfg, usage("", "%w", err)
	}
	return cfg, nil
}

// check refuses combinations that mean nothing, before anything is touched.
func (e *environmentFlags) check() error {
	if e.attached() {
		if err := e.checkContext(); err != nil {
			return err
		}
		if e.attach.Image != "" && e.attach.Push != "" {
			return usage("--image names an image that is there, --push makes one", "--image and --push exclude each other")
		}
		return nil
	}
	for flag, set := range map[string]bool{
		"--image": e.attach.Image != "", "--push": e.attach.Push != "", "--gateway": e.attach.Gateway != "", "--disruptive": e.disruptive,
	} {
		if set {
			return usage("add --kubeconfig or --context, or leave "+flag+" out", "%s is for an attached cluster", flag)
		}
	}
	_, err := e.config()
	return err
}

// checkContext refuses a kubeconfig or a context that is not there, and names the context that the kubeconfig chooses.
func (e *environmentFlags) checkContext() error {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = e.attach.Kubeconfig
	config, err := rules.Load()
	if err != nil {
		return usage("--kubeconfig takes the path of a kubeconfig file", "read kubeconfig: %w", err)
	}
	if e.attach.Context == "" {
		e.attach.Context = config.CurrentContext
	}
	if _, ok := config.Contexts[e.attach.Context]; !ok {
		known := sortedKeys(config.Contexts)
		return usage(didYouMean(e.attach.Context, known, "known contexts: "+dash(strings.Join(known, ", "))), "the kubeconfig has no context %q", e.attach.Context)
	}
	return nil
}

// access finds the environment that is up, entering its network namespace, or attaches. It makes nothing.
func (a *app) access(ctx context.Context, e *environmentFlags) (*cluster.Access, []cluster.Event, error) {
	if err := e.check(); err != nil {
		return nil, nil, err
	}
	if e.attached() {
		e.attach.Backend = backend
		access, err := cluster.Attach(ctx, e.attach)
		if err != nil {
			return nil, nil, fmt.Errorf("attach: %w", err)
		}
		access.Disruptive = e.disruptive
		return access, nil, nil
	}
	cfg, err := e.config()
	if err != nil {
		return nil, nil, err
	}
	access, events, err := cluster.Load(cfg)
	if errors.Is(err, cluster.ErrAbsent) {
		return nil, nil, unjudged("bring it up with `harness up`, or name a cluster that is there with --kubeconfig or --context",
			"no environment %q on this machine", cfg.Name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the state of environment %q: %w", cfg.Name, err)
	}
	// A restart of the machine or of the containers leaves the file and takes the cluster.
	if err := a.enter(cfg, nil); err != nil {
		return nil, nil, err
	}
	return access, events, nil
}

// resumed is what a process hands to itself through cluster.Enter, which starts the same command again in the network
// namespace: what was done outside must neither be done twice nor be missing from the report.
type resumed struct {
	ID      string          `json:"id,omitempty"`
	Started time.Time       `json:"started,omitzero"`
	Steps   []cluster.Event `json:"steps,omitempty"`
}

const resumeVariable = "HARNESS_RESUME"

// enter puts this process into the environment's network namespace. It returns only where there is none, or once inside.
func (a *app) enter(cfg cluster.Config, carry *resumed) error {
	if carry == nil {
		carry = &resumed{}
	}
	b, err := json.Marshal(carry)
	if err != nil {
		return fmt.Errorf("enter the environment: %w", err)
	}
	if err := os.Setenv(resumeVariable, string(b)); err != nil {
		return fmt.Errorf("enter the environment: %w", err)
	}
	defer func() { _ = os.Unsetenv(resumeVariable) }()
	if err := cluster.Enter(cfg); err != nil {
		return fmt.Errorf("enter the environment's network namespace: %w", err)
	}
	return nil
}

// takeResumed reads what the process outside the namespace left, and removes it so that no child inherits it.
func takeResumed() (*resumed, error) {
	text, ok := os.LookupEnv(resumeVariable)
	if !ok {
		return nil, nil
	}
	_ = os.Unsetenv(resumeVariable)
	r := &resumed{}
	if err := json.Unmarshal([]byte(text), r); err != nil {
		return nil, usage("unset it: harness sets it for itself", "variable %s: %w", resumeVariable, err)
	}
	return r, nil
}
