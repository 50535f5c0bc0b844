// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// serviceChanges are the types of a Service one after the other, the address that it asks for, and what it may not ask for.
func serviceChanges() []Case {
	return []Case{
		{
			Name:    "Service/TypeChange",
			Doc:     "A Service that becomes a node port, a load balancer and a cluster address again keeps its address, answers there all the time, and has the ports and addresses of its type and no others.",
			Fixture: "service/type-change.yaml",
			Needs:   []Capability{NodeAccess},
			Direct:  true,
			Judged:  "exact: no fresh connection to the cluster address fails while the type changes three times; three tries at each address of each type have one right outcome",
			Covers:  []string{"Service.spec.type=ClusterIP", "Service.spec.type=NodePort", "Service.spec.type=LoadBalancer", "Service.spec.clusterIP", "Service.spec.ports[].nodePort"},
			Check:   checkTypeChange,
			Controls: []Control{
				{Break: "Service spec.ports[0].targetPort=8099", Fails: "dial-refused ×"},
				{Break: "Service spec.selector.version=v3", Fails: "not expected: \"echo-v3"},
			},
		},
		{
			Name:    "Service/ChosenAddress",
			Doc:     "A Service has the cluster address that it asks for, if it is free, and answers there.",
			Fixture: "service/chosen-address.yaml",
			Direct:  true,
			Prepare: freeClusterIP,
			Judged:  "exact: its only address is the one asked for, of its only family, and three requests from each node are answered there",
			Covers:  []string{"Service.spec.clusterIP", "Service.spec.clusterIPs[]", "Service.spec.ipFamilies[]", "Service.spec.ipFamilyPolicy"},
			Check: func(ctx context.Context, e *Env) error {
				s, err := e.service(ctx)
				if err != nil {
					return err
				}
				if got, want := fmt.Sprint(s.Spec.ClusterIPs, s.Spec.IPFamilies), fmt.Sprintf("[%s] [IPv4]", e.Vars["ADDRESS"]); got != want {
					return mismatch("the address asked for: "+want, "%s", got)
				}
				return e.everyNode(ctx, "the address asked for", clusterURL(s), "app=echo,version=v2")
			},
			Controls: []Control{
				{Break: "the same Service without an address", Fails: "want the address asked for: [", Do: withoutAddress},
				{Break: "Service spec.selector.version=v3", Fails: "not expected: \"echo-v3"},
			},
		},
		{
			Name:    "Service/Refused",
			Doc:     "A Service with a mistake is refused by the API server, with a message that names the field.",
			Fixture: "service/refused.yaml",
			Judged:  fmt.Sprintf("exact: each of %d Services is refused with its message", len(serviceRefusals)),
			Covers: []string{
				"Service.spec.ports[].nodePort", "Service.spec.ports[].name", "Service.spec.ports[].port", "Service.spec.ports[].protocol", "Service.spec.ports[].appProtocol",
				"Service.spec.clusterIP", "Service.spec.clusterIPs[]", "Service.spec.externalName", "Service.spec.externalTrafficPolicy", "Service.spec.internalTrafficPolicy",
				"Service.spec.healthCheckNodePort", "Service.spec.loadBalancerSourceRanges[]", "Service.spec.externalIPs[]", "Service.spec.sessionAffinityConfig.clientIP.timeoutSeconds",
				"Service.spec.ipFamilies[]", "Service.spec.ipFamilyPolicy", "Service.spec.loadBalancerClass", "Service.spec.allocateLoadBalancerNodePorts",
			},
			Check: checkServiceRefused,
			Controls: []Control{
				{
					Break: `ConfigMap data.port-range="{type: NodePort, ports: [{port: 80}]}"; ConfigMap data.port-taken="{type: NodePort, ports: [{port: 80}]}"; ConfigMap data.port-of-cluster-ip="{ports: [{port: 80}]}"`,
					Fails: "port-of-cluster-ip: accepted; port-range: accepted; port-taken: accepted",
				},
				{
					Break: `ConfigMap data.address-range="{ports: [{port: 80}]}"; ConfigMap data.address-taken="{clusterIP: None, ports: [{port: 80}]}"; ConfigMap data.headless-balancer="{clusterIP: None, ports: [{port: 80}]}"`,
					Fails: "address-range: accepted; address-taken: accepted; headless-balancer: accepted",
				},
				{
					Break: `ConfigMap data.name-twice="{ports: [{name: a, port: 80}, {name: b, port: 81}]}"; ConfigMap data.no-external-name="{type: ExternalName, externalName: shop.test}"; ConfigMap data.protocol="{ports: [{port: 80, protocol: UDP}]}"`,
					Fails: "name-twice: accepted; no-external-name: accepted; protocol: accepted",
				},
				{
					Break: `ConfigMap data.family-twice="{ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}"; ConfigMap data.families-of-one="{ipFamilyPolicy: SingleStack, ports: [{port: 80}]}"; ConfigMap data.affinity-timeout="{sessionAffinity: ClientIP, ports: [{port: 80}]}"`,
					Fails: "affinity-timeout: accepted; families-of-one: accepted; family-twice: accepted",
				},
			},
		},
	}
}

// become changes the Service's type by a merge patch of its spec.
func (e *Env) become(ctx context.Context, spec string) error {
	if _, err := e.Kube.CoreV1().Services(e.Namespace()).Patch(ctx, e.Name(), types.MergePatchType, []byte(`{"spec":`+spec+`}`), metav1.PatchOptions{FieldManager: "harness"}); err != nil {
		return fmt.Errorf("change the type: %w", err)
	}
	return nil
}

func checkTypeChange(ctx context.Context, e *Env) error {
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	const clusterIP = `{"type":"ClusterIP","loadBalancerClass":null}`
	e.Undo(func(ctx context.Context) error { return e.become(ctx, clusterIP) })
	url := clusterURL(s)
	if err := e.everyNode(ctx, "the cluster address", url, "app=echo,version=v2"); err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	var changed atomic.Bool
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for !changed.Load() {
			xs, err := e.Burst(groupCtx, from, loadgen.Burst{Requests: []loadgen.Request{{URL: url}}, Count: 50, Policy: loadgen.Fresh, Interval: 10 * time.Millisecond})
			if err != nil {
				return err
			}
			if err := all("the cluster address while the type changes", xs, "200"); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		defer changed.Store(true)
		return e.inTurn(groupCtx, s.Spec.ClusterIP, clusterIP)
	})
	return group.Wait()
}

// inTurn gives the Service each of the types, and tries the addresses that it has and had.
func (e *Env) inTurn(ctx context.Context, address, clusterIP string) error {
	var port int32
	answered, silent := []string{"200"}, []string{loadgen.KindDialRefused, loadgen.KindDialTimeout}
	for _, step := range []struct {
		what, spec       string
		atNodes, outside []string
	}{
		{"a node port", `{"type":"NodePort"}`, answered, silent},
		{"a load balancer", `{"type":"LoadBalancer","loadBalancerClass":"harness.example/check"}`, answered, answered},
		{"a cluster address", clusterIP, silent, silent},
	} {
		if err := e.become(ctx, step.spec); err != nil {
			return err
		}
		if err := e.Live(ctx); err != nil {
			return err
		}
		s, err := e.service(ctx)
		if err != nil {
			return err
		}
		if s.Spec.ClusterIP != address {
			return mismatch("as "+step.what+" the cluster address "+address, "%s", s.Spec.ClusterIP)
		}
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			if err := e.balance(ctx, s); err != nil {
				return err
			}
		}
		if port == 0 {
			port = s.Spec.Ports[0].NodePort
		}
		from, err := e.Inside(ctx, "")
		if err != nil {
			return err
		}
		if err := ends(ctx, e, "as "+step.what+", the external address", from, loadgen.Request{URL: "http://" + hostPort(e.ownAddress(), 80) + "/"}, step.outside...); err != nil {
			return err
		}
		for _, node := range e.Target.Nodes {
			url := "http://" + hostPort(node.Address, int(port)) + "/"
			if err := ends(ctx, e, "as "+step.what+", the port of node "+node.Name, e.Outside(), loadgen.Request{URL: url}, step.atNodes...); err != nil {
				return err
			}
		}
	}
	return nil
}

// freeClusterIP gives the manifest a cluster address that a Service had and gave back.
func freeClusterIP(e *Env) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
	defer cancel()
	services := e.Kube.CoreV1().Services(e.Namespace())
	s, err := services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: e.Name() + "-before"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err == nil {
		err = services.Delete(ctx, s.Name, metav1.DeleteOptions{})
	}
	if err != nil {
		return fmt.Errorf("find a free cluster address: %w", err)
	}
	e.Vars["ADDRESS"] = s.Spec.ClusterIP
	return nil
}

// withoutAddress makes the Service anew, for an address cannot be changed.
func withoutAddress(ctx context.Context, e *Env) error {
	return e.replace(ctx, "Service", "spec.clusterIP=", "spec.clusterIPs=")
}

// replace deletes an object of the fixture, Kind[/name-suffix], and makes it anew with the edits, path=value each.
func (e *Env) replace(ctx context.Context, object string, edits ...string) error {
	kind, suffix, _ := strings.Cut(object, "/")
	old, err := find(e.wanted, edit{kind: kind, name: suffix})
	if err != nil {
		return err
	}
	again := old.DeepCopy()
	for _, change := range edits {
		path, value, _ := strings.Cut(change, "=")
		if err := fixtures.Edit(again, path, value); err != nil {
			return err
		}
	}
	if err := e.fx.Delete(ctx, old); err != nil {
		return err
	}
	e.Undo(func(ctx context.Context) error { return e.fx.Delete(ctx, again) })
	made, err := e.fx.Apply(ctx, again)
	if err != nil {
		return err
	}
	return e.fx.WaitReady(ctx, made...)
}

// serviceRefusals are what the API server says about the specs of the fixture, by their names.
var serviceRefusals = map[string]string{ //nolint:gochecknoglobals // a constant map
	"port-range":          "spec.ports[0].nodePort: Invalid value: 8080: provided port is not in the valid range",
	"port-taken":          "spec.ports[0].nodePort: Invalid value",
	"port-of-cluster-ip":  "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
	"address-range":       "spec.clusterIPs: Invalid value: [\"192.0.2.1\"]: failed to allocate",
	"address-taken":       "provided IP is already allocated",
	"addresses-differ":    "spec.clusterIPs: Invalid value",
	"headless-balancer":   "may not be set to 'None' for LoadBalancer services",
	"headless-node-port":  "may not be set to 'None' for NodePort services",
	"no-external-name":    "spec.externalName: Required value",
	"no-port":             "spec.ports: Required value",
	"name-twice":          "spec.ports[1].name: Duplicate value",
	"port-twice":          "spec.ports[1]: Duplicate value",
	"unnamed":             "spec.ports[1].name: Required value",
	"zero":                "spec.ports[0].port: Invalid value: 0",
	"protocol":            "spec.ports[0].protocol: Unsupported value",
	"app-protocol":        "spec.ports[0].appProtocol: Invalid value",
	"affinity-timeout":    "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401",
	"external-policy":     "spec.externalTrafficPolicy: Invalid value",
	"internal-policy":     "spec.internalTrafficPolicy: Unsupported value",
	"source-range":        "spec.LoadBalancerSourceRanges[0]: Invalid value",
	"source-range-inside": "spec.LoadBalancerSourceRanges: Forbidden",
	"health-check-port":   "spec.healthCheckNodePort: Invalid value",
	"class-inside":        "spec.loadBalancerClass: Forbidden",
	"node-ports-inside":   "spec.allocateLoadBalancerNodePorts: Forbidden",
	"loopback":            "spec.externalIPs[0]: Invalid value",
	"type":                "spec.type: Unsupported value",
	"distribution":        "spec.trafficDistribution: Unsupported value",
	"family-twice":        "spec.ipFamilies[1]: Duplicate value",
	"families-of-one":     "spec.ipFamilyPolicy: Invalid value",
}

// checkServiceRefused really asks for the Services: a dry run overlooks addresses that are taken and ports out of range.
func checkServiceRefused(ctx context.Context, e *Env) error {
	specs, err := e.Kube.CoreV1().ConfigMaps(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the specs: %w", err)
	}
	s, err := e.service(ctx)
	if err != nil {
		return err
	}
	taken := strings.NewReplacer("TAKEN_ADDRESS", s.Spec.ClusterIP, "TAKEN_PORT", fmt.Sprint(s.Spec.Ports[0].NodePort))
	var wrong []string
	for _, name := range sortedKeys(serviceRefusals) {
		said, err := e.refusal(ctx, name, taken.Replace(specs.Data[name]))
		if err != nil {
			return err
		}
		if !strings.Contains(said, serviceRefusals[name]) {
			wrong = append(wrong, name+": "+said)
		}
	}
	if len(wrong) > 0 {
		return mismatch(fmt.Sprintf("all of %d Services refused with their messages", len(serviceRefusals)), "%s", strings.Join(wrong, "; "))
	}
	return nil
}

// refusal asks for a Service with the spec and returns "accepted" or why it was refused.
func (e *Env) refusal(ctx context.Context, name, spec string) (string, error) {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: e.Name() + "-" + name}}
	if err := yaml.Unmarshal([]byte(spec), &s.Spec); err != nil {
		return "", fmt.Errorf("spec %s: %w", name, err)
	}
	services := e.Kube.CoreV1().Services(e.Namespace())
	_, err := services.Create(ctx, s, metav1.CreateOptions{})
	switch {
	case err == nil:
		if err := services.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil {
			return "", fmt.Errorf("delete Service %s: %w", name, err)
		}
		return "accepted", nil
	case apierrors.IsInvalid(err):
		return err.Error(), nil
	default:
		return "", fmt.Errorf("ask for Service %s: %w", name, err)
	}
}
