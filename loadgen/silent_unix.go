// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package loadgen

import (
	"errors"
	"net"
	"syscall"
)

// silent says that nc has neither data nor its end to read now. It takes nothing off the connection and does not wait.
func silent(nc net.Conn) bool {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	var buf [1]byte
	err = raw.Read(func(fd uintptr) bool {
		_, _, errno := syscall.Recvfrom(int(fd), buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		ok = errors.Is(errno, syscall.EAGAIN)
		return true
	})
	return ok && err == nil
}
