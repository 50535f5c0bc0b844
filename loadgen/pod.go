// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream" // not apimachinery's twin, whose error type is another
)

// Pod is a container that has the harness in it. A job runs there as `harness work`; it ends with the job, not with the ctx
// of the caller, which only stops waiting for it.
type Pod struct {
	Config    *rest.Config
	Namespace string
	Name      string
	Container string // "": the pod's only or default one
}

func (p Pod) String() string {
	s := "pod " + p.Namespace + "/" + p.Name
	if p.Container != "" {
		s += " container " + p.Container
	}
	return s
}

// Do sends the job to the pod over the API server's exec, by WebSocket or, where that is refused, SPDY.
func (p Pod) Do(ctx context.Context, job Job) (Output, error) {
	if err := job.check(); err != nil {
		return Output{}, err
	}
	in, err := json.Marshal(job)
	if err != nil {
		return Output{}, fmt.Errorf("%s: encode job: %w", p, err)
	}
	exec, err := p.executor()
	if err != nil {
		return Output{}, fmt.Errorf("%s: %w", p, err)
	}
	var stdout, stderr bytes.Buffer
	err = exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: bytes.NewReader(in), Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return Output{}, fmt.Errorf("%s: run harness work: %w: %s", p, err, text)
		}
		return Output{}, fmt.Errorf("%s: run harness work: %w", p, err)
	}
	var out Output
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
		return Output{}, fmt.Errorf("%s: decode %d bytes of output: %w: %s", p, stdout.Len(), err, strings.TrimSpace(stderr.String()))
	}
	if out.Err != "" {
		return out, fmt.Errorf("%s: %w", p, errors.New(out.Err))
	}
	return out, nil
}

func (p Pod) executor() (remotecommand.Executor, error) {
	if p.Config == nil || p.Namespace == "" || p.Name == "" {
		return nil, errors.New("config, namespace and name are needed")
	}
	kube, err := kubernetes.NewForConfig(p.Config)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	u := kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: p.Container, Command: []string{"/harness", "work"}, Stdin: true, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	ws, err := remotecommand.NewWebSocketExecutor(p.Config, "GET", u.String())
	if err != nil {
		return nil, fmt.Errorf("websocket: %w", err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(p.Config, "POST", u)
	if err != nil {
		return nil, fmt.Errorf("spdy: %w", err)
	}
	return remotecommand.NewFallbackExecutor(ws, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}
