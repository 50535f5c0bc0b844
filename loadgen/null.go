// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
)

// nullAnswer looks like a backend's.
var nullAnswer = []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\nX-Echo-Pod: null\r\nX-Echo-Version: v1\r\n\r\nok")

// withNull runs do against a server on loopback that does nothing but answer: requests without a body, whole heads.
func withNull(ctx context.Context, do func(url string) error) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("null server: %w", err)
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer context.AfterFunc(ctx, func() { _ = c.Close() })()
				defer func() { _ = c.Close() }()
				answerNull(c)
			})
		}
	})
	defer all.Wait()
	defer cancel()
	defer func() { _ = l.Close() }()
	return do("http://" + l.Addr().String() + "/")
}

// answerNull answers every head that ends, however many come at once or in how many pieces.
func answerNull(c net.Conn) {
	buf := make([]byte, 0, 8<<10)
	for {
		n, err := c.Read(buf[len(buf):cap(buf)])
		if err != nil {
			return
		}
		buf = buf[:len(buf)+n]
		for {
			end := endOfHead(buf)
			if end == 0 {
				break
			}
			if _, err := c.Write(nullAnswer); err != nil {
				return
			}
			buf = buf[:copy(buf, bytes.Clone(buf[end:]))]
		}
		if len(buf) == cap(buf) {
			return // no head is that large
		}
	}
}
