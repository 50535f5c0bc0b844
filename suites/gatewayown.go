// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/fixtures"
)

// OwnGateway as a Gateway's Service asks for an ingress gateway that the run makes for itself, in its own namespace.
const OwnGateway = "own"

// withOwnGateway names the gateway that the run will make, so that what a case needs can be told beforehand.
func (r *runner) withOwnGateway() {
	r.ownGateway = true
	r.target.Gateway = Gateway{
		Namespace: r.pool, Service: "gateway", Selector: map[string]string{"istio": "gateway-" + r.suffix},
		Ports: map[string]int{"http": 80, "https": 443, "tcp": 31400},
	}
}

// makeGateway brings the run's own gateway up and finds the address at which it answers from here.
func (r *runner) makeGateway(ctx context.Context) error {
	vars := r.vars()
	vars["GATEWAY_TYPE"] = "NodePort"
	balanced := r.target.Missing(LoadBalancer) == ""
	if balanced {
		vars["GATEWAY_TYPE"] = "LoadBalancer"
	}
	objs, err := r.load("base/gateway.yaml", vars)
	if err != nil {
		return err
	}
	if _, err := r.fx.Apply(ctx, objs...); err != nil {
		return err
	}
	if err := r.fx.WaitReady(ctx, objs...); err != nil {
		return err
	}
	service, err := r.kube.CoreV1().Services(r.pool).Get(ctx, "gateway", metav1.GetOptions{})
	if err != nil {
		return err
	}
	gateway := r.target.Gateway
	if balanced {
		ingress := service.Status.LoadBalancer.Ingress[0]
		gateway.Host = ingress.IP + ingress.Hostname
	} else if gateway.Host, gateway.Ports, err = r.nodePorts(service); err != nil {
		return err
	}
	r.target.Gateway = gateway
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return fixtures.Until(limited, pollEvery, "the run's own gateway answers", func(ctx context.Context) (bool, error) {
		return true, connects(ctx, gateway.Host, gateway.Ports["http"])
	})
}

func (r *runner) nodePorts(service *corev1.Service) (string, map[string]int, error) {
	if reason := r.target.Missing(NodeAccess); reason != "" || len(r.target.Nodes) == 0 {
		return "", nil, fmt.Errorf("a gateway of the run's own is not reached from here: neither LoadBalancer nor node addresses (%s)", reason)
	}
	ports := map[string]int{}
	for _, p := range service.Spec.Ports {
		ports[p.Name] = int(p.NodePort)
	}
	return r.target.Nodes[0].Address, ports, nil
}
