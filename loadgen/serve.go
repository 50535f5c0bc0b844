// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// A Server takes one Job over HTTP, runs it in its own process, and keeps the Output until it was fetched: a load goes on
// whatever becomes of the connection to who asked for it.
//
//	GET  /readyz  200: ready for a job
//	GET  /clock   200: a Clock
//	PUT  /job     202: taken; 400: not valid; 409: has another one already; 412: too late for the plan's start, not taken
//	GET  /result  200: the Output; 202: still running; 404: there is no job
//	POST /done    200: Serve returns; 409: there is no Output yet
//
// A PUT of the job that is there already is answered as the first time, so that one may be sent again when its answer was lost.
type Server struct {
	mux   *http.ServeMux
	index int
	// life ends with the process and is what the job runs under: the request's ctx ends with its connection.
	life context.Context //nolint:containedctx // of Serve
	end  context.CancelFunc
	runs sync.WaitGroup

	mu       sync.Mutex
	job      []byte // as it came
	output   []byte
	released chan struct{}
}

// Clock is what a Server's clock shows.
type Clock struct {
	Now time.Time `json:"now"`
}

const (
	maxJob       = 16 << 20 // bytes
	shutdownTime = time.Second
)

// NewServer makes the Server of worker index, which refuses jobs that are another worker's; -1 takes any.
func NewServer(index int) *Server {
	s := &Server{mux: http.NewServeMux(), index: index, released: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	s.mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	s.mux.HandleFunc("GET /clock", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, Clock{Now: time.Now()}) })
	s.mux.HandleFunc("PUT /job", s.putJob)
	s.mux.HandleFunc("GET /result", s.getResult)
	s.mux.HandleFunc("POST /done", s.done)
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers on l until the Output was fetched and acknowledged, which is no error. It ends with one when ctx or the limit
// on its life does, so that a Server that everybody forgot does not stay. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("nobody fetched a result within %s", limit))
	defer cancel()
	server := http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	var err error
	select {
	case <-s.released:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-served:
	}
	s.Close()
	stop, stopped := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer stopped()
	if shut := server.Shutdown(stop); shut != nil {
		_ = server.Close() // a request that is still there has no one to wait for it
	}
	return err
}

// Close stops the job and waits for its end.
func (s *Server) Close() {
	s.end()
	s.runs.Wait()
}

func (s *Server) putJob(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJob))
	if err != nil {
		http.Error(w, "read job: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.job == nil:
	case bytes.Equal(s.job, body):
		reply(w, http.StatusAccepted, Clock{Now: time.Now()})
		return
	default:
		http.Error(w, "there is a job already, and one worker runs one", http.StatusConflict)
		return
	}
	job, status, err := s.read(body)
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	s.job = body
	s.runs.Go(func() { s.run(job) })
	reply(w, http.StatusAccepted, Clock{Now: time.Now()})
}

// read decodes and judges a job.
func (s *Server) read(body []byte) (Job, int, error) {
	job, err := decodeJob(bytes.NewReader(body))
	if err != nil {
		return job, http.StatusBadRequest, err
	}
	if err := job.check(); err != nil {
		return job, http.StatusBadRequest, err
	}
	p := job.Plan
	if p == nil {
		return job, http.StatusBadRequest, errors.New("job: a worker runs a plan")
	}
	if err := p.checkAll(); err != nil {
		return job, http.StatusBadRequest, err
	}
	if s.index >= 0 && p.Index != s.index {
		return job, http.StatusBadRequest, fmt.Errorf("job: it is worker %d's, this is worker %d", p.Index, s.index)
	}
	if late := time.Since(p.StartAt); !p.StartAt.IsZero() && late > 0 {
		return job, http.StatusPreconditionFailed, fmt.Errorf("job: it came %s after its start", late)
	}
	return job, 0, nil
}

func (s *Server) run(job Job) {
	out, _ := job.run(s.life) // its error is in out
	b, err := json.Marshal(out)
	if err != nil {
		b, _ = json.Marshal(Output{Err: "encode output: " + err.Error()})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.output = b
}

func (s *Server) getResult(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.job == nil:
		http.Error(w, "there is no job", http.StatusNotFound)
	case s.output == nil:
		w.WriteHeader(http.StatusAccepted)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.output) // who did not get it asks again
	}
}

func (s *Server) done(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.output == nil {
		http.Error(w, "there is no result yet", http.StatusConflict)
		return
	}
	select {
	case <-s.released:
	default:
		close(s.released)
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who did not get it asks again
}
