// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/cluster/images"
	"harness.example/harness/cluster/manifests"
)

func TestPool(t *testing.T) {
	for subnet, want := range map[string]string{
		"10.89.0.0/24": "10.89.0.200-10.89.0.250", "172.18.0.0/16": "172.18.255.200-172.18.255.250", "10.1.0.0/25": "10.1.0.72-10.1.0.122",
	} {
		first, last, err := pool(subnet)
		if got := first.String() + "-" + last.String(); err != nil || got != want {
			t.Errorf("pool(%s) = %s, %v, want %s", subnet, got, err, want)
		}
	}
	for _, subnet := range []string{"", "10.0.0.0/26", "fc00::/64", "nonsense"} {
		if _, _, err := pool(subnet); err == nil {
			t.Errorf("pool(%q) is accepted", subnet)
		}
	}
}

func TestConfigRefusesBadNames(t *testing.T) {
	for _, name := range []string{"A", "-a", "a_b", "a.b", strings.Repeat("a", 31), "a/../b"} {
		if _, err := (Config{Name: name}).WithDefaults(); err == nil {
			t.Errorf("name %q is accepted", name)
		}
	}
	c, err := Config{StateDir: t.TempDir(), CacheDir: t.TempDir()}.WithDefaults()
	if err != nil || c.Name != "harness" || c.Workers != 2 {
		t.Errorf("defaults: %+v, %v", c, err)
	}
}

func TestStateSurvivesAndIsPrivate(t *testing.T) {
	c := Config{Name: "x", StateDir: filepath.Join(t.TempDir(), "state")}
	if _, _, err := Load(c); !errors.Is(err, ErrAbsent) {
		t.Errorf("before: %v", err)
	}
	s := &state{Engine: "podman", Set: images.Set{Node: "n"}, Steps: []Event{{Step: "a", State: Done}}}
	if err := c.save(s); err != nil {
		t.Fatal(err)
	}
	if _, steps, err := Load(c); !errors.Is(err, ErrAbsent) || len(steps) != 1 {
		t.Errorf("half up: %v, %v", steps, err)
	}
	s.Access = &Access{Kubeconfig: "k", Gateway: Gateway{Host: "h"}}
	if err := c.save(s); err != nil {
		t.Fatal(err)
	}
	access, _, err := Load(c)
	if err != nil || access.Kubeconfig != "k" {
		t.Errorf("after: %+v, %v", access, err)
	}
	info, err := os.Stat(c.statePath())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(c.statePath(), []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(c); err == nil || !strings.Contains(err.Error(), "harness down") {
		t.Errorf("torn: %v", err)
	}
	if err := c.removeState(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.StateDir); !os.IsNotExist(err) {
		t.Error("the state directory stays")
	}
}

func TestASecondCommandIsToldOfTheFirst(t *testing.T) {
	c := Config{Name: "x", StateDir: filepath.Join(t.TempDir(), "state")}
	unlock, err := c.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.lock(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("the second: %v", err)
	}
	other := c
	other.Name = "y"
	unlockOther, err := other.lock()
	if err != nil {
		t.Errorf("another environment: %v", err)
	} else {
		unlockOther()
	}
	unlock()
	if unlock, err = c.lock(); err != nil {
		t.Errorf("afterwards: %v", err)
	} else {
		unlock()
	}
}

func TestStepsStopAtTheFirstFailure(t *testing.T) {
	var events []string
	track := &tracker{progress: func(e Event) { events = append(events, e.Step+" "+string(e.State)) }}
	broken := errors.New("broken")
	ok := func(context.Context, func(string)) error { return nil }
	err := track.sequence(t.Context(), "", []step{{"a", ok}, {"b", func(context.Context, func(string)) error { return broken }}, {"c", ok}})
	if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "b: ") {
		t.Errorf("got %v", err)
	}
	if got := strings.Join(events, ", "); got != "a started, a done, b started, b failed" {
		t.Errorf("events %s", got)
	}
	if len(track.ended) != 2 {
		t.Errorf("%d steps ended", len(track.ended))
	}
}

func TestUntilTriesOnceAndKeepsTheReason(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tries := 0
	err := until(ctx, time.Minute, func(context.Context) error { tries++; return errors.New("not yet") })
	if err == nil || !errors.Is(err, context.Canceled) || tries > 1 {
		t.Errorf("%d tries, %v", tries, err)
	}
	err = until(t.Context(), 10*time.Millisecond, func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("got %v", err)
	}
}

func TestManifestsAreWhole(t *testing.T) {
	if !strings.Contains(manifests.Istio, "docker.io/istio/proxyv2:"+manifests.IstioTag) {
		t.Error("istio.yaml does not name its tag by the placeholder")
	}
	rest, gateway := splitGateway(manifests.Istio)
	if !strings.Contains(gateway, "kind: Deployment") || strings.Contains(rest, "\n  name: istio-ingressgateway\n  namespace: istio-system\nspec:\n  selector:\n    matchLabels") {
		t.Error("the gateway's Deployment is not parted from the rest")
	}
	if strings.Count(rest, "\n---\n")+1 < 30 {
		t.Errorf("only %d other documents", strings.Count(rest, "\n---\n")+1)
	}
}

func TestGatewayPorts(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "gw"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
			{Name: "http2", Port: 80, NodePort: 31080}, {Name: "https", Port: 443, NodePort: 31443}, {Name: "t", Port: 31400, NodePort: 31401},
		}},
	}
	for nodePorts, want := range map[bool]string{
		false: `{"http":80,"https":443,"tcp":31400}`, true: `{"http":31080,"https":31443,"tcp":31401}`,
	} {
		got, err := json.Marshal(gatewayOf(service, "h", nodePorts).Ports)
		if err != nil || string(got) != want {
			t.Errorf("node ports %t: %s, want %s", nodePorts, got, want)
		}
	}
}
