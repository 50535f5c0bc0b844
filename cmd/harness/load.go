// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"harness.example/harness/cluster"
	"harness.example/harness/loadgen"
	"harness.example/harness/suites/perf"
)

// Where load comes from.
const (
	fromHost = "host" // this process
	fromPod  = "pod"  // a pod made for the run, without a sidecar
	fromMesh = "mesh" // the same with a sidecar
)

// loadFlags is what the load command was asked for.
type loadFlags struct {
	env                              environmentFlags
	from, policy, protocol, host, to string
	rate                             string
	slo                              string
	workers                          int
	headers                          []string
	insecure                         bool
	plan                             loadgen.Plan
	capacity                         capacityFlags
	output                           string
}

func (a *app) loadCommand() *cobra.Command {
	var l loadFlags
	cmd := &cobra.Command{
		Use:   "load TARGET",
		Short: "Send requests at a rate and say how long they took",
		Long: `load sends requests on a schedule that does not wait for answers, and measures from when each was due. TARGET is a URL,
or a path such as /api, which goes through the environment's ingress gateway (give --host for its virtual host).

It prints PASS, FAIL (an objective of --slo was missed, or nothing was answered) or INVALID (the generator, not the system, was
the limit, so the figures mean nothing), and exits 0, 1 or 3.

With --find-capacity it looks for the highest rate at which the objectives of --slo hold: from --rate upwards, then by bisection to
5 %, then three times more at what was found. It exits 3 when the generator is the limit: the system then carries that much at least.`,
		Example: `  harness load /api --host shop.example --rate 200 --duration 30s --slo 'p99<20ms,error<0.1%'
  harness load /api --host shop.example --find-capacity --slo 'p99<50ms,error<1%' --connections 32
  harness load http://127.0.0.1:8080/ --rate 1000 --connections 16 --policy fresh`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l.to = args[0]
			if l.capacity.find && !cmd.Flags().Changed("duration") {
				l.plan.Duration = stepDuration
			}
			if err := l.check(); err != nil {
				return err
			}
			return a.load(cmd.Context(), &l)
		},
	}
	f := cmd.Flags()
	f.StringVar(&l.rate, "rate", "100", "requests per second; max: as many as the connections carry, one at a time on each (closed loop)")
	f.DurationVar(&l.plan.Duration, "duration", 30*time.Second, "how long, after the warm-up")
	f.DurationVar(&l.plan.Warmup, "warmup", 2*time.Second, "load before what is measured, at the same rate")
	f.IntVar(&l.plan.Connections, "connections", 8, "connections at most, of each worker")
	f.DurationVar(&l.plan.Timeout, "timeout", 10*time.Second, "of one request")
	f.DurationVar(&l.plan.MaxLag, "max-lag", 0, "how late requests may be sent for the figures to count, at the 99th percentile (default: 1ms or a tenth of the median)")
	f.StringVar(&l.policy, "policy", string(loadgen.Pinned), "which connection carries a request: pinned, round-robin, rotate=N or fresh")
	f.StringVar(&l.protocol, "protocol", string(loadgen.HTTP1), "http1, h2, h2c, grpc, tcp, udp or websocket")
	f.StringVar(&l.from, "from", fromHost, "where the load comes from: host, pod, or mesh (a pod with a sidecar)")
	f.IntVar(&l.workers, "workers", 0, "so many pods on all nodes that send the rate together, with --from pod or mesh")
	f.StringVar(&l.host, "host", "", "Host header, and the name asked for in TLS")
	f.StringArrayVarP(&l.headers, "header", "H", nil, "header to send, as Name: value; repeatable")
	f.BoolVar(&l.insecure, "insecure", false, "do not verify the server's certificate")
	f.StringVar(&l.slo, "slo", "", "objectives: p99<DURATION and error<PERCENT%, separated by a comma")
	l.capacity.add(cmd)
	fixed(cmd, "from", fromHost, fromPod, fromMesh)
	fixed(cmd, "policy", "pinned", "round-robin", "rotate=", "fresh")
	fixed(cmd, "protocol", "http1", "h2", "h2c", "grpc", "tcp", "udp", "websocket")
	l.env.addOwn(cmd)
	l.env.addAttach(cmd)
	outputFlag(cmd, &l.output)
	return cmd
}

// check finds every mistake that can be found before the cluster is touched.
func (l *loadFlags) check() error {
	if err := checkOutput(l.output); err != nil {
		return err
	}
	switch l.from {
	case fromHost, fromPod, fromMesh:
	default:
		return usage("use host, pod or mesh", "unknown --from %q", l.from)
	}
	if err := l.setRate(); err != nil {
		return err
	}
	if err := l.checkWorkers(); err != nil {
		return err
	}
	policy, err := loadgen.ParsePolicy(l.policy)
	if err != nil {
		return usage("", "--%w", err)
	}
	l.plan.Policy = policy
	if l.slo != "" {
		if l.plan.SLO, err = parseSLO(l.slo); err != nil {
			return err
		}
	}
	if err := l.capacity.check(l); err != nil {
		return err
	}
	if !strings.HasPrefix(l.to, "/") {
		if u, err := url.Parse(l.to); err != nil || u.Scheme == "" || u.Hostname() == "" {
			return usage("give a URL like http://10.0.0.1/, or a path like /api for the ingress gateway", "%q is no target", l.to)
		}
	}
	return nil
}

func (l *loadFlags) setRate() error {
	if l.plan.Closed = l.rate == "max"; l.plan.Closed {
		return nil
	}
	var err error
	if l.plan.Rate, err = strconv.ParseFloat(l.rate, 64); err != nil || !(l.plan.Rate > 0) {
		return usage("give requests per second, or max", "--rate %q is no number above 0", l.rate)
	}
	return nil
}

// parseSLO reads "p99<20ms,error<0.1%".
func parseSLO(text string) (*loadgen.SLO, error) {
	const hint = "write objectives like p99<20ms,error<0.1%"
	// What is not named is not judged: any share of errors is within one.
	slo := &loadgen.SLO{ErrorRate: 1}
	for part := range strings.SplitSeq(text, ",") {
		name, bound, ok := strings.Cut(strings.TrimSpace(part), "<")
		if !ok {
			return nil, usage(hint, "--slo %q: no < in %q", text, part)
		}
		var err error
		switch strings.TrimSpace(name) {
		case "p99":
			slo.P99, err = time.ParseDuration(strings.TrimSpace(bound))
			if err == nil && slo.P99 <= 0 {
				err = errors.New("must be above 0")
			}
		case "error":
			number, ok := strings.CutSuffix(strings.TrimSpace(bound), "%")
			if !ok {
				return nil, usage(hint, "--slo %q: %q has no %%", text, part)
			}
			slo.ErrorRate, err = strconv.ParseFloat(number, 64)
			slo.ErrorRate /= 100
			if err == nil && !(slo.ErrorRate >= 0 && slo.ErrorRate <= 1) {
				err = errors.New("must be between 0 and 100")
			}
		default:
			return nil, usage(hint, "--slo %q: unknown objective %q", text, name)
		}
		if err != nil {
			return nil, usage(hint, "--slo %q: %s: %w", text, name, err)
		}
	}
	return slo, nil
}

func (a *app) load(ctx context.Context, l *loadFlags) error {
	access, err := a.loadAccess(ctx, l)
	if err != nil {
		return err
	}
	request, err := l.request(access)
	if err != nil {
		return err
	}
	l.plan.Requests = []loadgen.Request{request}
	p := a.progress()
	defer p.close()
	var runner loadgen.Runner = loadgen.Host{}
	switch {
	case l.workers > 0:
		if runner, err = loadWorkers(access, l, p); err != nil {
			return err
		}
	case l.from != fromHost:
		client, err := startLoadClient(ctx, access, l.from == fromMesh, p)
		if err != nil {
			return err
		}
		defer func() {
			if err := client.Remove(ctx); err != nil {
				p.line("%v", err)
			}
		}()
		runner = client
	}
	relaxGC()
	if l.capacity.find {
		return a.findCapacity(ctx, l, runner, p)
	}
	p.line(" • %s requests/s for %s to %s from %s", l.rate, l.plan.Duration, l.to, l.from)
	out, err := runner.Do(ctx, loadgen.Job{Plan: &l.plan})
	switch {
	case err != nil && ctx.Err() != nil:
		return unjudged("", "the load was interrupted")
	case err != nil && l.from == fromHost:
		// In this process nothing can fail but the plan itself: requests that fail are data.
		return usage("run `harness load --help` for what a plan is made of", "load: %w", err)
	case err != nil && out.Result == nil:
		return fmt.Errorf("load: %w", err)
	case out.Result == nil:
		return usage("run `harness load --help` for what a plan is made of", "load: %s", out.Err)
	}
	if err := a.printAs(l.output, out.Result, func(bool) error { a.printLoad(out.Result, l.to, l.from); return nil }); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	return silent(loadExit(out.Result))
}

// loadAccess finds the cluster that a load touches, nil where it touches none. A URL may lead anywhere: from this process it
// is dialled in the environment's network namespace when there is one, except for a loopback address, which in there would
// be the namespace's own, on which nothing of the machine's listens.
func (a *app) loadAccess(ctx context.Context, l *loadFlags) (*cluster.Access, error) {
	if err := l.env.check(); err != nil {
		return nil, err
	}
	if l.from != fromHost || strings.HasPrefix(l.to, "/") || l.env.attached() {
		access, _, err := a.access(ctx, &l.env)
		return access, err
	}
	if u, err := url.Parse(l.to); err != nil || u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback() {
		return nil, nil
	}
	cfg, err := l.env.config()
	if err != nil {
		return nil, err
	}
	if _, _, err := cluster.Load(cfg); errors.Is(err, cluster.ErrAbsent) {
		return nil, nil
	}
	access, _, err := a.access(ctx, &l.env)
	return access, err
}

// startLoadClient makes the pod that load from inside the cluster comes from.
func startLoadClient(ctx context.Context, access *cluster.Access, mesh bool, p *progress) (*perf.Client, error) {
	c, err := perfCluster(access)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	p.event(cluster.Event{Step: "load client", State: cluster.Started, At: began})
	client, err := perf.NewClient(ctx, c, mesh)
	if err != nil {
		p.event(cluster.Event{Step: "load client", State: cluster.Failed, At: time.Now()})
		return nil, err
	}
	p.event(cluster.Event{Step: "load client", State: cluster.Done, At: time.Now(), Elapsed: time.Since(began), Detail: client.Namespace})
	return client, nil
}

// request is what is sent; a path goes to the gateway's port that speaks the protocol.
func (l *loadFlags) request(access *cluster.Access) (loadgen.Request, error) {
	r := loadgen.Request{URL: l.to, Host: l.host, Protocol: loadgen.Protocol(l.protocol), Header: http.Header{}}
	for _, h := range l.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return r, usage("write a header as Name: value", "--header %q has no colon", h)
		}
		http.Header(r.Header).Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if strings.HasPrefix(l.to, "/") {
		scheme, port := "http", "http"
		switch r.Protocol {
		case loadgen.HTTP2:
			scheme, port = "https", "https"
		case loadgen.TCP:
			scheme, port = "tcp", "tcp"
		}
		number, ok := access.Gateway.Ports[port]
		if !ok {
			return r, unjudged("give a URL instead of a path", "the ingress gateway has no port for %s", l.protocol)
		}
		r.Address = net.JoinHostPort(access.Gateway.Host, strconv.Itoa(number))
		host := l.host
		if host == "" {
			host = r.Address
		}
		r.URL = scheme + "://" + host + l.to
	}
	if u, err := url.Parse(r.URL); err == nil && (u.Scheme == "https" || u.Scheme == "tls" || u.Scheme == "wss" || u.Scheme == "grpcs") {
		r.TLS = &loadgen.TLS{ServerName: l.host, InsecureSkipVerify: l.insecure}
	}
	return r, nil
}

// loadExit is the exit code of a result. A system that answered nothing has not passed, whatever was asked.
func loadExit(r *loadgen.Result) int {
	switch {
	case r.Verdict == loadgen.Invalid:
		return exitUnjudged
	case r.Verdict != loadgen.Pass, r.OK == 0:
		return exitFailed
	}
	return exitOK
}

func (a *app) printLoad(r *loadgen.Result, to, from string) {
	verdict, reason := string(r.Verdict), r.Reason
	if r.Verdict == loadgen.Pass && r.OK == 0 {
		verdict, reason = string(loadgen.Fail), "no request was answered"
	}
	seconds := r.End.Sub(r.Start).Seconds()
	w := a.stdout
	fmt.Fprintf(w, "%s  %s from %s%s\n", verdict, to, from, suffixed(": ", reason))
	fmt.Fprintf(w, "  requests  %d planned, %d sent, %d ok, %d HTTP errors, %d transport errors, %d timeouts, in %.1fs\n",
		r.Planned, r.Sent, r.OK, r.HTTPErrors, r.TransportErrors, r.Timeouts, seconds)
	for _, h := range []struct {
		name string
		hist *loadgen.Hist
	}{{"response", r.Response}, {"service", r.Service}, {"lag", r.Lag}} {
		fmt.Fprintf(w, "  %-9s p50 %s  p90 %s  p99 %s  p99.9 %s  max %s\n", h.name,
			quantile(h.hist, 0.5), quantile(h.hist, 0.9), quantile(h.hist, 0.99), quantile(h.hist, 0.999), h.hist.Max())
	}
	counts := func(name string, m map[string]uint64) {
		var parts []string
		for _, key := range sortedKeys(m) {
			parts = append(parts, fmt.Sprintf("%s: %d", key, m[key]))
		}
		if len(parts) > 0 {
			fmt.Fprintf(w, "  %-9s %s\n", name, strings.Join(parts, "  "))
		}
	}
	counts("codes", r.Codes)
	counts("backends", r.Backends)
	counts("versions", r.Versions)
	a.printWorkers(r)
	if len(r.Failures) > 0 {
		first := r.Failures[0]
		fmt.Fprintf(w, "  first failure: request %d at %s: status %d %s\n", first.Seq, first.Start.Format(time.TimeOnly), first.Status, first.Err)
	}
}

// quantile prints one where there are enough requests beyond it to state it.
func quantile(h *loadgen.Hist, q float64) string {
	d, enough := h.Quantile(q)
	if !enough {
		return "(too few)"
	}
	return d.String()
}
