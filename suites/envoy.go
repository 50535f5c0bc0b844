// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"harness.example/harness/suites/envoy"
)

// picture is what a proxy must show before a case may be judged.
type picture struct {
	name         string              // what the case's objects are called; other cases' half-done changes are none of ours
	token        string              // is in the routes
	services     map[string][]string // name.namespace → its ready endpoints, host:port
	local        map[string]bool     // Services, name.namespace, of which a proxy is given its own node's endpoints only
	gone         []string            // Services, name.namespace, that were deleted
	routed       []destination       // have a cluster
	certificates []string            // are served: the PEM chains as base64
}

// destination is what a VirtualService routes to.
type destination struct {
	service string // name.namespace
	subset  string
	gateway bool // from a gateway, not only from sidecars
}

// serves says whether a proxy shows the picture: nil, or what is missing.
func (l *live) serves(ctx context.Context, p corev1.Pod, want picture) error {
	gateway := p.Namespace == l.r.target.Gateway.Namespace
	for _, ask := range []struct {
		path  string
		needs bool
		shows func([]byte, picture) error
	}{
		{"/config_dump?resource=dynamic_route_configs", true, showsToken},
		{"/config_dump?resource=dynamic_warming_clusters", true, warmsNothing},
		{"/config_dump?resource=dynamic_listeners&mask=name,warming_state,error_state", true, listens},
		{"/config_dump?resource=dynamic_active_secrets", gateway && len(want.certificates) > 0, showsCertificates},
		{"/clusters?format=json&filter=" + clustersOf(want), len(want.services)+len(want.gone) > 0, func(b []byte, want picture) error { return showsClusters(b, want, gateway) }},
	} {
		if !ask.needs {
			continue
		}
		body, err := l.forwards.Get(ctx, &p, envoy.AdminPort, ask.path)
		if err != nil {
			return err
		}
		if err := ask.shows(body, want); err != nil {
			return err
		}
	}
	return nil
}

// clustersOf is a filter for the clusters of the picture's Services; an Envoy that does not know filters gives all.
func clustersOf(want picture) string {
	var names []string
	for service := range want.services {
		names = append(names, regexp.QuoteMeta(service))
	}
	for _, service := range want.gone {
		names = append(names, regexp.QuoteMeta(service))
	}
	return url.QueryEscape(`.*\|(` + strings.Join(names, "|") + `)\.svc\..*`)
}

func showsToken(routes []byte, want picture) error {
	if !bytes.Contains(routes, []byte(want.token)) {
		return errors.New("its routes do not have the token yet")
	}
	return nil
}

// entries cuts a config dump into its resources.
func entries(dump []byte) ([]json.RawMessage, error) {
	var parsed struct {
		Configs []json.RawMessage `json:"configs"`
	}
	if err := json.Unmarshal(dump, &parsed); err != nil {
		return nil, fmt.Errorf("the proxy's config dump: %w", err)
	}
	return parsed.Configs, nil
}

func warmsNothing(dump []byte, want picture) error {
	clusters, err := entries(dump)
	if err != nil {
		return err
	}
	for _, c := range clusters {
		if bytes.Contains(c, []byte(want.name)) {
			return errors.New("a cluster is warming up")
		}
	}
	return nil
}

// listens is about listeners: one that warms up still serves what it served before, and so does one whose update the
// proxy refused.
func listens(dump []byte, want picture) error {
	listeners, err := entries(dump)
	if err != nil {
		return err
	}
	for _, raw := range listeners {
		var l struct {
			Name    string          `json:"name"`
			Active  json.RawMessage `json:"active_state"`
			Warming json.RawMessage `json:"warming_state"`
			Error   *struct {
				Failed  json.RawMessage `json:"failed_configuration"`
				Details string          `json:"details"`
			} `json:"error_state"`
		}
		if err := json.Unmarshal(raw, &l); err != nil {
			return fmt.Errorf("the proxy's listeners: %w", err)
		}
		if l.Error != nil && bytes.Contains(l.Error.Failed, []byte(want.name)) {
			return fmt.Errorf("the proxy refused listener %s: %s", l.Name, l.Error.Details)
		}
		if len(l.Warming) > 0 && bytes.Contains(l.Warming, []byte(want.name)) {
			return fmt.Errorf("listener %s is warming up", l.Name)
		}
	}
	return nil
}

func showsCertificates(secrets []byte, want picture) error {
	for _, c := range want.certificates {
		if !bytes.Contains(secrets, []byte(c)) {
			return errors.New("it does not have the certificate yet")
		}
	}
	return nil
}

// showsClusters compares Envoy's hosts with the Services' ready endpoints. The cluster of a whole Service has exactly
// those addresses, a subset's and that of a Service whose internal traffic stays on its node some of them, and what is
// routed to is there at all.
func showsClusters(clusters []byte, want picture, gateway bool) error {
	all, err := envoy.Clusters(clusters)
	if err != nil {
		return err
	}
	present := map[destination]bool{}
	for _, c := range all {
		parts := strings.Split(c.Name, "|")
		if len(parts) != 4 || parts[0] != "outbound" {
			continue
		}
		service, _, _ := strings.Cut(parts[3], ".svc.")
		if slices.Contains(want.gone, service) {
			return fmt.Errorf("cluster %s is still there", c.Name)
		}
		expected, ours := want.services[service]
		if !ours {
			continue
		}
		present[destination{service: service, subset: parts[2]}] = true
		addresses := map[string]bool{}
		for _, h := range c.Hosts {
			if h.Health.EDS != "HEALTHY" {
				continue
			}
			s := h.Address.Socket
			if endpoint := hostPort(s.Address, s.Port); !slices.Contains(expected, endpoint) {
				return fmt.Errorf("cluster %s still has endpoint %s", c.Name, endpoint)
			}
			addresses[s.Address] = true
		}
		have, should := slices.Sorted(maps.Keys(addresses)), addressesOf(expected)
		if parts[2] == "" && !want.local[service] && !slices.Equal(have, should) {
			return fmt.Errorf("cluster %s has endpoints %v, want %v", c.Name, have, should)
		}
	}
	for _, d := range want.routed {
		if d.gateway || !gateway {
			d.gateway = false
			if _, ours := want.services[d.service]; ours && !present[d] {
				return fmt.Errorf("there is no cluster for %s, subset %q", d.service, d.subset)
			}
		}
	}
	return nil
}

func addressesOf(endpoints []string) []string {
	seen := map[string]bool{}
	for _, e := range endpoints {
		host, _, err := net.SplitHostPort(e)
		if err == nil {
			seen[host] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// routed are the destinations of the VirtualServices among the objects. A subset that no DestinationRule among them
// defines is left out: it has no cluster, and that may be what a case is about.
func routed(objs []*unstructured.Unstructured) []destination {
	subsets := map[destination]bool{}
	for _, o := range objs {
		if o.GetKind() != "DestinationRule" {
			continue
		}
		host, _, _ := unstructured.NestedString(o.Object, "spec", "host")
		list, _, _ := unstructured.NestedSlice(o.Object, "spec", "subsets")
		for _, s := range list {
			if m, ok := s.(map[string]any); ok {
				name, _ := m["name"].(string)
				subsets[destination{service: qualified(host, o.GetNamespace()), subset: name}] = true
			}
		}
	}
	var out []destination
	for _, o := range objs {
		if o.GetKind() != "VirtualService" {
			continue
		}
		gateways, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "gateways")
		fromGateway := slices.ContainsFunc(gateways, func(g string) bool { return g != "mesh" })
		for _, kind := range []string{"http", "tcp", "tls"} {
			rules, _, _ := unstructured.NestedSlice(o.Object, "spec", kind)
			for _, d := range destinations(rules, o.GetNamespace()) {
				if d.subset == "" || subsets[d] {
					d.gateway = fromGateway
					out = append(out, d)
				}
			}
		}
	}
	return out
}

func destinations(rules []any, namespace string) []destination {
	var out []destination
	for _, r := range rules {
		rule, ok := r.(map[string]any)
		if !ok {
			continue
		}
		routes, _, _ := unstructured.NestedSlice(rule, "route")
		for _, r := range routes {
			route, ok := r.(map[string]any)
			if !ok {
				continue
			}
			host, _, _ := unstructured.NestedString(route, "destination", "host")
			subset, _, _ := unstructured.NestedString(route, "destination", "subset")
			out = append(out, destination{service: qualified(host, namespace), subset: subset})
		}
	}
	return out
}

// qualified is a Service's host as name.namespace.
func qualified(host, namespace string) string {
	if !strings.Contains(host, ".") {
		return host + "." + namespace
	}
	service, _, _ := strings.Cut(host, ".svc.")
	return service
}

// certificates are the chains that the gateway must serve: those of the Secrets that a Gateway among the objects names,
// in the gateway's namespace. A chain without its key is refused by istiod and never arrives.
func certificates(objs []*unstructured.Unstructured, namespace string) []string {
	named := map[string]bool{}
	for _, o := range objs {
		servers, _, _ := unstructured.NestedSlice(o.Object, "spec", "servers")
		for _, s := range servers {
			if m, ok := s.(map[string]any); ok && o.GetKind() == "Gateway" {
				name, _, _ := unstructured.NestedString(m, "tls", "credentialName")
				several, _, _ := unstructured.NestedStringSlice(m, "tls", "credentialNames")
				for _, name := range append(several, name) {
					named[name] = true
				}
			}
		}
	}
	var out []string
	for _, o := range objs {
		if o.GetKind() != "Secret" || o.GetNamespace() != namespace || !named[o.GetName()] {
			continue
		}
		data, _, _ := unstructured.NestedStringMap(o.Object, "data")
		cert, errCert := base64.StdEncoding.DecodeString(data["tls.crt"])
		key, errKey := base64.StdEncoding.DecodeString(data["tls.key"])
		if _, err := tls.X509KeyPair(cert, key); errors.Join(errCert, errKey, err) == nil {
			out = append(out, data["tls.crt"])
		}
	}
	return out
}
