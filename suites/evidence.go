// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"harness.example/harness/fixtures"
	"harness.example/harness/suites/envoy"
)

// collect gathers what an engineer would look up, before the clean-up removes it. What cannot be had is said in its
// place: evidence never changes a verdict.
func (l *live) collect(ctx context.Context, e *Env) []Evidence {
	var out []Evidence
	add := func(name string, body []byte, err error) {
		if err != nil {
			body = fmt.Appendf(nil, "cannot be had: %v\n", err)
		}
		if len(body) > 0 {
			out = append(out, Evidence{Name: name, Body: string(body)})
		}
	}
	add("manifests.yaml", documents(e.wanted), nil)
	var lives []*unstructured.Unstructured
	for _, o := range e.wanted {
		got, err := l.r.fx.Get(ctx, o)
		if err != nil {
			add("live-"+o.GetKind()+"-"+o.GetName()+".yaml", nil, err)
			continue
		}
		lives = append(lives, got)
	}
	add("live.yaml", documents(lives), nil)
	var exchanges []byte
	var err error
	if sent := e.exchanges(); len(sent) > 0 {
		exchanges, err = json.MarshalIndent(sent, "", "  ")
	}
	add("exchanges.json", exchanges, err)
	proxies, err := l.proxies(ctx, e)
	if err != nil {
		add("envoy/proxies", nil, err)
	}
	for _, p := range proxies {
		routes, err := l.forwards.Get(ctx, &p, envoy.AdminPort, "/config_dump?resource=dynamic_route_configs")
		add("envoy/"+p.Name+"-routes.json", virtualHosts(routes, e.Name()), err)
		clusters, err := l.forwards.Get(ctx, &p, envoy.AdminPort, "/clusters")
		add("envoy/"+p.Name+"-clusters.txt", linesWith(clusters, e.Name(), e.Namespace()+".svc"), err)
		logs, err := l.logs(ctx, &p, "istio-proxy", 2000)
		add("logs/"+p.Name+".txt", linesWith(logs, e.Vars["HOST"], e.Name()), err)
	}
	events, err := l.r.kube.CoreV1().Events(e.Namespace()).List(ctx, metav1.ListOptions{})
	if err == nil {
		var text strings.Builder
		for _, ev := range events.Items {
			if e.Case.Workload == Own || strings.Contains(ev.InvolvedObject.Name, e.Name()) {
				fmt.Fprintf(&text, "%s %s %s/%s: %s %s\n", ev.LastTimestamp.UTC().Format("15:04:05"), ev.Type, ev.InvolvedObject.Kind, ev.InvolvedObject.Name, ev.Reason, ev.Message)
			}
		}
		add("events.txt", []byte(text.String()), nil)
	} else {
		add("events.txt", nil, err)
	}
	if e.Case.Workload == Own {
		pods, err := l.r.kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			add("pods.txt", nil, err)
			return out
		}
		var text strings.Builder
		for _, p := range pods.Items {
			fmt.Fprintf(&text, "%s on %s: %s, ready %t, address %s\n", p.Name, p.Spec.NodeName, p.Status.Phase, fixtures.PodReady(&p), p.Status.PodIP)
			logs, err := l.logs(ctx, &p, p.Spec.Containers[0].Name, 100)
			add("logs/"+p.Name+".txt", logs, err)
		}
		add("pods.txt", []byte(text.String()), nil)
	}
	return out
}

func (l *live) logs(ctx context.Context, p *corev1.Pod, container string, lines int64) ([]byte, error) {
	return l.r.kube.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: container, TailLines: ptr.To(lines)}).DoRaw(ctx)
}

// documents writes objects as YAML, without the server's bookkeeping and without secrets.
func documents(objs []*unstructured.Unstructured) []byte {
	var out bytes.Buffer
	for _, o := range objs {
		o = o.DeepCopy()
		o.SetManagedFields(nil)
		if o.GetKind() == "Secret" {
			for _, field := range []string{"data", "stringData"} {
				if _, has := o.Object[field]; has {
					o.Object[field] = "redacted"
				}
			}
		}
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			text = fmt.Appendf(nil, "# %v\n", err)
		}
		out.WriteString("---\n")
		out.Write(text)
	}
	return out.Bytes()
}

// virtualHosts keeps of a route dump the virtual hosts that mention the case.
func virtualHosts(dump []byte, name string) []byte {
	var parsed struct {
		Configs []struct {
			RouteConfig struct {
				Name         string            `json:"name"`
				VirtualHosts []json.RawMessage `json:"virtual_hosts"`
			} `json:"route_config"`
		} `json:"configs"`
	}
	if json.Unmarshal(dump, &parsed) != nil {
		return nil
	}
	kept := map[string][]json.RawMessage{}
	for _, c := range parsed.Configs {
		for _, host := range c.RouteConfig.VirtualHosts {
			if bytes.Contains(host, []byte(name)) {
				kept[c.RouteConfig.Name] = append(kept[c.RouteConfig.Name], host)
			}
		}
	}
	if len(kept) == 0 {
		return fmt.Appendf(nil, "no route of this proxy mentions %q\n", name)
	}
	text, err := json.MarshalIndent(kept, "", " ")
	if err != nil {
		return nil
	}
	return text
}

func linesWith(text []byte, any ...string) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(text) {
		for _, word := range any {
			if bytes.Contains(line, []byte(word)) {
				out.Write(line)
				break
			}
		}
	}
	return out.Bytes()
}
