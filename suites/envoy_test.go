// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// envoyClusters is an answer of /clusters?format=json in the shape that Envoy 1.40 writes.
const envoyClusters = `{"cluster_statuses":[
 {"name":"outbound|80||shop.ns.svc.cluster.local","host_statuses":[
  {"address":{"socket_address":{"address":"10.0.0.1","port_value":8080}},"health_status":{"eds_health_status":"HEALTHY"}},
  {"address":{"socket_address":{"address":"10.0.0.2","port_value":8080}},"health_status":{"eds_health_status":"HEALTHY","failed_outlier_check":true}},
  {"address":{"socket_address":{"address":"10.0.0.9","port_value":8080}},"health_status":{"eds_health_status":"DRAINING"}}]},
 {"name":"outbound|80|v1|shop.ns.svc.cluster.local","host_statuses":[
  {"address":{"socket_address":{"address":"10.0.0.1","port_value":8080}},"health_status":{"eds_health_status":"HEALTHY"}}]},
 {"name":"outbound|80||old.ns.svc.cluster.local"},
 {"name":"inbound|8080||","host_statuses":[]},
 {"name":"agent"}]}`

func TestClusters(t *testing.T) {
	both := []string{"10.0.0.1:8080", "10.0.0.2:8080"}
	for name, test := range map[string]struct {
		want    picture
		sidecar bool
		err     string
	}{
		"as applied":     {want: picture{services: map[string][]string{"shop.ns": both}, routed: []destination{{"shop.ns", "v1", true}}}},
		"another's":      {want: picture{services: map[string][]string{"shop.other": nil}}},
		"no endpoints":   {want: picture{services: map[string][]string{"old.ns": nil}}},
		"one is missing": {want: picture{services: map[string][]string{"shop.ns": append([]string{"10.0.0.3:8080"}, both...)}}, err: "has endpoints"},
		"one is missing, of another node": {
			want: picture{services: map[string][]string{"shop.ns": append([]string{"10.0.0.3:8080"}, both...)}, local: map[string]bool{"shop.ns": true}},
		},
		"one is left over, of its node": {
			want: picture{services: map[string][]string{"shop.ns": both[:1]}, local: map[string]bool{"shop.ns": true}}, err: "still has endpoint 10.0.0.2:8080",
		},
		"one is left over": {want: picture{services: map[string][]string{"shop.ns": both[:1]}}, err: "still has endpoint 10.0.0.2:8080"},
		"another port":     {want: picture{services: map[string][]string{"shop.ns": {"10.0.0.1:9000", "10.0.0.2:9000"}}}, err: "still has endpoint"},
		"deleted":          {want: picture{gone: []string{"old.ns"}}, err: "is still there"},
		"subset not yet": {
			want: picture{services: map[string][]string{"shop.ns": both}, routed: []destination{{"shop.ns", "v2", true}}}, err: `no cluster for shop.ns, subset "v2"`,
		},
		"routed by sidecars only, at a gateway": {want: picture{services: map[string][]string{"shop.ns": both}, routed: []destination{{"shop.ns", "v2", false}}}},
		"routed by sidecars only, at a sidecar": {
			want: picture{services: map[string][]string{"shop.ns": both}, routed: []destination{{"shop.ns", "v2", false}}}, sidecar: true, err: "no cluster",
		},
		"routed outside the fixture": {want: picture{routed: []destination{{"elsewhere.ns", "", true}}}},
	} {
		t.Run(name, func(t *testing.T) {
			wantErr(t, showsClusters([]byte(envoyClusters), test.want, !test.sidecar), test.err)
		})
	}
	wantErr(t, showsClusters([]byte("<html>"), picture{}, true), "the proxy's clusters")
}

func wantErr(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestListenersAndWarming(t *testing.T) {
	mine := picture{name: "gateway-https-abc"}
	for dump, want := range map[string]string{
		`{}`: "",
		`{"configs":[{"name":"0.0.0.0_8443","active_state":{"listener":"gateway-https-abc"}}]}`:                                      "",
		`{"configs":[{"name":"0.0.0.0_8443","active_state":{},"warming_state":{"listener":"gateway-https-abc"}}]}`:                   "is warming up",
		`{"configs":[{"name":"0.0.0.0_8443","active_state":{},"warming_state":{"listener":"another"}}]}`:                             "",
		`{"configs":[{"name":"0.0.0.0_1","error_state":{"failed_configuration":{"x":"gateway-https-abc"},"details":"bad cipher"}}]}`: "refused listener 0.0.0.0_1: bad cipher",
		`{"configs":[{"name":"0.0.0.0_1","error_state":{"failed_configuration":{"x":"another"},"details":"bad cipher"}}]}`:           "",
		`{"configs":[{"name":1}]}`: "the proxy's listeners",
		`nonsense`:                 "config dump",
	} {
		wantErr(t, listens([]byte(dump), mine), want)
	}
	wantErr(t, warmsNothing([]byte(`{"configs":[{"cluster":{"name":"outbound|80||gateway-https-abc.ns"}}]}`), mine), "warming up")
	wantErr(t, warmsNothing([]byte(`{"configs":[{"cluster":{"name":"outbound|80||another.ns"}}]}`), mine), "")
	wantErr(t, warmsNothing([]byte(`nonsense`), mine), "config dump")
	wantErr(t, showsToken([]byte(`"inline_string":"t1"`), picture{token: "t1"}), "")
	wantErr(t, showsToken([]byte(`"inline_string":"t0"`), picture{token: "t1"}), "token")
}

func manifest(t *testing.T, docs ...string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for _, d := range docs {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(d), &u.Object); err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

func TestNodeLocal(t *testing.T) {
	got := nodeLocal(manifest(t,
		`{kind: Service, metadata: {name: here, namespace: ns}, spec: {internalTrafficPolicy: Local}}`,
		`{kind: Service, metadata: {name: anywhere, namespace: ns}, spec: {internalTrafficPolicy: Cluster}}`,
	))
	if len(got) != 1 || !got["here.ns"] {
		t.Errorf("got %v, want here.ns alone", got)
	}
}

func TestRouted(t *testing.T) {
	objs := manifest(t, `
kind: DestinationRule
metadata: {name: shop, namespace: ns}
spec: {host: shop, subsets: [{name: v1}]}`, `
kind: VirtualService
metadata: {name: shop, namespace: ns}
spec:
  gateways: [gw, mesh]
  http:
    - route:
        - destination: {host: shop, subset: v1}
        - destination: {host: shop, subset: undefined}
    - route: [{destination: {host: other.far.svc.cluster.local}}]
  tcp:
    - route: [{destination: {host: wire}}]`, `
kind: VirtualService
metadata: {name: inner, namespace: ns}
spec: {http: [{route: [{destination: {host: inner}}]}]}`)
	want := []destination{{"shop.ns", "v1", true}, {"other.far", "", true}, {"wire.ns", "", true}, {"inner.ns", "", false}}
	if got := routed(objs); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCertificates(t *testing.T) {
	crt, key := pair(t)
	other, _ := pair(t)
	secret := func(name, namespace, crt string) string {
		return "kind: Secret\nmetadata: {name: " + name + ", namespace: " + namespace + "}\ndata: {tls.crt: " + crt + ", tls.key: " + key + "}"
	}
	gateway := "kind: Gateway\nmetadata: {name: g, namespace: ns}\nspec: {servers: [{tls: {mode: SIMPLE, credentialName: mine}}, {port: {number: 80}}]}"
	for name, test := range map[string]struct {
		docs []string
		want int
	}{
		"named":                     {[]string{gateway, secret("mine", "istio", crt)}, 1},
		"nobody names it":           {[]string{gateway, secret("spare", "istio", crt)}, 0},
		"not where the gateway is":  {[]string{gateway, secret("mine", "ns", crt)}, 0},
		"key of another":            {[]string{gateway, secret("mine", "istio", other)}, 0},
		"no gateway in the fixture": {[]string{secret("mine", "istio", crt)}, 0},
	} {
		got := certificates(manifest(t, test.docs...), "istio")
		if len(got) != test.want || test.want == 1 && got[0] != crt {
			t.Errorf("%s: %d certificates, want %d", name, len(got), test.want)
		}
	}
	wantErr(t, showsCertificates([]byte(`{"inline_bytes": "`+crt+`"}`), picture{certificates: []string{crt}}), "")
	wantErr(t, showsCertificates([]byte(`{"inline_bytes": "`+other+`"}`), picture{certificates: []string{crt}}), "certificate")
}

// pair makes a certificate and its key, PEM as base64.
func pair(t *testing.T) (crt, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8)
}

func TestVirtualHostsAndLines(t *testing.T) {
	dump := `{"configs":[{"route_config":{"name":"http.80","virtual_hosts":[{"name":"mine.test:80"},{"name":"other.test:80"}]}}]}`
	if got := string(virtualHosts([]byte(dump), "mine")); !strings.Contains(got, "mine.test") || strings.Contains(got, "other.test") {
		t.Errorf("got %s", got)
	}
	if got := string(virtualHosts([]byte(dump), "absent")); !strings.Contains(got, "no route of this proxy mentions") {
		t.Errorf("got %s", got)
	}
	if got := string(linesWith([]byte("a mine\nb\nc ours\n"), "mine", "ours")); got != "a mine\nc ours\n" {
		t.Errorf("got %q", got)
	}
}

func TestEvidenceHidesSecrets(t *testing.T) {
	text := string(documents(manifest(t, "kind: Secret\nmetadata: {name: s}\ndata: {tls.key: aGlkZGVu}\nstringData: {more: hidden}")))
	if strings.Contains(text, "aGlkZGVu") || strings.Contains(text, "hidden") || !strings.Contains(text, "redacted") {
		t.Errorf("got %s", text)
	}
}

func TestParseBreak(t *testing.T) {
	got, err := parseBreak(`VirtualService/-b spec.http[0].route[0].weight=50; DestinationRule spec.trafficPolicy.outlierDetection=; delete Service/-x`)
	want := []edit{
		{kind: "VirtualService", name: "-b", path: "spec.http[0].route[0].weight", value: "50"},
		{kind: "DestinationRule", path: "spec.trafficPolicy.outlierDetection"},
		{remove: true, kind: "Service", name: "-x"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, got %+v", err, got)
	}
}
