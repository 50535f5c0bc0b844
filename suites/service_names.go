// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"harness.example/harness/fixtures"
	"harness.example/harness/internal/stats"
	"harness.example/harness/loadgen"
)

// clusterDomain is what names of Services end in.
const clusterDomain = ".svc.cluster.local."

// unreadyPods is how many pods the case about unready ones has.
const unreadyPods = 2

func unreadyAnswers() int { return stats.CoverPlan(unreadyPods, maxAlpha) }

// serviceNames are what the cluster's DNS says about a Service.
func serviceNames() []Case {
	return []Case{
		{
			Name:    "Service/Headless",
			Doc:     "The name of a Service without a cluster address stands for its pods themselves: an address record for each, a service record for each by the port's name, and no port but the pods' own.",
			Fixture: "service/headless.yaml",
			Judged:  "exact: every DNS server has exactly the ready pods' addresses; 20 fresh connections to the name at the pods' port are answered by them, and at the Service's port refused",
			Covers:  []string{"Service.spec.clusterIP", "Service.spec.ports[].name", "Service.spec.ports[].targetPort", "Service.spec.selector{}"},
			Check:   checkHeadless,
			Controls: []Control{
				{Break: "Service spec.selector.version=v1", Fails: "the address records"},
				{Break: "Service spec.ports[0].targetPort=8099", Fails: "got 8099 ×5"},
				{Break: "Service spec.ports[0].name=other", Fails: "got no such name"},
			},
		},
		{
			Name:     "Service/Unready",
			Doc:      "A pod that is not ready has no address record and no connections, unless the Service publishes such pods too.",
			Fixture:  "service/unready.yaml",
			Workload: Own,
			Direct:   true,
			Judged:   fmt.Sprintf("exact: every DNS server has exactly the addresses; the unready pod answers among %d fresh connections to the cluster address (n and alpha as sampled)", unreadyAnswers()),
			Samples:  []Sample{covers("pods reached at the cluster address", unreadyPods, unreadyAnswers(), maxAlpha)},
			Covers:   []string{"Service.spec.publishNotReadyAddresses", "Service.spec.clusterIP"},
			Check:    checkUnready,
			Controls: []Control{
				{Break: "Service/-names spec.publishNotReadyAddresses=", Fails: "of both pods"},
				{Break: "Service/-address spec.publishNotReadyAddresses=", Fails: "never answered"},
				{Break: "Service/-ready spec.publishNotReadyAddresses=true", Fails: "of the ready pod alone"},
			},
		},
		{
			Name:     "Service/PodHostname",
			Doc:      "A pod with a host name has a record of its own below the headless Service that it names as its subdomain.",
			Fixture:  "service/pod-hostname.yaml",
			Workload: Own,
			Judged:   "exact: every DNS server has exactly the pod's address for its name, and three requests to the name are answered by it",
			Covers:   []string{"Pod.spec.hostname", "Pod.spec.subdomain", "Service.spec.clusterIP"},
			Check:    checkPodHostname,
			Controls: []Control{
				{Break: "Service spec.selector.app=nobody", Fails: "got no such name"},
				{Break: "the same pod with another host name", Fails: "got no such name", Do: otherHostname},
			},
		},
		{
			Name:    "Service/ExternalName",
			Doc:     "The name of a Service of type ExternalName is an alias: who asks for it is answered by what it stands for.",
			Fixture: "service/external-name.yaml",
			Direct:  true,
			Judged:  "exact: every DNS server answers with the alias, and each of three requests to the name is answered by the pod behind the other name",
			Covers:  []string{"Service.spec.type=ExternalName", "Service.spec.externalName"},
			Check:   checkExternalName,
			Controls: []Control{
				{Break: "Service/-alias spec.externalName=nobody.harness.test", Fails: "the alias"},
				{Break: "Service/-there spec.selector.version=v3", Fails: "not expected: \"echo-v3"},
			},
		},
	}
}

// dnsServers are the cluster's.
func (e *Env) dnsServers(ctx context.Context) ([]corev1.Pod, error) {
	ready, err := fixtures.ReadyPods(ctx, e.Kube, metav1.NamespaceSystem, "k8s-app=kube-dns")
	if err != nil {
		return nil, fmt.Errorf("find the DNS servers: %w", err)
	}
	if len(ready) == 0 {
		return nil, errors.New("no pod k8s-app=kube-dns is ready in namespace " + metav1.NamespaceSystem)
	}
	return ready, nil
}

// lookUp asks each of the cluster's DNS servers, from a pod, and returns what each says, in one line.
func (e *Env) lookUp(ctx context.Context, name string, kind dnsmessage.Type) ([]string, error) {
	servers, err := e.dnsServers(ctx)
	if err != nil {
		return nil, err
	}
	question, err := dnsQuestion(name, kind)
	if err != nil {
		return nil, err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return nil, err
	}
	b := loadgen.Burst{Count: len(servers), Connections: len(servers), Policy: loadgen.Fresh}
	for _, s := range servers {
		b.Requests = append(b.Requests, loadgen.Request{URL: "udp://" + hostPort(s.Status.PodIP, 53), Protocol: loadgen.UDP, Body: question})
	}
	xs, err := e.Burst(ctx, from, b)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, x := range xs {
		if x.Err != "" {
			return nil, fmt.Errorf("ask DNS server %s: %s", servers[x.Seq].Name, x.Err)
		}
		said, err := dnsAnswer(x.Body)
		if err != nil {
			return nil, fmt.Errorf("answer of DNS server %s: %w", servers[x.Seq].Name, err)
		}
		out = append(out, said)
	}
	return out, nil
}

func dnsQuestion(name string, kind dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, fmt.Errorf("name %s: %w", name, err)
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 1, RecursionDesired: true})
	var opt dnsmessage.ResourceHeader
	const room = 4096 // or the answer would be cut at 512 bytes
	err = errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{Name: n, Type: kind, Class: dnsmessage.ClassINET}),
		b.StartAdditionals(), opt.SetEDNS0(room, dnsmessage.RCodeSuccess, false), b.OPTResource(opt, dnsmessage.OPTResource{}))
	if err != nil {
		return nil, fmt.Errorf("question for %s: %w", name, err)
	}
	return b.Finish()
}

// dnsAnswer is the records of an answer, counted: addresses, the other names of aliases, the ports of services.
func dnsAnswer(message []byte) (string, error) {
	var m dnsmessage.Message
	if err := m.Unpack(message); err != nil {
		return "", err
	}
	switch {
	case m.RCode == dnsmessage.RCodeNameError:
		return "no such name", nil
	case m.RCode != dnsmessage.RCodeSuccess || m.Truncated:
		return "", fmt.Errorf("%s, truncated %t", m.RCode, m.Truncated)
	}
	records := map[string]int{}
	for _, r := range m.Answers {
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			records[netip.AddrFrom4(body.A).String()]++
		case *dnsmessage.CNAMEResource:
			records[body.CNAME.String()]++
		case *dnsmessage.SRVResource:
			records[fmt.Sprint(body.Port)]++
		default:
			records[r.Header.Type.String()]++
		}
	}
	return counts(records), nil
}

// named waits until every DNS server knows a Service that is younger than all that the case has made: as they learn of
// Services, and of endpoints, in order, they then know the case's too.
func (e *Env) named(ctx context.Context) error {
	name := "dns-" + random(8)
	token := object("v1", "Service", e.pool, name, map[string]any{
		"clusterIP": "None", "selector": map[string]any{"app": "echo"}, "ports": []any{map[string]any{"name": "http", "port": int64(80), "targetPort": "http"}},
	})
	e.addLeftover(token)
	if _, err := e.fx.Apply(ctx, token); err != nil {
		return fmt.Errorf("send the DNS servers a Service: %w", err)
	}
	return e.Until(ctx, "every DNS server knows the newest Service", func(ctx context.Context) (bool, error) {
		said, err := e.lookUp(ctx, name+"."+e.pool+clusterDomain, dnsmessage.TypeA)
		if err == nil && slices.ContainsFunc(said, func(s string) bool { return !strings.Contains(s, "×") }) {
			err = fmt.Errorf("they say %v", said)
		}
		return true, err
	})
}

// resolves judges that every DNS server says exactly this.
func (e *Env) resolves(ctx context.Context, what, name string, kind dnsmessage.Type, want map[string]int) error {
	said, err := e.lookUp(ctx, name, kind)
	if err != nil {
		return err
	}
	for _, s := range said {
		if s != counts(want) {
			return mismatch(what+": "+counts(want), "%s", s)
		}
	}
	return nil
}

// dnsName is that of the case's Service with the suffix.
func (e *Env) dnsName(suffix string) string {
	return e.Name() + suffix + "." + e.Namespace() + clusterDomain
}

func addresses(pods []corev1.Pod) map[string]int {
	out := map[string]int{}
	for _, p := range pods {
		out[p.Status.PodIP]++
	}
	return out
}

func checkHeadless(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo")
	if err != nil {
		return err
	}
	if err := e.named(ctx); err != nil {
		return err
	}
	name := e.dnsName("")
	if err := e.resolves(ctx, "the address records", name, dnsmessage.TypeA, addresses(pods)); err != nil {
		return err
	}
	if err := e.resolves(ctx, "the ports of the service records", "_http._tcp."+name, dnsmessage.TypeSRV, map[string]int{"8080": len(pods)}); err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{{URL: "http://" + hostPort(name, 8080) + "/"}}, Count: 20, Connections: 4, Policy: loadgen.Fresh})
	if err != nil {
		return err
	}
	if err := all("the name at the pods' port", xs, "200"); err != nil {
		return err
	}
	for _, x := range xs {
		if !slices.Contains(podNames(pods), pod(x)) {
			return &Mismatch{Want: "the pods themselves answer", Got: describe(x), Exchanges: []loadgen.Exchange{x}}
		}
	}
	return ends(ctx, e, "the name at the Service's port", from, loadgen.Request{URL: "http://" + hostPort(name, 80) + "/"}, loadgen.KindDialRefused)
}

// oneUnready has one of the two pods say that it is not ready, and returns it and the other once everybody knows.
func (e *Env) oneUnready(ctx context.Context) (both []corev1.Pod, err error) {
	err = e.Until(ctx, "one pod is ready and one is not", func(ctx context.Context) (bool, error) {
		list, err := e.Kube.CoreV1().Pods(e.Namespace()).List(ctx, metav1.ListOptions{LabelSelector: selector(e)})
		if err != nil {
			return false, err
		}
		both = list.Items // in the order of their names
		if len(both) != unreadyPods {
			return false, fmt.Errorf("there are %d pods, want %d", len(both), unreadyPods)
		}
		if _, err := e.Control(ctx, "POST", both[0].Name, "/control", url.Values{"ready": {"false"}}); err != nil {
			return false, err
		}
		if fixtures.PodReady(&both[0]) || !fixtures.PodReady(&both[1]) {
			return false, fmt.Errorf("they are ready: %t, %t", fixtures.PodReady(&both[0]), fixtures.PodReady(&both[1]))
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return both, e.Live(ctx)
}

func checkUnready(ctx context.Context, e *Env) error {
	both, err := e.oneUnready(ctx)
	if err != nil {
		return err
	}
	if err := e.named(ctx); err != nil {
		return err
	}
	if err := e.resolves(ctx, "the address records of both pods", e.dnsName("-names"), dnsmessage.TypeA, addresses(both)); err != nil {
		return err
	}
	if err := e.resolves(ctx, "the address record of the ready pod alone", e.dnsName("-ready"), dnsmessage.TypeA, addresses(both[1:])); err != nil {
		return err
	}
	s, err := e.serviceOf(ctx, "-address")
	if err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	xs, err := e.Burst(ctx, from, loadgen.Burst{Requests: []loadgen.Request{{URL: clusterURL(s)}}, Count: unreadyAnswers(), Policy: loadgen.Fresh, Connections: 4})
	if err != nil {
		return err
	}
	return reached("the cluster address", xs, pod, podNames(both))
}

func checkPodHostname(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, selector(e))
	if err != nil {
		return err
	}
	if err := e.named(ctx); err != nil {
		return err
	}
	name := "shop." + e.dnsName("")
	if err := e.resolves(ctx, "the pod's own name", name, dnsmessage.TypeA, addresses(pods)); err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	xs, err := e.tries(ctx, from, loadgen.Request{URL: "http://" + hostPort(name, 8080) + "/"})
	if err != nil {
		return err
	}
	return reached("the pod's own name", xs, pod, podNames(pods))
}

// otherHostname makes the pod anew, for its host name cannot be changed.
func otherHostname(ctx context.Context, e *Env) error {
	return e.replace(ctx, "Pod", "spec.hostname=elsewhere")
}

func checkExternalName(ctx context.Context, e *Env) error {
	pods, err := e.Pods(ctx, "app=echo,version=v2")
	if err != nil {
		return err
	}
	s, err := e.serviceOf(ctx, "-there")
	if err != nil {
		return err
	}
	if err := e.named(ctx); err != nil {
		return err
	}
	want := map[string]int{e.dnsName("-there"): 1, s.Spec.ClusterIP: 1}
	if err := e.resolves(ctx, "the alias and the address of the other name", e.dnsName("-alias"), dnsmessage.TypeA, want); err != nil {
		return err
	}
	from, err := e.Inside(ctx, "")
	if err != nil {
		return err
	}
	xs, err := e.tries(ctx, from, loadgen.Request{URL: "http://" + e.dnsName("-alias") + "/"})
	if err != nil {
		return err
	}
	return reached("the alias", xs, pod, podNames(pods))
}
