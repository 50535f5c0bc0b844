// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
	"harness.example/harness/suites/envoy"
	"harness.example/harness/suites/forward"
)

// live proves that what was applied is what is served. Istio gives no generation to ask for at the end of the line, so
// a token is sent down the same line behind it: once istiod's store holds exactly the applied objects, a VirtualService
// with a fresh token is written; istiod handles events in order and pushes clusters, endpoints, listeners and routes in
// that order, so a proxy that has the token in its routes has everything before it. Endpoints travel beside
// configuration and are compared by themselves. kube-proxy, which syncs all it knows at once, is sent a token Service
// in the same way.
type live struct {
	r        *runner
	forwards *forward.Forwards
}

const (
	istiodPort = 8080 // istiod's debug endpoints, which trust the pod's loopback
	liveName   = "harness-live"

	// unreadable is how long istiod's store may refuse to be read before a proof does without: on a cluster that is not
	// ours the debug endpoints may be off.
	unreadable = 5 * time.Second

	// silence is how long an external address may take to be announced.
	silence = 10 * time.Second
)

func newLive(r *runner) *live { return &live{r: r, forwards: forward.New(r.config)} }

// admin asks a proxy's admin port.
func (l *live) admin(ctx context.Context, p *corev1.Pod, path string) ([]byte, error) {
	return l.forwards.Get(ctx, p, envoy.AdminPort, path)
}

// atLoopback asks the loopback of a pod for a host and returns the status.
func (l *live) atLoopback(ctx context.Context, p *corev1.Pod, port int, host string) (string, error) {
	status, _, err := l.forwards.Fetch(ctx, p, port, host, "/")
	return strconv.Itoa(status), err
}

func (l *live) close() { l.forwards.Close() }

// setUp makes the Gateway that the tokens are written behind.
func (l *live) setUp(ctx context.Context, namespace string) error {
	_, err := l.r.fx.Apply(ctx, object("networking.istio.io/v1", "Gateway", namespace, liveName, map[string]any{
		"selector": map[string]any{"istio": l.r.target.Gateway.Selector["istio"]},
		"servers": []any{map[string]any{
			"port":  map[string]any{"number": int64(80), "name": "http", "protocol": "HTTP"},
			"hosts": []any{"*." + l.r.suffix + ".live.harness.test"},
		}},
	}))
	return err
}

func object(apiVersion, kind, namespace, name string, spec map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "spec": spec}}
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// prove returns when every proxy on the case's path serves the case's objects as they are now.
func (l *live) prove(ctx context.Context, e *Env) error {
	// A check or control may have changed objects by other means than the runner's.
	if err := l.refresh(ctx, e); err != nil {
		return err
	}
	want := picture{
		name: e.Name(), token: random(8), gone: deleted(e), routed: routed(e.Objects), local: nodeLocal(e.Objects),
		certificates: certificates(e.Objects, l.r.target.Gateway.Namespace),
	}
	err := fixtures.Until(ctx, pollEvery, "the Services' endpoints are their ready pods", func(ctx context.Context) (bool, error) {
		var err error
		want.services, err = l.endpoints(ctx, e)
		return true, err
	})
	if err != nil {
		return err
	}
	if err := l.stored(ctx, e); err != nil {
		return err
	}
	if err := l.send(ctx, e, want.token); err != nil {
		return err
	}
	proxies, err := l.proxies(ctx, e)
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, p := range proxies {
		group.Go(func() error {
			want := want
			return fixtures.Until(groupCtx, pollEvery, "proxy "+p.Name+" serves the configuration", func(ctx context.Context) (bool, error) {
				err := l.serves(ctx, p, want)
				if err == nil || l.gone(ctx, p) {
					return true, nil
				}
				// Pods may come and go meanwhile (a gateway or a workload that scales): compare with those of now.
				if services, endpointsErr := l.endpoints(ctx, e); endpointsErr == nil {
					want.services = services
				}
				return false, err
			})
		})
	}
	if e.Case.Direct {
		group.Go(func() error { return l.kubeProxy(groupCtx, e, want.token) })
		group.Go(func() error { return announced(groupCtx, e.Objects) })
	}
	return group.Wait()
}

// announced waits until the external addresses of the fixture's Services answer at all, if only to refuse: a balancer
// makes an address known some time after it is given. One that stays silent is for the check to judge, and so is one
// of a class: its balancer may be the check.
func announced(ctx context.Context, objs []*unstructured.Unstructured) error {
	for _, o := range objs {
		ingress, _, _ := unstructured.NestedSlice(o.Object, "status", "loadBalancer", "ingress")
		ports, _, _ := unstructured.NestedSlice(o.Object, "spec", "ports")
		_, ofClass, _ := unstructured.NestedString(o.Object, "spec", "loadBalancerClass")
		if o.GetKind() != "Service" || ofClass || len(ingress) == 0 || len(ports) == 0 {
			continue
		}
		at, _ := ingress[0].(map[string]any)
		first, _ := ports[0].(map[string]any)
		ip, _, _ := unstructured.NestedString(at, "ip")
		port, _, _ := unstructured.NestedInt64(first, "port")
		limited, cancel := context.WithTimeout(ctx, silence)
		_ = fixtures.Until(limited, pollEvery, "the address answers", func(ctx context.Context) (bool, error) {
			err := connects(ctx, ip, int(port))
			return err == nil || errors.Is(err, syscall.ECONNREFUSED), nil
		})
		cancel()
	}
	return ctx.Err()
}

// refresh reads the fixture's objects as they are.
func (l *live) refresh(ctx context.Context, e *Env) error {
	var now []*unstructured.Unstructured
	for _, o := range e.wanted {
		got, err := l.r.fx.Get(ctx, o)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		now = append(now, got)
	}
	e.Objects = now
	return nil
}

// deleted are the fixture's Services that are not there, as name.namespace.
func deleted(e *Env) []string {
	var out []string
	for _, o := range e.wanted {
		if o.GetKind() == "Service" && !slices.ContainsFunc(e.Objects, func(have *unstructured.Unstructured) bool { return same(have, o) }) {
			out = append(out, o.GetName()+"."+o.GetNamespace())
		}
	}
	return out
}

// nodeLocal are the Services whose internal traffic stays on its node, as name.namespace.
func nodeLocal(objs []*unstructured.Unstructured) map[string]bool {
	out := map[string]bool{}
	for _, o := range objs {
		policy, _, _ := unstructured.NestedString(o.Object, "spec", "internalTrafficPolicy")
		if o.GetKind() == "Service" && policy == string(corev1.ServiceInternalTrafficPolicyLocal) {
			out[o.GetName()+"."+o.GetNamespace()] = true
		}
	}
	return out
}

// gone says whether a proxy is on its way out: it takes no new connection and need not learn anything any more.
func (l *live) gone(ctx context.Context, p corev1.Pod) bool {
	now, err := l.r.kube.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true
	}
	return err == nil && (now.UID != p.UID || now.DeletionTimestamp != nil)
}

// stored waits until every istiod holds the fixture's Istio objects in the version applied, and none that was deleted.
func (l *live) stored(ctx context.Context, e *Env) error {
	want := map[string]string{} // kind/namespace/name → uid and generation, "" = gone
	key := func(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }
	for _, o := range e.wanted {
		if strings.HasSuffix(o.GroupVersionKind().Group, ".istio.io") {
			want[key(o.GetKind(), o.GetNamespace(), o.GetName())] = ""
		}
	}
	for _, o := range e.Objects {
		k := key(o.GetKind(), o.GetNamespace(), o.GetName())
		if _, ours := want[k]; ours {
			want[k] = incarnation(o.GetUID(), o.GetGeneration())
		}
	}
	if len(want) == 0 {
		return nil
	}
	pods, err := l.r.kube.CoreV1().Pods(l.r.target.IstioNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return fmt.Errorf("find istiod: %w", err)
	}
	if len(pods.Items) == 0 {
		e.Note("no pod app=istiod in namespace %s: only the token proves that configuration is live", l.r.target.IstioNamespace)
		return nil
	}
	start, read := time.Now(), false
	return fixtures.Until(ctx, pollEvery, "istiod holds the applied objects", func(ctx context.Context) (bool, error) {
		for _, p := range pods.Items {
			body, err := l.forwards.Get(ctx, &p, istiodPort, "/debug/configz")
			if err != nil && !read && time.Since(start) > unreadable {
				e.Note("istiod's store cannot be read (%v): only the token proves that configuration is live", err)
				return true, nil
			}
			if err != nil {
				return false, err
			}
			read = true
			var held []metav1.PartialObjectMetadata
			if err := json.Unmarshal(body, &held); err != nil {
				return false, fmt.Errorf("istiod's store: %w", err)
			}
			got := map[string]string{}
			for _, o := range held {
				got[key(o.Kind, o.Namespace, o.Name)] = incarnation(o.UID, o.Generation)
			}
			for k, v := range want {
				if got[k] != v {
					return false, fmt.Errorf("istiod %s has %s as %q, want %q", p.Name, k, got[k], v)
				}
			}
		}
		return true, nil
	})
}

func incarnation(uid types.UID, generation int64) string {
	return fmt.Sprintf("%s generation %d", uid, generation)
}

// send writes the token.
func (l *live) send(ctx context.Context, e *Env, token string) error {
	vs := object("networking.istio.io/v1", "VirtualService", e.pool, "live-"+e.Name(), map[string]any{
		"hosts":    []any{e.Name() + "." + l.r.suffix + ".live.harness.test"},
		"gateways": []any{liveName, "mesh"},
		"http":     []any{map[string]any{"directResponse": map[string]any{"status": int64(200), "body": map[string]any{"string": token}}}},
	})
	e.addLeftover(vs)
	if _, err := l.r.fx.Apply(ctx, vs); err != nil {
		return fmt.Errorf("send the token: %w", err)
	}
	return nil
}

// addLeftover has an object deleted with the case.
func (e *Env) addLeftover(o *unstructured.Unstructured) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.ContainsFunc(e.leftover, func(have *unstructured.Unstructured) bool { return same(have, o) }) {
		e.leftover = append(e.leftover, o)
	}
}

// proxies are all Envoys on the case's path.
func (l *live) proxies(ctx context.Context, e *Env) ([]corev1.Pod, error) {
	list := func(namespace, selector string) ([]corev1.Pod, error) {
		pods, err := fixtures.ReadyPods(ctx, l.r.kube, namespace, selector)
		if err != nil {
			return nil, fmt.Errorf("find proxies: %w", err)
		}
		return slices.DeleteFunc(pods, func(p corev1.Pod) bool { return !hasProxy(&p) }), nil
	}
	found, err := list(l.r.target.Gateway.Namespace, labels.SelectorFromSet(l.r.target.Gateway.Selector).String())
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no gateway pod is ready in namespace %s", l.r.target.Gateway.Namespace)
	}
	if e.Case.Mesh {
		if err := e.clients(ctx); err != nil {
			return nil, err
		}
		mesh, err := list(e.pool, "app=client,role=mesh")
		if err != nil {
			return nil, err
		}
		found = append(found, mesh...)
	}
	if e.Case.Injection {
		own, err := list(e.Namespace(), "")
		if err != nil {
			return nil, err
		}
		found = append(found, own...)
	}
	return found, nil
}

func hasProxy(p *corev1.Pod) bool {
	return slices.ContainsFunc(append(slices.Clone(p.Spec.Containers), p.Spec.InitContainers...), func(c corev1.Container) bool { return c.Name == "istio-proxy" })
}

// endpoints returns the endpoints (host:port) of the fixture's Services by name.namespace. It is an error when
// EndpointSlices do not hold exactly the ready pods, or all that have not ended where a Service wants those too: they will
// change.
func (l *live) endpoints(ctx context.Context, e *Env) (map[string][]string, error) {
	out := map[string][]string{}
	for _, o := range e.Objects {
		selector, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector")
		if o.GetKind() != "Service" || len(selector) == 0 {
			continue
		}
		unready, _, _ := unstructured.NestedBool(o.Object, "spec", "publishNotReadyAddresses")
		endpoints, err := l.complete(ctx, o.GetNamespace(), o.GetName(), selector, unready)
		if err != nil {
			return nil, fmt.Errorf("the Service %s: %w", o.GetName(), err)
		}
		out[o.GetName()+"."+o.GetNamespace()] = endpoints
	}
	return out, nil
}

func (l *live) complete(ctx context.Context, namespace, name string, selector map[string]string, unready bool) ([]string, error) {
	pods, err := l.r.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String()})
	if err != nil {
		return nil, err
	}
	var want []string
	for _, p := range pods.Items {
		ended := p.Status.PodIP == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		if fixtures.PodReady(&p) || unready && !ended {
			want = append(want, p.Status.PodIP)
		}
	}
	slices.Sort(want)
	list, err := l.r.kube.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
	if err != nil {
		return nil, err
	}
	var got, endpoints []string
	for _, s := range list.Items {
		for _, ep := range s.Endpoints {
			if ep.Conditions.Ready != nil && !*ep.Conditions.Ready {
				continue
			}
			got = append(got, ep.Addresses...)
			for _, port := range s.Ports {
				for _, address := range ep.Addresses {
					if port.Port != nil {
						endpoints = append(endpoints, hostPort(address, int(*port.Port)))
					}
				}
			}
		}
	}
	slices.Sort(got)
	got = slices.Compact(got)
	if !slices.Equal(got, want) {
		return nil, fmt.Errorf("endpoints are %v, ready pods %v", got, want)
	}
	return endpoints, nil
}

// kubeProxy sends a token Service behind the case's Services and endpoints and waits until every node forwards it.
func (l *live) kubeProxy(ctx context.Context, e *Env, token string) error {
	name := "live-" + token
	service := object("v1", "Service", e.pool, name, map[string]any{
		"type": "NodePort", "selector": map[string]any{"app": "echo"},
		"ports": []any{map[string]any{"name": "http", "port": int64(80), "targetPort": "http"}},
	})
	e.addLeftover(service)
	made, err := l.r.fx.Apply(ctx, service)
	if err != nil {
		return fmt.Errorf("send the token Service: %w", err)
	}
	ports, _, _ := unstructured.NestedSlice(made[0].Object, "spec", "ports")
	ip, _, _ := unstructured.NestedString(made[0].Object, "spec", "clusterIP")
	if len(ports) == 0 || ip == "" {
		return fmt.Errorf("%s has neither address nor port", fixtures.Describe(made[0]))
	}
	port, _ := ports[0].(map[string]any)["nodePort"].(int64)
	for _, node := range l.r.target.Nodes {
		reach := func(ctx context.Context) error { return dial(ctx, node.Address, int(port)) }
		if l.r.target.Missing(NodeAccess) != "" {
			reach = func(ctx context.Context) error { return inside(ctx, e, node.Name, "http://"+ip+"/") }
		}
		if err := fixtures.Until(ctx, pollEvery, "kube-proxy on node "+node.Name+" serves the newest Service", func(ctx context.Context) (bool, error) {
			return true, reach(ctx)
		}); err != nil {
			return err
		}
	}
	return nil
}

// connects says whether a TCP server accepts at the address.
func connects(ctx context.Context, host string, port int) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", hostPort(host, port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// dial says whether an HTTP server answers at the address.
func dial(ctx context.Context, host string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+hostPort(host, port)+"/", http.NoBody)
	if err != nil {
		return err
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func inside(ctx context.Context, e *Env, node, url string) error {
	from, err := e.Inside(ctx, node)
	if err != nil {
		return err
	}
	out, err := from.Do(ctx, loadgen.Job{Burst: &loadgen.Burst{
		Count: 1, Policy: loadgen.Fresh, Timeout: time.Second, Requests: []loadgen.Request{{URL: url, Method: http.MethodGet}},
	}})
	if err == nil && (len(out.Exchanges) != 1 || out.Exchanges[0].Status != http.StatusOK) {
		err = errors.New("no answer")
	}
	return err
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
