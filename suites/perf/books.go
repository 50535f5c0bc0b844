// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"harness.example/harness/loadgen"
	"harness.example/harness/suites/forward"
)

const (
	controlPort = 8081 // the backend's, see fixtures/echo
	// restWithin bounds the wait until the books stand still: a request may be counted a little after it was answered.
	restWithin = 20 * time.Second
)

// An Audit carries out loads whose requests are counted in three books: by the client, by the backends themselves, and by
// each Envoy on the way.
type Audit struct {
	Backends []corev1.Pod
	Hops     []Hop
	kube     kubernetes.Interface
	forwards *forward.Forwards
}

// A Hop is where a load passes an Envoy: one or more pods that share the load.
type Hop struct {
	Name    string
	Pods    []corev1.Pod
	Cluster string // what the names begin with of those of its clusters that lead to the backends, e.g. "inbound|8080|"
}

// NewAudit makes one of a load to the backends by way of the hops. Close it.
func NewAudit(config *rest.Config, backends []corev1.Pod, hops ...Hop) (*Audit, error) {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &Audit{Backends: backends, Hops: hops, kube: kube, forwards: forward.New(config)}, nil
}

// Close ends the ways to the pods.
func (a *Audit) Close() { a.forwards.Close() }

// A Page is what the books say of one backend. The client tells answers by backend only of what it measured, an Envoy
// cannot tell the warm-up from the rest, and a backend can, by the requests' ids.
type Page struct {
	Pod     string            `json:"pod"`
	Client  uint64            `json:"client"`
	Backend uint64            `json:"backend"`
	WarmUp  uint64            `json:"backendWarmUp"`
	Envoy   map[string]uint64 `json:"envoy,omitempty"` // by hop; warm-up included
}

func (p Page) agrees() bool {
	for _, n := range p.Envoy {
		if n != p.Backend+p.WarmUp {
			return false
		}
	}
	return p.Client == p.Backend
}

func (p Page) String() string {
	text := fmt.Sprintf("pod %s: client %d, backend %d + %d of the warm-up", p.Pod, p.Client, p.Backend, p.WarmUp)
	for _, hop := range slices.Sorted(maps.Keys(p.Envoy)) {
		text += fmt.Sprintf(", Envoy of %s %d", hop, p.Envoy[hop])
	}
	return text
}

// Books are what the three say of one load.
type Books struct {
	Sent       uint64 `json:"sent"`       // measured requests, by the client
	SentWarmUp uint64 `json:"sentWarmUp"` // before those
	Answered   uint64 `json:"answeredWarmUp"`
	Pages      []Page `json:"pages"`
}

// A Disagreement is a load on which the books are not one.
type Disagreement struct{ Books Books }

func (d *Disagreement) Error() string {
	lines := []string{fmt.Sprintf("the books disagree on a load of %d requests and %d to warm up, of which %d were answered:", d.Books.Sent, d.Books.SentWarmUp, d.Books.Answered)}
	for _, p := range d.Books.Pages {
		mark := ""
		if !p.agrees() {
			mark = "  ←"
		}
		lines = append(lines, "  "+p.String()+mark)
	}
	return strings.Join(lines, "\n")
}

// Check returns a *Disagreement unless every request that was sent is in every book, once, with the same backend.
func (b Books) Check() error {
	var client, warm uint64
	wrong := len(b.Pages) == 0
	for _, p := range b.Pages {
		client, warm = client+p.Client, warm+p.WarmUp
		wrong = wrong || !p.agrees()
	}
	if wrong || client != b.Sent || b.Answered != b.SentWarmUp || warm != b.SentWarmUp {
		return &Disagreement{b}
	}
	return nil
}

// Load runs a plan and reconciles the books. The result and the books are there also when they disagree, which is the
// error *Disagreement. A backend remembers 100,000 ids at a time: a plan that overruns this is an error.
func (a *Audit) Load(ctx context.Context, from loadgen.Runner, plan loadgen.Plan) (*loadgen.Result, Books, error) {
	if plan.IDPrefix == "" {
		return nil, Books{}, errors.New("audit: idPrefix: is needed to tell the requests")
	}
	before, err := a.envoys(ctx)
	if err != nil {
		return nil, Books{}, err
	}
	out, err := from.Do(ctx, loadgen.Job{Plan: &plan})
	if err == nil && out.Result == nil {
		err = errors.New("no result")
	}
	if err != nil {
		return nil, Books{}, fmt.Errorf("load from %s: %w", from, err)
	}
	r := out.Result
	// What was counted late shows in the next look.
	books := Books{}
	ctx, cancel := context.WithTimeoutCause(ctx, restWithin, fmt.Errorf("they still change after %s", restWithin))
	defer cancel()
	last := ""
	err = waitFor(ctx, "the books stand still", func(ctx context.Context) error {
		if books, err = a.read(ctx, r, plan.IDPrefix, before); err != nil {
			return err
		}
		now := fmt.Sprint(books)
		if now == last {
			return nil
		}
		last = now
		return errors.New(now)
	})
	if err != nil {
		return r, books, err
	}
	if err := books.Check(); err != nil {
		return r, books, err
	}
	return r, books, a.forget(ctx, plan.IDPrefix)
}

// forget makes room in the backends' books.
func (a *Audit) forget(ctx context.Context, prefix string) error {
	for _, p := range a.Backends {
		err := a.kube.CoreV1().RESTClient().Post().Namespace(p.Namespace).Resource("pods").Name(fmt.Sprintf("%s:%d", p.Name, controlPort)).
			SubResource("proxy").Suffix("seen/reset").Param("prefix", prefix+"-").Do(ctx).Error()
		if err != nil {
			return fmt.Errorf("have pod %s forget a load: %w", p.Name, err)
		}
	}
	return nil
}

// read opens the books at a load's pages.
func (a *Audit) read(ctx context.Context, r *loadgen.Result, prefix string, before map[string]map[string]uint64) (Books, error) {
	b := Books{Sent: r.Sent}
	var planned uint64
	for _, s := range r.Seconds {
		b.SentWarmUp, b.Answered, planned = b.SentWarmUp+s.Sent, b.Answered+s.OK, planned+s.Planned
	}
	b.SentWarmUp, b.Answered = b.SentWarmUp-r.Sent, b.Answered-r.OK
	after, err := a.envoys(ctx)
	if err != nil {
		return b, err
	}
	known := map[string]bool{}
	for _, p := range a.Backends {
		page := Page{Pod: p.Name, Client: r.Backends[p.Name]}
		if page.WarmUp, page.Backend, err = a.seen(ctx, &p, prefix, planned-r.Planned); err != nil {
			return b, err
		}
		for hop, sent := range after {
			if page.Envoy == nil {
				page.Envoy = map[string]uint64{}
			}
			page.Envoy[hop] = sent[p.Status.PodIP] - before[hop][p.Status.PodIP]
		}
		known[p.Name], b.Pages = true, append(b.Pages, page)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Backends)) {
		if !known[name] {
			b.Pages = append(b.Pages, Page{Pod: name, Client: r.Backends[name]})
		}
	}
	return b, nil
}

// seen is how many requests with the prefix a backend has received, the first warm of the plan apart.
func (a *Audit) seen(ctx context.Context, p *corev1.Pod, prefix string, warm uint64) (before, measured uint64, err error) {
	body, err := a.forwards.Get(ctx, p, controlPort, "/seen?prefix="+prefix+"-")
	if err != nil {
		return 0, 0, err
	}
	var seen struct {
		IDs       map[string]uint64
		Truncated bool
	}
	if err := json.Unmarshal(body, &seen); err != nil {
		return 0, 0, fmt.Errorf("what pod %s has seen: %w", p.Name, err)
	}
	if seen.Truncated {
		return 0, 0, fmt.Errorf("pod %s has seen more requests than it can remember", p.Name)
	}
	for id, n := range seen.IDs {
		k, err := strconv.ParseUint(strings.TrimPrefix(id, prefix+"-"), 10, 64)
		switch {
		case err != nil:
			return 0, 0, fmt.Errorf("pod %s has seen the id %q, which is not of the load", p.Name, id)
		case k < warm:
			before += n
		default:
			measured += n
		}
	}
	return before, measured, nil
}

// envoys is what each hop has sent to each address so far.
func (a *Audit) envoys(ctx context.Context) (map[string]map[string]uint64, error) {
	out := map[string]map[string]uint64{}
	for _, hop := range a.Hops {
		sum := map[string]uint64{}
		for _, p := range hop.Pods {
			sent, err := envoyRequests(ctx, a.forwards, &p, hop.Cluster)
			if err != nil {
				return nil, err
			}
			for at, n := range sent {
				sum[at.ip] += n
			}
		}
		out[hop.Name] = sum
	}
	return out, nil
}
