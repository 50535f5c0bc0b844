// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

// Package cluster brings an environment up and takes it down: a kind cluster
// with Istio, MetalLB and metrics-server. Or it attaches to a cluster that is
// already there. Both fill the same Access.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"harness.example/harness/cluster/images"
)

// Config describes an environment. The zero value with WithDefaults is the usual one.
type Config struct {
	Name      string // names the containers, the network and the namespace; default "harness"
	Workers   int    // worker nodes beside the one control plane; default 2
	Images    string // "registry", "source" or "" to probe
	Engine    string // "docker", "podman" or "" for the one that works here
	Isolation string // "on", "off" or "auto": on with podman as root on Linux
	Mirror    string // registry that serves every repository, for the registry way
	CacheDir  string // absolute; safe to delete
	StateDir  string // absolute; what has to be known between two commands
	// Backend makes the image that the nodes are given for the suites' backends:
	// its reference and a function that writes it as an archive. Nil loads none.
	Backend func() (ref string, save func(io.Writer) error, err error)
}

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$`)

// WithDefaults fills in what is empty and refuses what cannot work.
func (c Config) WithDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "harness"
	}
	if !nameRule.MatchString(c.Name) {
		return c, fmt.Errorf("environment name %q: use at most 30 lower-case letters, digits and dashes", c.Name)
	}
	if c.Workers == 0 {
		c.Workers = 2
	}
	if c.CacheDir == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return c, fmt.Errorf("find the cache directory: %w (set XDG_CACHE_HOME or HOME)", err)
		}
		c.CacheDir = filepath.Join(dir, "harness")
	}
	if c.StateDir == "" {
		base := os.Getenv("XDG_STATE_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return c, fmt.Errorf("find the state directory: %w (set XDG_STATE_HOME or HOME)", err)
			}
			base = filepath.Join(home, ".local", "state")
		}
		c.StateDir = filepath.Join(base, "harness")
	}
	return c, nil
}

func (c Config) dir() string        { return filepath.Join(c.StateDir, c.Name) }
func (c Config) kubeconfig() string { return filepath.Join(c.dir(), "kubeconfig") }

// network names the engine's network and the network namespace alike.
func (c Config) network() string {
	if c.Name == "harness" {
		return "harness"
	}
	return "harness-" + c.Name
}

// Access is the way into a cluster. Its JSON is what the suites take as their target.
type Access struct {
	Kubeconfig     string
	Context        string
	Gateway        Gateway
	Nodes          []Node
	Image          string
	IstioNamespace string
	Disruptive     bool
	Capabilities   map[string]string // capability → "" or the reason why it is missing
	Versions       map[string]string
	Provider       string // kind/podman, kind/docker or attached
	Images         string // registry or source
	Owned          bool   // made by the harness
	Netns          string // network namespace that it is reached from, "" for the machine's own
}

// Gateway is the ingress gateway.
type Gateway struct {
	Namespace, Service string
	Selector           map[string]string
	Host               string         // address that the harness reaches
	Ports              map[string]int // http, https, tcp
}

// Node is one node of the cluster.
type Node struct {
	Name, Address string
	ControlPlane  bool
	Exec          []string // argv prefix that runs a command on the node
}

// ErrAbsent says that there is no such environment on this machine.
var ErrAbsent = errors.New("no such environment")

// state is what is kept on disk between two commands.
type state struct {
	Engine   string
	Isolated bool
	Set      images.Set
	Way      string
	Steps    []Event
	Access   *Access
}

func (c Config) statePath() string { return filepath.Join(c.dir(), "state.json") }

func (c Config) load() (*state, error) {
	data, err := os.ReadFile(c.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrAbsent
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read %s: %w (run `harness down` to start afresh)", c.statePath(), err)
	}
	return s, nil
}

func (c Config) save(s *state) error {
	if err := os.MkdirAll(c.dir(), 0o700); err != nil {
		return err
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(c.statePath(), data, 0o600)
}

// Load reads how to reach the environment that Up made, and how it came up.
// The error is ErrAbsent where there is none.
func Load(c Config) (*Access, []Event, error) {
	s, err := c.load()
	if err != nil {
		return nil, nil, err
	}
	if s.Access == nil {
		return nil, s.Steps, fmt.Errorf("%w: it was never brought up whole", ErrAbsent)
	}
	return s.Access, s.Steps, nil
}

// State of a step.
type State string

// The states of a step, in their order.
const (
	Started State = "started"
	Note    State = "note"
	Done    State = "done"
	Failed  State = "failed"
	Skipped State = "skipped"
)

// Event is one change of a step.
type Event struct {
	Step    string
	Parent  string
	State   State
	At      time.Time
	Elapsed time.Duration
	Detail  string
}

// Progress is told of every event. Steps overlap: it is called from several goroutines.
type Progress func(Event)

// step is one part of the way up: a name and what it does.
type step struct {
	name string
	do   func(ctx context.Context, note func(string)) error
}

// tracker runs steps, times them and keeps the ones that ended.
type tracker struct {
	progress Progress
	mu       sync.Mutex
	ended    []Event
}

// run runs one step under a parent's name.
func (t *tracker) run(ctx context.Context, parent string, s step) error {
	start := time.Now()
	tell := func(state State, detail string) {
		e := Event{Step: s.name, Parent: parent, State: state, At: time.Now(), Elapsed: time.Since(start), Detail: detail}
		if state == Done || state == Failed {
			t.mu.Lock()
			t.ended = append(t.ended, e)
			t.mu.Unlock()
		}
		if t.progress != nil {
			t.progress(e)
		}
	}
	tell(Started, "")
	if err := s.do(ctx, func(detail string) { tell(Note, detail) }); err != nil {
		tell(Failed, err.Error())
		return fmt.Errorf("%s: %w", s.name, err)
	}
	tell(Done, "")
	return nil
}

// sequence runs steps one after the other.
func (t *tracker) sequence(ctx context.Context, parent string, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.run(ctx, parent, s); err != nil {
			return err
		}
	}
	return nil
}

// canIsolate says whether an environment can have a network namespace of its own here.
func canIsolate(e *engine) bool {
	return runtime.GOOS == "linux" && os.Geteuid() == 0 && e.name == "podman"
}
