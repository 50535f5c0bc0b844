// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestRequestIsChecked(t *testing.T) {
	for _, tt := range []struct {
		want string
		req  Request
	}{
		{"url: is missing", Request{}},
		{"url: parse", Request{URL: "http://a b"}},
		{`url: scheme "ftp"`, Request{URL: "ftp://a"}},
		{`url: scheme "http" does not go with protocol h2`, Request{URL: "http://a", Protocol: HTTP2}},
		{`url: scheme "https" does not go with protocol h2c`, Request{URL: "https://a", Protocol: H2C}},
		{"url: \"http:///x\" has no host", Request{URL: "http:///x"}},
		{"url: \"tcp://a\" has no port", Request{URL: "tcp://a", Protocol: TCP}},
		{`protocol: "spdy"`, Request{URL: "http://a", Protocol: "spdy"}},
		{`method: "A B"`, Request{URL: "http://a", Method: "A B"}},
		{"host: ", Request{URL: "http://a", Host: "a\nb"}},
		{`header: "a b"`, Request{URL: "http://a", Header: map[string][]string{"a b": nil}}},
		{"header: value", Request{URL: "http://a", Header: map[string][]string{"a": {"\r\n"}}}},
		{"header: the Host header", Request{URL: "http://a", Header: map[string][]string{"host": {"b"}}}},
		{"address: ", Request{URL: "http://a", Address: "b"}},
		{"address: b:0", Request{URL: "http://a", Address: "b:0"}},
		{"address: b:http", Request{URL: "http://a", Address: "b:http"}},
		{`localAddr: "lo"`, Request{URL: "http://a", LocalAddr: "lo"}},
		{"tls: is set", Request{URL: "http://a", TLS: &TLS{}}},
		{"tls.ca: ", Request{URL: "https://a", TLS: &TLS{CA: []byte("x")}}},
		{"tls.cert: ", Request{URL: "https://a", TLS: &TLS{Key: []byte("x")}}},
		{`tls.minVersion: "3"`, Request{URL: "https://a", TLS: &TLS{MinVersion: "3"}}},
		{`tls.maxVersion: "3"`, Request{URL: "https://a", TLS: &TLS{MaxVersion: "3"}}},
		{`tls.cipherSuites: "x"`, Request{URL: "https://a", TLS: &TLS{CipherSuites: []string{"x"}}}},
	} {
		_, err := Burst{Requests: []Request{{URL: "http://ok"}, tt.req}, Count: 1}.Run(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), "burst: requests[1]."+tt.want) {
			t.Errorf("want %q, got %v", tt.want, err)
		}
	}
	ok := []Request{{URL: "http://a"}}
	for want, b := range map[string]Burst{
		"burst: count: 0":      {Requests: ok},
		"burst: requests: ":    {Count: 1},
		"burst: connections: ": {Requests: ok, Count: 1, Connections: maxConnections + 1},
		"burst: policy: ":      {Requests: ok, Count: 1, Policy: "rotate=0"},
		"burst: interval: ":    {Requests: ok, Count: 1, Interval: -1},
	} {
		if _, err := b.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestParsePolicy(t *testing.T) {
	for in, want := range map[string]Policy{
		"": Pinned, "pinned": Pinned, "round-robin": RoundRobin, "fresh": Fresh, "rotate=3": Rotate(3),
		"rotate": "", "rotate=": "", "rotate=0": "", "rotate=-1": "", "rotate=x": "", "Pinned": "",
	} {
		if got, err := ParsePolicy(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
}

// Whatever a job says, checking it ends in a target or an error.
func FuzzRequest(f *testing.F) {
	for _, r := range []Request{
		{URL: "http://a"}, {URL: "https://[::1]:1/x?y", TLS: &TLS{MinVersion: "1.2", CA: []byte("x")}}, {URL: "tcp://a:1", Protocol: TCP, Body: []byte("x")},
		{URL: "udp://a:1", Protocol: UDP, LocalAddr: "127.0.0.1"}, {URL: "http://a", Header: map[string][]string{"A": {"b"}}, Address: "b:1"},
	} {
		b, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		if json.Unmarshal(b, &r) != nil {
			return
		}
		if target, err := r.compile(); (target == nil) == (err == nil) {
			t.Errorf("got %v, %v", target, err)
		}
	})
}
