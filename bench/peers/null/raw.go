// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package null

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of the way of a request, none of which can block: the scheduler need not hear of them.

func rawRead(fd int, b []byte) (int, error) {
	return raw(unix.SYS_READ, fd, unsafe.Pointer(unsafe.SliceData(b)), len(b))
}

func rawWrite(fd int, b []byte) (int, error) {
	return raw(unix.SYS_WRITE, fd, unsafe.Pointer(unsafe.SliceData(b)), len(b))
}

func raw(call uintptr, fd int, data unsafe.Pointer, size int) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(data), uintptr(size))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func rawWait(epoll int, events []unix.EpollEvent) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll),
		uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
