// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"harness.example/harness/loadgen"
)

func workerPod(i int, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "lab", Name: fmt.Sprintf("workers-%d", i), UID: types.UID(fmt.Sprintf("uid-%d", i)),
			Annotations: map[string]string{batchv1.JobCompletionIndexAnnotation: fmt.Sprint(i)},
		},
		Spec: corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", i%2)},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	if change != nil {
		change(p)
	}
	return p
}

// A stage is a crew whose pods are on a fake API server and whose workers are Servers of this process.
type stage struct {
	kube   *fake.Clientset
	crew   *crew
	plan   loadgen.Plan
	served atomic.Int64
}

// newStage lets call stand between the crew and the workers; nil: nothing does.
func newStage(t *testing.T, workers int, call func(next caller) caller) *stage {
	t.Helper()
	s := &stage{kube: fake.NewClientset()}
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { s.served.Add(1) }))
	t.Cleanup(target.Close)
	s.plan = loadgen.Plan{
		Requests: []loadgen.Request{{URL: target.URL}}, Rate: 40, Duration: time.Second, MaxLag: 30 * time.Second, Timeout: 30 * time.Second,
	}
	plans, err := s.plan.Split(workers)
	if err != nil {
		t.Fatal(err)
	}
	servers := map[string]*httptest.Server{}
	for i := range workers {
		worker := loadgen.NewServer(i)
		server := httptest.NewServer(worker)
		t.Cleanup(func() { server.Close(); worker.Close() })
		servers[fmt.Sprintf("workers-%d", i)] = server
		if _, err := s.kube.CoreV1().Pods("lab").Create(t.Context(), workerPod(i, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	direct := func(ctx context.Context, pod, method, path string, body []byte) (int, []byte, error) {
		request, err := http.NewRequestWithContext(ctx, method, servers[pod].URL+path, bytes.NewReader(body))
		if err != nil {
			return 0, nil, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, nil, err
		}
		defer func() { _ = response.Body.Close() }()
		answer, err := io.ReadAll(response.Body)
		return response.StatusCode, answer, err
	}
	if call == nil {
		call = func(next caller) caller { return next }
	}
	s.crew = newCrew(t.Context(), plans, call(direct))
	return s
}

// run is what Workers.run does once there are pods.
func (s *stage) run(t *testing.T) *loadgen.Result {
	t.Helper()
	defer s.crew.dismiss()
	stop, err := s.crew.watch(s.kube, "lab")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := s.crew.awaitReady(); err != nil {
		t.Fatal(err)
	}
	r, err := s.plan.MergeShares(s.crew.work())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWorkersShareAPlan(t *testing.T) {
	t.Parallel()
	s := newStage(t, 3, nil)
	r := s.run(t)
	if r.Verdict != loadgen.Pass || r.OK != 40 || r.Planned != 40 || s.served.Load() != 40 {
		t.Errorf("%s %s: %+v, %d arrived", r.Verdict, r.Reason, r.Counts, s.served.Load())
	}
	for i, w := range r.Workers {
		if w.Pod != fmt.Sprintf("workers-%d", i) || w.Node != fmt.Sprintf("node-%d", i%2) || w.OK != []uint64{14, 13, 13}[i] {
			t.Errorf("%+v", w)
		}
	}
}

// A coordinator that loses its connection asks again, and the job is run once all the same.
func TestWorkersOutliveTheirConnection(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	s := newStage(t, 2, func(next caller) caller {
		return func(ctx context.Context, pod, method, path string, body []byte) (int, []byte, error) {
			status, answer, err := next(ctx, pod, method, path, body)
			switch n := calls.Add(1); {
			case path == "/clock":
				return status, answer, err
			case n%3 == 0:
				return 0, nil, errors.New("connection reset") // after it arrived: its answer is lost
			case n%3 == 1:
				return http.StatusServiceUnavailable, []byte("error trying to reach service"), nil
			}
			return status, answer, err
		}
	})
	if r := s.run(t); r.Verdict != loadgen.Pass || r.OK != 40 || s.served.Load() != 40 {
		t.Errorf("%s %s: %+v, %d arrived", r.Verdict, r.Reason, r.Counts, s.served.Load())
	}
}

func TestWorkersNameWhoWasLost(t *testing.T) {
	t.Parallel()
	deletePod := func(t *testing.T, kube kubernetes.Interface) {
		if err := kube.CoreV1().Pods("lab").Delete(t.Context(), "workers-1", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	killPod := func(t *testing.T, kube kubernetes.Interface) {
		p := workerPod(1, func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodFailed
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{
				Name: "worker", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}},
			}}
		})
		if _, err := kube.CoreV1().Pods("lab").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	}
	for want, lose := range map[string]func(*testing.T, kubernetes.Interface){
		"its pod was deleted; its 13 requests":                                                     deletePod,
		"its process ended before its result was fetched (OOMKilled, exit code 137); its 13 reque": killPod,
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			var once atomic.Bool
			var s *stage
			s = newStage(t, 3, func(next caller) caller {
				return func(ctx context.Context, pod, method, path string, body []byte) (int, []byte, error) {
					status, answer, err := next(ctx, pod, method, path, body)
					if pod == "workers-1" && path == "/job" && !once.Swap(true) {
						lose(t, s.kube)
					}
					if pod == "workers-1" && path == "/result" {
						return http.StatusBadGateway, nil, nil // what an API server says of a pod that is gone
					}
					return status, answer, err
				}
			})
			r := s.run(t)
			if r.Verdict != loadgen.Invalid || !strings.HasPrefix(r.Reason, "worker 1 (pod workers-1, node node-1): "+want) {
				t.Errorf("%s %s", r.Verdict, r.Reason)
			}
			if r.Planned != 40 || r.Sent != 27 || r.OK != 27 || r.Unsent != 13 || r.Workers[2].OK != 13 {
				t.Errorf("%+v", r.Counts)
			}
		})
	}
}

func TestWorkerWhoseJobCameLate(t *testing.T) {
	t.Parallel()
	var start atomic.Int64
	s := newStage(t, 2, func(next caller) caller {
		return func(ctx context.Context, pod, method, path string, body []byte) (int, []byte, error) {
			if path != "/job" || pod != "workers-1" {
				return next(ctx, pod, method, path, body)
			}
			var job loadgen.Job
			if err := json.Unmarshal(body, &job); err != nil {
				return 0, nil, err
			}
			start.Store(job.Plan.StartAt.UnixNano())
			if time.Now().Before(job.Plan.StartAt) {
				return 0, nil, errors.New("no route to host")
			}
			return next(ctx, pod, method, path, body)
		}
	})
	r := s.run(t)
	if r.Verdict != loadgen.Invalid || !strings.Contains(r.Reason, "worker 1 (pod workers-1, node node-1): PUT /job: 412 job: it came ") || r.Sent != 20 || start.Load() == 0 {
		t.Errorf("%s %s: %+v", r.Verdict, r.Reason, r.Counts)
	}
}

func TestWorkersWithOtherClocks(t *testing.T) {
	t.Parallel()
	// The coordinator's own clock does not matter: here all the others are an hour ahead, and one 300 ms more.
	s := newStage(t, 2, func(next caller) caller {
		return func(ctx context.Context, pod, method, path string, body []byte) (int, []byte, error) {
			ahead := time.Hour
			if pod == "workers-1" {
				ahead += 300 * time.Millisecond
			}
			switch path {
			case "/clock":
				answer, err := json.Marshal(loadgen.Clock{Now: time.Now().Add(ahead)})
				return http.StatusOK, answer, err
			case "/job": // as their clocks would have it
				var job loadgen.Job
				if err := json.Unmarshal(body, &job); err != nil {
					return 0, nil, err
				}
				job.Plan.StartAt = job.Plan.StartAt.Add(-ahead)
				var err error
				if body, err = json.Marshal(job); err != nil {
					return 0, nil, err
				}
			}
			return next(ctx, pod, method, path, body)
		}
	})
	r := s.run(t)
	if r.Verdict != loadgen.Invalid || !strings.Contains(r.Reason, "the clocks of worker 0 (node node-0) and worker 1 (node node-1) may be 3") || r.OK != 40 {
		t.Errorf("%s %s: %+v", r.Verdict, r.Reason, r.Counts)
	}
}

func TestWorkerThatIsLostBeforeItIsReady(t *testing.T) {
	plans, err := loadgen.Plan{Requests: []loadgen.Request{{URL: "http://127.0.0.1:1"}}, Rate: 10, Duration: time.Second}.Split(2)
	if err != nil {
		t.Fatal(err)
	}
	c := newCrew(t.Context(), plans, nil)
	defer c.dismiss()
	c.see(workerPod(0, nil), false)
	c.see(workerPod(7, nil), false) // another Job's
	c.see(workerPod(1, func(p *corev1.Pod) {
		p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "the node was low on memory"}
	}), false)
	if err := c.awaitReady(); err == nil || err.Error() != "worker 1 was not ready: its pod ended (Evicted, the node was low on memory)" {
		t.Error(err)
	}
	if err := c.lacking(); !strings.HasPrefix(err.Error(), "1 of 2 workers are not ready after 2m0s: worker 1 is Failed on node node-1") {
		t.Error(err)
	}
}

func TestWhatIsSaidOfPods(t *testing.T) {
	now := metav1.Now()
	for _, tt := range []struct {
		change       func(*corev1.Pod)
		ended, waits string
	}{
		{nil, "", "is Running on node node-0 and not ready"},
		{func(p *corev1.Pod) { p.DeletionTimestamp = &now }, "its pod was deleted", ""},
		{func(p *corev1.Pod) {
			p.DeletionTimestamp = &now
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			})
		}, "its pod was deleted (EvictionByEvictionAPI, Eviction API: evicting)", ""},
		{func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, "its pod ended", ""},
		{func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}
		}, "", "is not scheduled: 0/3 nodes are available"},
		{func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImageNeverPull", Message: "not there"}}}}
		}, "", "waits on node node-0: ErrImageNeverPull not there"},
	} {
		p := workerPod(0, tt.change)
		if got := ended(p); got != tt.ended {
			t.Errorf("ended: %q, want %q", got, tt.ended)
		}
		if tt.ended == "" && waitsFor(p) != tt.waits {
			t.Errorf("waits: %q, want %q", waitsFor(p), tt.waits)
		}
	}
	if got := waitsFor(nil); got != "has no pod" {
		t.Error(got)
	}
}

// The way through the API server keeps the worker's status and words, success or not.
func TestPodProxy(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/api/v1/namespaces/lab/pods/http:workers-0:8081/proxy/job" {
			http.Error(w, r.URL.Path, http.StatusTeapot)
			return
		}
		switch r.Method {
		case http.MethodPut:
			http.Error(w, "got "+string(body), http.StatusConflict)
		case http.MethodGet:
			w.WriteHeader(http.StatusAccepted)
		default:
			http.Error(w, "no way", http.StatusServiceUnavailable)
		}
	}))
	call, err := podProxy(&rest.Config{Host: server.URL}, "lab")
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]string{"PUT": "409 got a job", "GET": "202 ", "POST": "503 no way"} {
		status, answer, err := call(t.Context(), "workers-0", method, "/job", []byte("a job"))
		if got := fmt.Sprintf("%d %s", status, strings.TrimSpace(string(answer))); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", method, got, err, want)
		}
	}
	server.Close()
	if status, _, err := call(t.Context(), "workers-0", "GET", "/job", nil); err == nil || status != 0 {
		t.Errorf("a server that is away answers %d", status)
	}
}

func TestWorkersRefuseWhatCannotBeShared(t *testing.T) {
	for want, w := range map[string]loadgen.Job{
		"workers: only a plan can be shared out":        {Burst: &loadgen.Burst{}},
		"workers: plan: rate: 0 is not above 0":         {Plan: &loadgen.Plan{}},
		"workers: plan: rate: 1 for 1s leaves worker 1": {Plan: &loadgen.Plan{Requests: []loadgen.Request{{URL: "http://127.0.0.1:1"}}, Rate: 1, Duration: time.Second}},
	} {
		if _, err := (Workers{N: 2}).Do(t.Context(), w); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
