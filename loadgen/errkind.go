// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 one HTTP/2 connection under our own control is what a policy counts; net/http has it only since the newest Go

package loadgen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/net/http2"
)

// The values of Exchange.ErrKind: how an exchange without an answer ended. It is empty when there was an answer.
const (
	KindDialRefused = "dial-refused" // a closed port: RST, or for UDP an ICMP port unreachable
	KindDialTimeout = "dial-timeout" // no answer to the dial in time, or no route
	KindTimeout     = "timeout"      // connected, but no full answer in time
	KindReset       = "reset"        // the peer broke the connection (RST) or, in HTTP/2, the stream
	KindEOF         = "eof"          // the peer closed the connection before or in its answer
	KindTLS         = "tls"          // the handshake failed or the peer sent an alert
	KindDNS         = "dns"          // the name could not be resolved
	KindOther       = "other"        // an answer that is none in the protocol, or anything else
)

// A phaseError says that an error came before any request was written.
type phaseError struct {
	handshake bool // else: dial
	err       error
}

func (e *phaseError) Error() string {
	if e.handshake {
		return "tls handshake: " + e.err.Error()
	}
	return e.err.Error()
}

func (e *phaseError) Unwrap() error { return e.err }

// kindOf classifies err. late says that the request's time was over.
func kindOf(late bool, err error) string {
	if err == nil {
		return ""
	}
	var phase *phaseError
	dialing := errors.As(err, &phase) && !phase.handshake
	var dns *net.DNSError
	var goAway http2.GoAwayError
	var stream http2.StreamError
	switch {
	case errors.As(err, &dns):
		return KindDNS
	case isTimeout(err) || late:
		if dialing {
			return KindDialTimeout
		}
		return KindTimeout
	case dialing && (errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)):
		return KindDialTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return KindDialRefused
	case isTLS(err):
		return KindTLS
	case errors.Is(err, errStreamReset), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED),
		errors.As(err, &goAway), errors.As(err, &stream), strings.Contains(err.Error(), "GOAWAY"):
		return KindReset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return KindEOF
	case phase != nil && phase.handshake:
		return KindTLS
	}
	return KindOther
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) ||
		errors.As(err, &n) && n.Timeout()
}

func isTLS(err error) bool {
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	var op *net.OpError
	return errors.As(err, &record) || errors.As(err, &verify) || errors.As(err, &invalid) || errors.As(err, &alert) ||
		// crypto/tls reports an alert as an OpError with these words for an Op.
		errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error") ||
		strings.HasPrefix(err.Error(), "tls: ")
}
