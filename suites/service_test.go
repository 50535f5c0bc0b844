// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestDNSAnswer(t *testing.T) {
	name := dnsmessage.MustNewName("shop.ns.svc.cluster.local.")
	answer := func(body dnsmessage.ResourceBody) dnsmessage.Resource {
		return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET}, Body: body}
	}
	for want, m := range map[string]dnsmessage.Message{
		"no such name":                  {Header: dnsmessage.Header{RCode: dnsmessage.RCodeNameError}},
		"nothing":                       {},
		"10.0.0.1 ×2, 10.0.0.2 ×1":      {Answers: []dnsmessage.Resource{answer(&dnsmessage.AResource{A: [4]byte{10, 0, 0, 2}}), answer(&dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}}), answer(&dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}})}},
		"8080 ×1":                       {Answers: []dnsmessage.Resource{answer(&dnsmessage.SRVResource{Port: 8080, Target: name})}},
		"shop.ns.svc.cluster.local. ×1": {Answers: []dnsmessage.Resource{answer(&dnsmessage.CNAMEResource{CNAME: name})}},
	} {
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := dnsAnswer(packed); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	for what, m := range map[string]dnsmessage.Header{"a failure": {RCode: dnsmessage.RCodeServerFailure}, "a part": {Truncated: true}} {
		packed, err := (&dnsmessage.Message{Header: m}).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := dnsAnswer(packed); err == nil {
			t.Errorf("%s is taken for an answer: %q", what, got)
		}
	}
	question, err := dnsQuestion(name.String(), dnsmessage.TypeA)
	var m dnsmessage.Message
	if err != nil || m.Unpack(question) != nil || len(m.Questions) != 1 || len(m.Additionals) != 1 {
		t.Errorf("question %+v, %v", m, err)
	}
}
