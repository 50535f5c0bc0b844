// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// grpcMethod is the unary method of the backend; its messages are plain bytes.
const grpcMethod = "/echo.Echo/Echo"

// grpcWire is a gRPC client held to one connection: it is handed the connection already open, and asking for a second one
// fails. The library's retries are off. What it still does by itself is to repeat a call that the peer has refused unprocessed.
type grpcWire struct {
	cc   *grpc.ClientConn
	conn *watchedConn
}

func newGRPC(nc net.Conn, state *tls.ConnectionState, t *target) (wire, error) {
	if err := agreedH2(state); err != nil {
		return nil, err
	}
	g := &grpcWire{conn: &watchedConn{Conn: nc}}
	var taken atomic.Bool
	authority := t.Host
	if authority == "" {
		authority = t.url.Host
	}
	var err error
	g.cc, err = grpc.NewClient("passthrough:///"+t.address,
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errors.New("the connection has ended")
			}
			return g.conn, nil
		}),
		grpc.WithTransportCredentials(openConn{secure: state != nil}),
		grpc.WithAuthority(authority),
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("harness"),
		grpc.WithStatsHandler(answerSeen{}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, fmt.Errorf("start gRPC: %w", err)
	}
	return g, nil
}

func (g *grpcWire) shared() bool { return true }
func (g *grpcWire) close()       { _, _ = g.cc.Close(), g.conn.Close() }

// alive goes by the connection: the library says that it is ready some time after the first call was answered.
func (g *grpcWire) alive() bool {
	state := g.cc.GetState()
	return g.conn.failure() == nil && state != connectivity.TransientFailure && state != connectivity.Shutdown
}

func (g *grpcWire) exchange(ctx context.Context, c call, x *Exchange) error {
	method := c.url.Path
	if strings.Trim(method, "/") == "" {
		method = grpcMethod
	}
	var seen atomic.Bool
	ctx = context.WithValue(ctx, answerSeen{}, &seen)
	md := metadata.MD{}
	for k, v := range c.fields() {
		md[strings.ToLower(k)] = v
	}
	var header, trailer metadata.MD
	body := c.Body
	var answer []byte
	err := g.cc.Invoke(metadata.NewOutgoingContext(ctx, md), method, &body, &answer, grpc.Header(&header), grpc.Trailer(&trailer))
	code, message := status.Code(err), status.Convert(err).Message()
	if m := notGRPC.FindStringSubmatch(message); m != nil && !seen.Load() {
		// An answer, only not a gRPC one: a proxy's own, as a rule.
		x.Status, _ = strconv.Atoi(m[1])
		return nil
	}
	if err != nil && !seen.Load() {
		return g.cause(ctx, err, code, message)
	}
	x.Status, x.Header = httpCode(code), http.Header{}
	x.Body = answer[:min(len(answer), c.keep)]
	for _, from := range []metadata.MD{header, trailer} {
		for k, v := range from {
			x.Header[http.CanonicalHeaderKey(k)] = append(x.Header[http.CanonicalHeaderKey(k)], v...)
		}
	}
	x.Header.Set("Grpc-Status", strconv.Itoa(int(code)))
	if message != "" {
		x.Header.Set("Grpc-Message", message)
	}
	return nil
}

// cause gives the typed error below a status that the library made itself; the status only holds its text.
func (g *grpcWire) cause(ctx context.Context, err error, code codes.Code, message string) error {
	cause := g.conn.failure()
	switch {
	case ctx.Err() != nil:
		cause = ctx.Err()
	case strings.Contains(message, "RST_STREAM"):
		cause = errStreamReset
	case code == codes.DeadlineExceeded:
		cause = context.DeadlineExceeded
	}
	if cause == nil {
		return err
	}
	return fmt.Errorf("grpc %s: %s: %w", code, message, cause)
}

var errStreamReset = errors.New("the peer reset the stream")

// notGRPC is how the library words an HTTP answer without gRPC in it.
var notGRPC = regexp.MustCompile(`unexpected HTTP status code received from server: (\d{3})`)

// httpCode is the HTTP code that means the same as a gRPC one, after google/rpc/code.proto.
func httpCode(c codes.Code) int {
	switch c {
	case codes.OK:
		return http.StatusOK
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Canceled:
		return 499
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// rawCodec passes messages on as bytes; it calls itself proto because that is what peers expect in the content type.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("message is %T, not bytes", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("message is %T, not bytes", v)
	}
	*b = data.Materialize()
	return nil
}

// answerSeen notes on the context of a call that the peer ended it, so that its status came over the wire.
type answerSeen struct{}

func (answerSeen) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (answerSeen) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (answerSeen) HandleConn(context.Context, stats.ConnStats)                       {}
func (answerSeen) HandleRPC(ctx context.Context, s stats.RPCStats) {
	seen, ok := ctx.Value(answerSeen{}).(*atomic.Bool)
	if _, ended := s.(*stats.InTrailer); ok && ended {
		seen.Store(true)
	}
}

// openConn are credentials of a connection whose handshake is done; they only say which :scheme to send.
type openConn struct{ secure bool }

func (o openConn) ClientHandshake(_ context.Context, _ string, nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nc, o, nil
}

func (o openConn) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("not a server")
}

func (o openConn) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: o.AuthType()}
}

func (o openConn) AuthType() string {
	if o.secure {
		return "tls"
	}
	return "insecure"
}

func (o openConn) Clone() credentials.TransportCredentials { return o }
func (o openConn) OverrideServerName(string) error         { return nil }
