// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package forward reaches ports of pods through the API server, also those that listen on the pod's loopback only.
package forward

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Forwards are the ways to pods' ports. A way is kept until Close and made again after an error; safe for concurrent use.
type Forwards struct {
	config *rest.Config
	mu     sync.Mutex
	slots  map[string]*slot
}

// slot holds the forward to one port of one pod. It has a lock of its own: a pod that does not answer must not hold up
// the way to the others.
type slot struct {
	mu sync.Mutex
	fw *forward
}

type forward struct {
	port uint16
	stop chan struct{}
	http *http.Client
}

// New makes none yet.
func New(config *rest.Config) *Forwards {
	return &Forwards{config: config, slots: map[string]*slot{}}
}

// Close ends all of them.
func (f *Forwards) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.slots {
		s.drop(nil)
	}
}

func (f *Forwards) slot(key string) *slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.slots[key] == nil {
		f.slots[key] = &slot{}
	}
	return f.slots[key]
}

// drop closes the slot's forward, or only if it is fw.
func (s *slot) drop(fw *forward) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fw != nil && (fw == nil || s.fw == fw) {
		s.fw.close()
		s.fw = nil
	}
}

func (fw *forward) close() {
	close(fw.stop)
	fw.http.CloseIdleConnections()
}

// Get asks a port of a pod for a path; an answer other than 200 is an error.
func (f *Forwards) Get(ctx context.Context, pod *corev1.Pod, port int, path string) ([]byte, error) {
	status, body, err := f.Fetch(ctx, pod, port, "", path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("ask %s/%s:%d for %s: %d %.200s", pod.Namespace, pod.Name, port, path, status, body)
	}
	return body, err
}

// Fetch asks a port of a pod for a path of a host, "" = whatever, and returns the status and the body.
func (f *Forwards) Fetch(ctx context.Context, pod *corev1.Pod, port int, host, path string) (int, []byte, error) {
	key := fmt.Sprintf("%s/%s:%d", pod.Namespace, pod.Name, port)
	slot := f.slot(key)
	fw, err := f.forward(ctx, slot, pod, port)
	if err != nil {
		return 0, nil, fmt.Errorf("forward to %s: %w", key, err)
	}
	status, body, err := fw.fetch(ctx, host, path)
	if err != nil {
		slot.drop(fw)
		return 0, nil, fmt.Errorf("ask %s for %s: %w", key, path, err)
	}
	return status, body, nil
}

func (f *Forwards) forward(ctx context.Context, slot *slot, pod *corev1.Pod, port int) (*forward, error) {
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if slot.fw != nil {
		return slot.fw, nil
	}
	config := rest.CopyConfig(f.config)
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	url := client.Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	stop, ready, failed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	fw, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return nil, err
	}
	go func() { failed <- fw.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		close(stop)
		return nil, ctx.Err()
	}
	ports, err := fw.GetPorts()
	if err != nil {
		close(stop)
		return nil, err
	}
	made := &forward{port: ports[0].Local, stop: stop, http: &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}}
	slot.fw = made
	return made, nil
}

func (fw *forward) fetch(ctx context.Context, host, path string) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", fw.port, path), http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	request.Host = host
	response, err := fw.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	return response.StatusCode, body, nil
}
