// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestComponentModulesAreEmbeddedWhole(t *testing.T) {
	for _, m := range modules {
		files, err := m.files()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(files["go.mod"]), "module ") || len(files["go.sum"]) < 1000 {
			t.Errorf("module %s is not whole", m.name)
		}
		for _, main := range m.mains {
			if text := string(files[main+"/main.go"]); !strings.Contains(text, "package main") || strings.Contains(text, "//go:build ignore") {
				t.Errorf("program %s cannot be compiled", main)
			}
		}
		if m.tools != strings.Contains(string(files["go.mod"]), "\ntool ") {
			t.Errorf("module %s: tools = %t is not what its .mod says", m.name, m.tools)
		}
	}
}

func TestKeyDependsOnEveryPart(t *testing.T) {
	if key("a", "b") != key("b", "a") {
		t.Error("the order of parts matters")
	}
	if key("a", "b") == key("ab") || key("a") == key("a", "") {
		t.Error("different parts have one key")
	}
}

func TestInPlaceKeepsOnlyWhatIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "thing")
	broken := errors.New("broken")
	if err := inPlace(path, func(tmp string) error {
		return errors.Join(os.WriteFile(tmp, []byte("half"), 0o600), broken)
	}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("half a thing is kept")
	}
	made := 0
	for range 2 {
		if err := inPlace(path, func(tmp string) error { made++; return os.WriteFile(tmp, []byte("whole"), 0o600) }); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || made != 1 || len(entries) != 1 {
		t.Errorf("made %d times, left %v, %v", made, entries, err)
	}
}

func TestLayerIsReproducibleAndAnImageOfItValid(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	build := func(name string) v1.Layer {
		w, err := newLayer(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		w.copyFile("usr/bin/program", 0o755, program)
		w.link("usr/bin/other", "program")
		w.dir("tmp", 0o1777, 0)
		w.bytes("etc/passwd", 0o644, []byte("root"))
		layer, err := w.layer()
		if err != nil {
			t.Fatal(err)
		}
		return layer
	}
	one, two := build("one"), build("two")
	a, _ := one.Digest()
	b, _ := two.Digest()
	if a != b {
		t.Error("the same inputs give different layers")
	}
	img, err := image(v1.Config{Entrypoint: []string{"/usr/bin/program"}}, one)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Error(err)
	}
	w, err := newLayer(filepath.Join(dir, "bad"))
	if err != nil {
		t.Fatal(err)
	}
	w.copyFile("x", 0o644, filepath.Join(dir, "missing"))
	if _, err := w.layer(); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestIptablesFilesAreFoundInTheRootFileSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(file)
	list := "/.\n/lib\n/lib/libx.so\n/usr/sbin/iptables-nft\n"
	for _, err := range []error{
		w.WriteHeader(&tar.Header{Name: "./var/lib/dpkg/info/iptables.list", Size: int64(len(list)), Mode: 0o644}),
		func() error { _, err := io.WriteString(w, list); return err }(), w.Close(), file.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	files, err := packageFiles(path, []string{"iptables"})
	if err != nil || !files["usr/lib/libx.so"] || !files["usr/sbin/iptables-nft"] {
		t.Errorf("files %v, %v", files, err)
	}
	for name, keep := range map[string]bool{"usr/sbin/iptables-nft": true, "usr/lib/libx.so": true, "usr/bin/bash": false, "lib": true} {
		if got := iptablesFile(&tar.Header{Name: name}, files); got != keep {
			t.Errorf("%s is kept: %t", name, got)
		}
	}
	if !iptablesFile(&tar.Header{Name: "usr/sbin/iptables", Linkname: "/etc/alternatives/iptables"}, files) {
		t.Error("a program that is an alternative is lost")
	}
	if _, err := packageFiles(path, []string{"iptables", "nothing"}); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("a missing package: %v", err)
	}
}

// memory is an engine that holds what was imported.
type memory map[string]string

func (m memory) Has(_ context.Context, ref string) bool { return m[ref] != "" }
func (m memory) Import(_ context.Context, layout, ref string) error {
	m[ref] = layout
	return nil
}

// The registry way against a real registry: a mirror on loopback, pulled once.
func TestRegistryWayPullsEverythingOnceFromAMirror(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	mirror := strings.TrimPrefix(server.URL, "http://")
	w, err := newLayer(filepath.Join(t.TempDir(), "layer"))
	if err != nil {
		t.Fatal(err)
	}
	w.bytes("file", 0o644, []byte("x"))
	layer, err := w.layer()
	if err != nil {
		t.Fatal(err)
	}
	img, err := image(v1.Config{}, layer)
	if err != nil {
		t.Fatal(err)
	}
	if got := Probe(t.Context(), mirror); got != "source" {
		t.Errorf("an empty registry: %s", got)
	}
	for _, ref := range append([]string{nodeImage}, published...) {
		to, err := name.ParseReference(mirrored(ref, mirror))
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(to, img); err != nil {
			t.Fatal(err)
		}
	}
	if got := Probe(t.Context(), mirror); got != "registry" {
		t.Errorf("a full registry: %s", got)
	}
	engine := memory{}
	way := Registry{Cache: t.TempDir(), Engine: engine, Mirror: mirror}
	plain := func(ctx context.Context, _ string, do func(context.Context, func(string)) error) error {
		return do(ctx, func(string) {})
	}
	set, err := way.Prepare(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	if !engine.Has(t.Context(), set.Node) || len(set.Archives) != len(published) || set.IstioTag != IstioRegistry {
		t.Errorf("set %+v, engine %v", set, engine)
	}
	tag, err := name.NewTag(published[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tarball.ImageFromPath(set.Archives[0], &tag); err != nil {
		t.Errorf("the archive does not carry the published name: %v", err)
	}
	server.Close()
	if _, err := way.Prepare(t.Context(), plain); err != nil {
		t.Errorf("with everything cached the registry is asked again: %v", err)
	}
}
