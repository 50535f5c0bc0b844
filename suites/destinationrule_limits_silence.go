// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"harness.example/harness/loadgen"
)

// What the fixtures say.
const (
	connectTimeout                   = 800 * time.Millisecond
	probeTime, probeInterval, probes = time.Second, time.Second, 2
	pingInterval, pingTimeout        = time.Second, time.Second
)

const (
	// pingJitter is by how much Envoy lengthens an interval at random.
	pingJitter = 0.15
	// silentTimeout is when a request to a silent backend is given up: no bound of the cases or their controls is beyond it.
	silentTimeout = 12 * time.Second
)

// silences are the cases about a backend that falls silent, without any sign of its end.
func silences() []Case {
	return []Case{
		{
			Name:     "DestinationRule/ConnectTimeout",
			Doc:      "A backend that does not answer an attempt to connect is given up after the connect timeout.",
			Fixture:  "destinationrule/pool-connect-timeout.yaml",
			Needs:    []Capability{NodeExec},
			Workload: Own,
			Judged: fmt.Sprintf("the one request, to a pod that has been cut off, fails with the proxy's own 503 and its word for it, not before %s and within %s more, which a busy machine may be late",
				connectTimeout, endSlack),
			Covers: []string{"DestinationRule.spec.trafficPolicy.connectionPool.tcp.connectTimeout"},
			Check:  checkConnectTimeout,
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.tcp.connectTimeout=3.5s", Fails: "the attempt to last"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.tcp.connectTimeout=0.1s", Fails: "the attempt to last"},
			},
		},
		{
			Name:     "DestinationRule/TCPKeepalive",
			Doc:      "A connection whose other side has fallen silent is given up when the keepalive probes have gone unanswered: after their time and so many intervals.",
			Fixture:  "destinationrule/pool-tcp-keepalive.yaml",
			Needs:    []Capability{NodeExec},
			Workload: Own,
			Judged: fmt.Sprintf("the one request, under way to a pod that is cut off, ends by the proxy's 503 and not before %s + %d × %s since it was sent (nothing can be sent later than that), and within that time and %s, which a busy machine may be late, since the cut",
				probeTime, probes, probeInterval, endSlack),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.time", "DestinationRule.spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.interval",
				"DestinationRule.spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.probes",
			},
			Check: func(ctx context.Context, e *Env) error {
				const dead = probeTime + probes*probeInterval
				return fallsSilent(ctx, e, func(sent, cut, done time.Time) (time.Time, time.Time) { return sent.Add(dead), done.Add(dead) })
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.time=9s", Fails: "too late"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.interval=5s", Fails: "too late"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.tcp.tcpKeepalive.probes=10", Fails: "too late"},
			},
		},
		{
			Name:     "DestinationRule/HTTP2Keepalive",
			Doc:      "An HTTP/2 connection whose other side has fallen silent is given up when a PING has gone unanswered.",
			Fixture:  "destinationrule/h2-keepalive.yaml",
			Needs:    []Capability{NodeExec},
			Workload: Own,
			Judged: fmt.Sprintf("the one request, under way to a pod that is cut off, ends by the proxy's 503 and not before %s since the cut (an earlier PING has had its answer), and within an interval of %s, lengthened by at most %g %%, the timeout and %s, which a busy machine may be late",
				pingTimeout, pingInterval, 100*pingJitter, endSlack),
			Covers: []string{
				"DestinationRule.spec.trafficPolicy.connectionPool.http.http2KeepAlive.interval", "DestinationRule.spec.trafficPolicy.connectionPool.http.http2KeepAlive.timeout",
			},
			Check: func(ctx context.Context, e *Env) error {
				const longest = pingInterval + time.Duration(pingJitter*float64(pingInterval)) + pingTimeout
				return fallsSilent(ctx, e, func(_, cut, done time.Time) (time.Time, time.Time) { return cut.Add(pingTimeout), done.Add(longest) })
			},
			Controls: []Control{
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.http2KeepAlive.interval=10s", Fails: "too late"},
				{Break: "DestinationRule spec.trafficPolicy.connectionPool.http.http2KeepAlive.timeout=9s", Fails: "too late"},
			},
		},
	}
}

func checkConnectTimeout(ctx context.Context, e *Env) error {
	p, err := onlyPod(ctx, e)
	if err != nil {
		return err
	}
	if err := cutOff(ctx, e, p); err != nil {
		return err
	}
	xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/")}, Count: 1})
	if err != nil {
		return err
	}
	if err := lasted("the attempt", xs, connectTimeout-early, connectTimeout+endSlack); err != nil {
		return err
	}
	return envoySays(xs[0], "connection timeout")
}

// onlyPod is the case's own pod.
func onlyPod(ctx context.Context, e *Env) (corev1.Pod, error) {
	pods, err := e.Pods(ctx, "app="+e.Name())
	if err != nil {
		return corev1.Pod{}, err
	}
	if len(pods) != 1 {
		return corev1.Pod{}, fmt.Errorf("%d pods are ready, want 1", len(pods))
	}
	return pods[0], nil
}

// fallsSilent cuts the one pod off amid a request and judges when that ends. bounds says between which times it must, from
// when it was sent and from before and after the cut.
func fallsSilent(ctx context.Context, e *Env, bounds func(sent, cut, done time.Time) (soonest, latest time.Time)) error {
	p, err := onlyPod(ctx, e)
	if err != nil {
		return err
	}
	type outcome struct {
		x   []loadgen.Exchange
		err error
	}
	ended := make(chan outcome, 1)
	prefix := e.Prefix()
	go func() {
		slow := e.Commanded(e.URL("/"), "delay="+(2*silentTimeout).String())
		xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{slow}, Count: 1, Timeout: silentTimeout, IDPrefix: prefix})
		ended <- outcome{xs, err}
	}()
	if err := e.Until(ctx, "the request is under way", func(ctx context.Context) (bool, error) {
		seen, err := e.Seen(ctx, []corev1.Pod{p}, prefix+"-")
		return len(seen[p.Name]) == 1, err
	}); err != nil {
		return err
	}
	cut := time.Now()
	if err := cutOff(ctx, e, p); err != nil {
		return err
	}
	done := time.Now()
	end := <-ended
	if end.err != nil {
		return end.err
	}
	x := end.x[0]
	soonest, latest := bounds(x.Start, cut, done)
	latest = latest.Add(endSlack)
	at := x.Start.Add(x.Latency)
	want := fmt.Sprintf("the end of the request from %.2f to %.2f s after its pod fell silent", soonest.Sub(cut).Seconds(), latest.Sub(cut).Seconds())
	switch {
	case at.Before(soonest.Add(-early)):
		return mismatch(want, "too soon, after %.2f s: %s", at.Sub(cut).Seconds(), describe(x))
	case at.After(latest):
		return mismatch(want, "too late, after %.2f s: %s", at.Sub(cut).Seconds(), describe(x))
	}
	e.Figure("from the silence to the end", at.Sub(cut).Seconds(), "s")
	return envoySays(x, "connection termination")
}

// envoySays judges that the proxy itself answered 503, and why.
func envoySays(x loadgen.Exchange, reason string) error {
	if x.Status == 503 && pod(x) == "" && strings.Contains(string(x.Body), reason) {
		return nil
	}
	return &Mismatch{Want: "the proxy's 503: " + reason, Got: describe(x), Exchanges: []loadgen.Exchange{x}}
}

// cutOff has a pod send nothing any more, by a rule in its own network namespace.
func cutOff(ctx context.Context, e *Env, p corev1.Pod) error {
	i := slices.IndexFunc(e.Target.Nodes, func(n Node) bool { return n.Name == p.Spec.NodeName })
	if i < 0 {
		return fmt.Errorf("pod %s is on the unknown node %q", p.Name, p.Spec.NodeName)
	}
	rule := func(ctx context.Context, verb string) error {
		script := `for ns in $(ip netns list | cut -d" " -f1); do
	if ip -n "$ns" -4 -o address show | grep -qF " inet $1/"; then
		exec ip -n "$ns" rule "$2" priority 1 blackhole
	fi
done
echo "no network namespace has the address"; exit 1`
		argv := append(slices.Clone(e.Target.Nodes[i].Exec), "sh", "-c", script, "sh", p.Status.PodIP, verb)
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput() //nolint:gosec // the target says how
		if err != nil {
			return fmt.Errorf("%s the rule of pod %s: %w: %s", verb, p.Name, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	if err := rule(ctx, "add"); err != nil {
		return err
	}
	e.Undo(func(ctx context.Context) error { return rule(ctx, "del") })
	return nil
}
