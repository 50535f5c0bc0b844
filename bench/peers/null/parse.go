// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package null

import (
	"bytes"
	"errors"
	"strconv"
)

var (
	errMalformed = errors.New("malformed request")
	headEnd      = []byte("\r\n\r\n")
	lineEnd      = []byte("\r\n")
)

// parse reads the head of the request that b begins with: how long the head is (0 while it is incomplete), how many bytes of
// body follow it, and whether the connection ends with this request.
func parse(b []byte) (head, body int, last bool, err error) {
	end := bytes.Index(b, headEnd)
	if end < 0 {
		return 0, 0, false, nil
	}
	head = end + len(headEnd)
	line, rest, _ := bytes.Cut(b[:end+len(lineEnd)], lineEnd)
	switch {
	case bytes.HasSuffix(line, []byte(" HTTP/1.1")):
	case bytes.HasSuffix(line, []byte(" HTTP/1.0")):
		last = true
	default:
		return 0, 0, true, errMalformed
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, lineEnd)
		// Only headers that begin with these two letters matter; most lines are done with after one comparison.
		if c := line[0] | 0x20; c != 'c' && c != 't' {
			continue
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return 0, 0, true, errMalformed
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if body, err = strconv.Atoi(string(value)); err != nil || body < 0 {
				return 0, 0, true, errMalformed
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			return 0, 0, true, errMalformed // no client here sends chunks, and guessing their end would be worse
		case bytes.EqualFold(name, []byte("connection")):
			last = last || bytes.EqualFold(value, []byte("close"))
		}
	}
	return head, body, last, nil
}
