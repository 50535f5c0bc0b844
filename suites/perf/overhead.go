// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"harness.example/harness/fixtures"
	"harness.example/harness/loadgen"
)

// OverheadPlan is how the ways through the mesh are compared: every way carries one load in each block, in an order that
// changes from block to block.
type OverheadPlan struct {
	Rate        float64       `json:"rate"` // requests per second of a load
	Duration    time.Duration `json:"duration"`
	Warmup      time.Duration `json:"warmup"` // of each load, on the connections that are measured then
	Blocks      int           `json:"blocks"`
	Connections int           `json:"connections"`
	MaxLag      time.Duration `json:"maxLag,omitempty"` // as in loadgen.Plan
	Idle        time.Duration `json:"idle"`             // how long at least to look at the proxies without load
	// Plant adds a way through the gateway that is longer by so much, which must be found; 0: none.
	Plant time.Duration `json:"plant,omitempty"`
}

const (
	maxRemembered = 100_000 // requests of a load that a backend remembers
	attempts      = 3       // at one load, as long as they are INVALID
)

// Check names the field that is wrong.
func (p OverheadPlan) Check() error {
	for field, d := range map[string]time.Duration{"warmup": p.Warmup, "max-lag": p.MaxLag, "idle": p.Idle, "plant": p.Plant} {
		if d < 0 {
			return fmt.Errorf("%s: %s is negative", field, d)
		}
	}
	switch {
	case !(p.Rate > 0) || math.IsInf(p.Rate, 0):
		return fmt.Errorf("rate: %v is not above 0", p.Rate)
	case p.Duration <= 0:
		return fmt.Errorf("duration: %s is not above 0", p.Duration)
	case p.Blocks < 2:
		return fmt.Errorf("blocks: %d, must be at least 2 to compare, and 6 for an interval", p.Blocks)
	case p.Connections < 1:
		return fmt.Errorf("connections: %d is not above 0", p.Connections)
	case p.Rate*(p.Duration+p.Warmup).Seconds() > maxRemembered:
		return fmt.Errorf("rate: %v for %s is more than the %d requests that a backend remembers", p.Rate, p.Duration+p.Warmup, maxRemembered)
	}
	return nil
}

// An Invalid is a load that the generator could not keep up, in every attempt: nothing can be said.
type Invalid struct{ Way, Reason string }

func (e *Invalid) Error() string {
	return fmt.Sprintf("way %s: %d loads in a row were limited by the generator: %s", e.Way, attempts, e.Reason)
}

// A Load is one load on one way.
type Load struct {
	Block   int             `json:"block"` // from 1
	Way     string          `json:"way"`
	Attempt int             `json:"attempt"` // from 1; only the last one counts
	Start   time.Time       `json:"start"`
	Verdict loadgen.Verdict `json:"verdict"`
	Reason  string          `json:"reason,omitempty"`
	loadgen.Counts
	loadgen.Times
	Books Books `json:"books"`
}

// MeasureOverhead compares the ways and removes what it made. say is told how far it is. A *Disagreement or an *Invalid ends
// it; the report then has what was measured until there.
func MeasureOverhead(ctx context.Context, c Cluster, plan OverheadPlan, say func(string)) (report *Overhead, err error) {
	report = &Overhead{Plan: plan, Run: c.Run}
	if err := plan.Check(); err != nil {
		return report, fmt.Errorf("overhead: %w", err)
	}
	s, err := newSite(ctx, c, plan)
	if err != nil {
		return report, fmt.Errorf("overhead: %w", err)
	}
	defer func() { err = errors.Join(err, s.lab.Remove(ctx)) }()
	report.Nodes = s.nodes
	say(fmt.Sprintf("clients on %s, backends on %s, gateway on %v", s.nodes.Client, s.nodes.Server, s.nodes.Gateways))
	ways, err := s.ways(ctx, c, plan.Plant > 0)
	if err != nil {
		return report, fmt.Errorf("overhead: %w", err)
	}
	for _, w := range ways {
		if err := w.prove(ctx); err != nil {
			return report, fmt.Errorf("overhead: %w", err)
		}
	}
	m := measurement{cluster: c, plan: plan, ways: ways, backends: []corev1.Pod{s.pods["plain"], s.pods["mesh"]}, report: report, say: say}
	if err := m.run(ctx); err != nil {
		return report, fmt.Errorf("overhead: %w", err)
	}
	report.summarize(ways)
	return report, nil
}

// newSite brings all pods up. On an error nothing is left.
func newSite(ctx context.Context, c Cluster, plan OverheadPlan) (*site, error) {
	kube, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return nil, err
	}
	gateways, err := gatewayPods(ctx, kube, c.Gateway)
	if err != nil {
		return nil, err
	}
	nodes, err := place(ctx, kube, gateways)
	if err != nil {
		return nil, err
	}
	lab, err := newLab(c, "overhead")
	if err != nil {
		return nil, err
	}
	s := &site{lab: lab, kube: kube, gateways: gateways, nodes: nodes, pods: map[string]corev1.Pod{}}
	if err := s.setUp(ctx, c, plan); err != nil {
		return nil, lab.abandon(ctx, err)
	}
	return s, nil
}

func (s *site) setUp(ctx context.Context, c Cluster, plan OverheadPlan) error {
	vars := fixtures.Vars{"SERVER_NODE": s.nodes.Server, "CLIENT_NODE": s.nodes.Client, "GATEWAY": c.Gateway.Selector["istio"]}
	if err := s.lab.apply(ctx, "overhead.yaml", vars); err != nil {
		return err
	}
	if plan.Plant > 0 {
		if err := s.lab.apply(ctx, "overhead_plant.yaml", fixtures.Vars{"PLANT": seconds(plan.Plant)}); err != nil {
			return err
		}
	}
	list, err := s.kube.CoreV1().Pods(s.lab.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the pods: %w", err)
	}
	for _, p := range list.Items {
		s.pods[p.Name] = p
	}
	return nil
}

// seconds writes a duration as protobuf's JSON does.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s" }

// A measurement is under way.
type measurement struct {
	cluster Cluster
	plan    OverheadPlan
	ways    []way
	// backends are all: one that a load should not reach must not have a request of it in its book.
	backends []corev1.Pod
	report   *Overhead
	say      func(string)
}

func (m *measurement) run(ctx context.Context) error {
	costs, err := NewCosts(m.cluster.Config, proxies(m.ways)...)
	if err != nil {
		return err
	}
	defer costs.Close()
	usage, err := m.idle(ctx, costs)
	if err != nil {
		return err
	}
	audits := make([]*Audit, len(m.ways))
	for i, w := range m.ways {
		if audits[i], err = NewAudit(m.cluster.Config, m.backends, w.hops...); err != nil {
			return err
		}
		defer audits[i].Close()
	}
	for b := range m.plan.Blocks {
		for _, i := range order(len(m.ways), b) {
			if err := m.load(ctx, b, &m.ways[i], audits[i]); err != nil {
				return err
			}
		}
		after, err := costs.Read(ctx)
		if err != nil {
			return err
		}
		cost, err := after.Sub(usage)
		if err != nil {
			return err
		}
		m.report.Costs, usage = append(m.report.Costs, cost), after
	}
	return nil
}

// order is that of the ways in a block, by Williams: in as many blocks as there are ways each has each place once, and in twice
// as many each follows each other one equally often.
func order(n, block int) []int {
	out := make([]int, n)
	for i := range out {
		step := (n - i/2) % n // 0, 1, n-1, 2, n-2, …
		if i%2 == 1 {
			step = (i + 1) / 2
		}
		out[i] = (step + block) % n
	}
	if block/n%2 == 1 {
		slices.Reverse(out)
	}
	return out
}

// proxies are all that are passed, each once.
func proxies(ways []way) []corev1.Pod {
	var out []corev1.Pod
	for _, w := range ways {
		for _, h := range w.hops {
			for _, p := range h.Pods {
				if !slices.ContainsFunc(out, func(o corev1.Pod) bool { return o.UID == p.UID }) {
					out = append(out, p)
				}
			}
		}
	}
	return out
}

// idle looks at the proxies while no load of ours is on them.
func (m *measurement) idle(ctx context.Context, costs *Costs) (Usage, error) {
	m.say(fmt.Sprintf("proxies without load, for %s at least", m.plan.Idle))
	before, err := costs.Read(ctx)
	if err != nil {
		return nil, err
	}
	for {
		after, err := costs.Read(ctx)
		if err != nil {
			return nil, err
		}
		if m.report.Idle, err = after.Sub(before); err != nil {
			return nil, err
		}
		shortest := math.Inf(1)
		for _, c := range m.report.Idle {
			shortest = min(shortest, c.Seconds)
		}
		if shortest >= m.plan.Idle.Seconds() {
			return after, nil
		}
	}
}

// load carries out one load, again as long as the generator was the limit.
func (m *measurement) load(ctx context.Context, block int, w *way, audit *Audit) error {
	for attempt := 1; ; attempt++ {
		r, books, err := audit.Load(ctx, w.client, loadgen.Plan{
			Requests: []loadgen.Request{w.request}, Rate: m.plan.Rate, Duration: m.plan.Duration, Warmup: m.plan.Warmup,
			Connections: m.plan.Connections, MaxLag: m.plan.MaxLag, IDPrefix: fmt.Sprintf("%s-%s-%d-%d", m.cluster.Run, w.name, block, attempt),
		})
		if r != nil {
			m.report.Loads = append(m.report.Loads, Load{
				Block: block + 1, Way: w.name, Attempt: attempt, Start: r.Start, Verdict: r.Verdict, Reason: r.Reason, Counts: r.Counts, Times: r.Times, Books: books,
			})
		}
		if err != nil {
			return fmt.Errorf("block %d, way %s: %w", block+1, w.name, err)
		}
		median, _ := r.Service.Quantile(0.5)
		m.say(fmt.Sprintf("block %d of %d, %s: median %s, %d requests in each book", block+1, m.plan.Blocks, w.name, median, books.Sent+books.SentWarmUp))
		if r.Verdict != loadgen.Invalid {
			return nil
		}
		m.say("again: " + r.Reason)
		if attempt == attempts {
			return &Invalid{Way: w.name, Reason: r.Reason}
		}
	}
}
