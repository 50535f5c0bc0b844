// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Command gatewayapi runs the Gateway API project's conformance suite and harness's cases one after the other on the same
// cluster, and prints how many seconds a case takes in each. It is a module of its own, because that suite pins other versions
// of the Kubernetes libraries. Run it from here by way of `make benchgatewayapi`.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	clientset "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/yaml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ERROR:", err)
		os.Exit(1)
	}
}

// target is what `harness exec` says of the cluster.
type target struct {
	Kubeconfig string
	Nodes      []struct {
		Name string
		Exec []string
	}
}

// figure is one suite's result.
type figure struct {
	name                  string
	cases, passed, failed int
	seconds               float64
	detail                string
}

func run(ctx context.Context) (err error) {
	if len(os.Args) != 2 {
		return errors.New("usage: gatewayapi HARNESS-EXECUTABLE")
	}
	b, err := os.ReadFile(os.Getenv("HARNESS_TARGET"))
	if err != nil {
		return fmt.Errorf("read HARNESS_TARGET, which `harness exec` sets: %w", err)
	}
	var t target
	if err := json.Unmarshal(b, &t); err != nil {
		return fmt.Errorf("read HARNESS_TARGET: %w", err)
	}
	if err := loadEcho(ctx, t); err != nil {
		return err
	}
	remove, err := installDefinitions(ctx, t.Kubeconfig)
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return err
	}
	theirs, err := runTheirs(ctx, t.Kubeconfig)
	if err != nil {
		return err
	}
	with, without, err := runOurs(ctx, os.Args[1])
	if err != nil {
		return err
	}
	fmt.Printf("\n%-44s %6s %7s %7s %9s %9s %7s\n", "suite", "cases", "passed", "failed", "seconds", "s/case", "ratio")
	for _, f := range []figure{theirs, with, without} {
		per := f.seconds / float64(max(f.cases, 1))
		fmt.Printf("%-44s %6d %7d %7d %9.1f %9.2f %7.2f\n", f.name, f.cases, f.passed, f.failed, f.seconds, per, per/(theirs.seconds/float64(max(theirs.cases, 1))))
	}
	fmt.Println(theirs.detail)
	return nil
}

// loadEcho compiles the suite's backend and puts it on every node under the names that its manifests use.
func loadEcho(ctx context.Context, t target) error {
	dir, err := os.MkdirTemp("", "gatewayapi-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	exe := filepath.Join(dir, "echo")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", exe, "sigs.k8s.io/gateway-api/conformance/echo-basic")
	build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("compile the suite's backend: %w", err)
	}
	image, err := imageOf(exe)
	if err != nil {
		return err
	}
	manifests, err := conformance.Manifests.ReadFile("base/manifests.yaml")
	if err != nil {
		return err
	}
	images := map[name.Reference]v1.Image{}
	for _, ref := range slices.Compact(slices.Sorted(slices.Values(regexp.MustCompile(`registry\.k8s\.io/gateway-api/echo-basic:\S+`).FindAllString(string(manifests), -1)))) {
		tag, err := name.NewTag(ref)
		if err != nil {
			return err
		}
		images[tag] = image
	}
	var archive bytes.Buffer
	if err := tarball.MultiRefWrite(images, &archive); err != nil {
		return err
	}
	for _, node := range t.Nodes {
		argv := append(slices.Clone(node.Exec), "ctr", "--namespace", "k8s.io", "images", "import", "-")
		load := exec.CommandContext(ctx, argv[0], argv[1:]...)
		load.Stdin = bytes.NewReader(archive.Bytes())
		if out, err := load.CombinedOutput(); err != nil {
			return fmt.Errorf("load the suite's backend on %s: %w: %s", node.Name, err, out)
		}
	}
	return nil
}

func imageOf(exe string) (v1.Image, error) {
	content, err := os.ReadFile(exe)
	if err != nil {
		return nil, err
	}
	layer, err := layerOf("echo-basic", content)
	if err != nil {
		return nil, err
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: runtime.GOARCH, OS: "linux", RootFS: v1.RootFS{Type: "layers"}, Config: v1.Config{Entrypoint: []string{"/echo-basic"}},
	})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, layer)
}

// installDefinitions creates the Gateway API's resource definitions that are not there; remove takes them away.
func installDefinitions(ctx context.Context, kubeconfig string) (remove func() error, err error) {
	var made []string
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return func() error { return nil }, err
	}
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return func() error { return nil }, err
	}
	api := client.ApiextensionsV1().CustomResourceDefinitions()
	remove = func() error {
		var errs []error
		for _, crd := range made {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			errs = append(errs, api.Delete(ctx, crd, metav1.DeleteOptions{}))
			cancel()
		}
		return errors.Join(errs...)
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return remove, fmt.Errorf("find the Gateway API's module: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "config/crd/standard/*.yaml"))
	if err != nil {
		return remove, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return remove, err
		}
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.Unmarshal(b, &crd); err != nil || crd.Kind != "CustomResourceDefinition" {
			continue // a kustomization, or a policy that the suite does not need
		}
		if _, err := api.Create(ctx, &crd, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			continue
		} else if err != nil {
			return remove, fmt.Errorf("create %s: %w", crd.Name, err)
		}
		made = append(made, crd.Name)
	}
	if len(files) == 0 {
		return remove, errors.New("the Gateway API's module has no resource definitions")
	}
	return remove, awaitClass(ctx, config)
}

// awaitClass waits until istiod has said in its GatewayClass what it supports: the suite reads that.
func awaitClass(ctx context.Context, config *rest.Config) error {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	classes := client.Resource(schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gatewayclasses"})
	err = wait.PollUntilContextTimeout(ctx, time.Second, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		class, err := classes.Get(ctx, "istio", metav1.GetOptions{})
		if err != nil {
			return false, nil //nolint:nilerr // it will come
		}
		features, _, _ := unstructured.NestedSlice(class.Object, "status", "supportedFeatures")
		return len(features) > 0, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the GatewayClass istio: %w", err)
	}
	return nil
}

// runTheirs runs the Gateway API's suite for what the GatewayClass says that Istio supports.
func runTheirs(ctx context.Context, kubeconfig string) (figure, error) {
	f := figure{name: "gateway-api conformance, GatewayClass istio"}
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-timeout=40m", "-run", "TestConformance", ".", "-args", "--gateway-class=istio", "--cleanup-base-resources=true")
	cmd.Env, cmd.Stderr = append(os.Environ(), "KUBECONFIG="+kubeconfig), os.Stderr
	log, err := os.Create("gatewayapi.log")
	if err != nil {
		return f, err
	}
	defer log.Close() //nolint:errcheck // a log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return f, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return f, err
	}
	var bad []string
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		var e struct {
			Action, Test, Output string
			Elapsed              float64
		}
		// A case of theirs is a subtest of the first level.
		if json.Unmarshal(line, &e) == nil && e.Output != "" {
			fmt.Fprint(log, e.Output)
		}
		if strings.Count(e.Test, "/") == 1 {
			switch e.Action {
			case "pass":
				f.cases, f.passed = f.cases+1, f.passed+1
				fmt.Printf("theirs: pass %s (%.1fs)\n", e.Test, e.Elapsed)
			case "fail":
				f.cases, f.failed, bad = f.cases+1, f.failed+1, append(bad, e.Test)
				fmt.Printf("theirs: FAIL %s (%.1fs)\n", e.Test, e.Elapsed)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return f, err
		}
	}
	_ = cmd.Wait() // a case that fails is counted above
	f.seconds = time.Since(start).Seconds()
	if len(bad) > 0 {
		f.detail = "theirs that failed here: " + strings.Join(bad, ", ")
	}
	if f.cases == 0 {
		return f, errors.New("the Gateway API's suite ran no case; see gatewayapi.log")
	}
	return f, ctx.Err()
}

// runOurs runs harness's cases of the same subject.
func runOurs(ctx context.Context, harness string) (with, without figure, err error) {
	dir, err := os.MkdirTemp("", "gatewayapi-")
	if err != nil {
		return with, without, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	cmd := exec.CommandContext(ctx, harness, "test", "--report-dir", dir, "^Gateway/", "^VirtualService/")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	runErr := cmd.Run()
	files, err := filepath.Glob(filepath.Join(dir, "*", "report.json"))
	if err != nil || len(files) != 1 {
		return with, without, errors.Join(runErr, err, fmt.Errorf("%d reports", len(files)))
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		return with, without, err
	}
	var report struct {
		Started, Ended time.Time
		Cases          []struct {
			Outcome string
			Seconds float64
			Phases  []struct {
				Name    string
				Seconds float64
			}
		}
	}
	if err := json.Unmarshal(b, &report); err != nil {
		return with, without, err
	}
	with = figure{name: "harness, Gateway and VirtualService", cases: len(report.Cases), seconds: report.Ended.Sub(report.Started).Seconds()}
	total, controls := 0.0, 0.0
	for _, c := range report.Cases {
		if c.Outcome == "pass" {
			with.passed++
		} else if c.Outcome != "skip" {
			with.failed++
		}
		total += c.Seconds
		for _, p := range c.Phases {
			if p.Name == "controls" {
				controls += p.Seconds
			}
		}
	}
	without = with
	// Cases run side by side: the controls' part of all their time is their part of the run's.
	without.name, without.seconds = "  of which without the controls (their part)", with.seconds*(1-controls/max(total, 1e-9))
	return with, without, nil
}
