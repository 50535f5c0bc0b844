// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func gatewayBind() Case {
	return Case{
		Name:    "Gateway/Bind",
		Doc:     "A server that is bound to the loopback of the gateway's pods answers there, and nowhere else.",
		Fixture: "gateway/bind.yaml",
		Judged:  judgedExactly(2) + "; at the loopback of each gateway pod one request has one right answer",
		Covers:  []string{"Gateway.spec.servers[].bind"},
		Check:   checkBind,
		Controls: []Control{
			{Break: "Gateway spec.servers[1].bind=", Fails: "the server inside, from outside: 200 instead of 404"},
			{Break: "Gateway spec.servers[1].bind=127.0.0.9", Fails: "at the loopback of the gateway's pods 200, got 404"},
		},
	}
}

func checkBind(ctx context.Context, e *Env) error {
	open, inside := "open."+e.Vars["HOST"], "inside."+e.Vars["HOST"]
	if err := takesBy(ctx, e, e.Outside(), []route{
		{"the open server, from outside", toHost(e, open, "/"), "200"},
		{"the server inside, from outside", toHost(e, inside, "/"), "404"},
	}, outcomeOf); err != nil {
		return err
	}
	port, err := e.gatewayPort(ctx)
	if err != nil {
		return err
	}
	pods, err := e.gatewayPods(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		status, err := e.atLoopback(ctx, &p, port, inside)
		if err != nil {
			return err
		}
		if status != "200" {
			return mismatch("at the loopback of the gateway's pods 200", "%s", status)
		}
	}
	return nil
}

// gatewayPort is where the gateway's pods take what its Service takes on port 80.
func (e *Env) gatewayPort(ctx context.Context) (int, error) {
	g := e.Target.Gateway
	s, err := e.Kube.CoreV1().Services(g.Namespace).Get(ctx, g.Service, metav1.GetOptions{})
	if err != nil {
		return 0, fmt.Errorf("read the gateway's Service: %w", err)
	}
	for _, p := range s.Spec.Ports {
		if p.Port == 80 && p.Protocol == corev1.ProtocolTCP {
			return p.TargetPort.IntValue(), nil
		}
	}
	return 0, fmt.Errorf("the gateway's Service %s has no port 80", s.Name)
}
