// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"time"

	"harness.example/harness/loadgen"
)

// virtualServiceFaults are the rarer faults.
func virtualServiceFaults() []Case {
	return []Case{virtualServiceFaultDelayPart(), virtualServiceFaultBoth(), virtualServiceFaultGRPC()}
}

// flags are Envoy's response flags, which the fixtures put into a header: DI for a delay that was injected, - for none.
func flags(x loadgen.Exchange) string { return x.Header.Get("X-Flags") }

func virtualServiceFaultDelayPart() Case {
	const delay, part, shift, none = 300 * time.Millisecond, 0.3, 0.15, 40
	shares := []share{{"DI", part}, {"-", 1 - part}}
	count := splitCount(shares, shift)
	return Case{
		Name:    "VirtualService/FaultDelayPart",
		Doc:     "A delay of 30 percent holds back so many of the requests for its time, and one of 0 percent none.",
		Fixture: "virtualservice/fault-delay-part.yaml",
		Judged: fmt.Sprintf("%s, told apart by Envoy's own flag; exactly none of %d at 0 percent; each delayed one lasts at least %s by the client's clock",
			judgedBySplit(shares, shift), none, delay),
		Samples: []Sample{splitSample(shares, shift)},
		Covers:  []string{"VirtualService.spec.http[].fault.delay.percentage.value", "VirtualService.spec.http[].fault.delay.fixedDelay"},
		Check: func(ctx context.Context, e *Env) error {
			xs, err := burst(ctx, e, "/none", none)
			if err != nil {
				return err
			}
			if err := all("none", xs, "200"); err != nil {
				return err
			}
			if err := splitsBy(xs, flags, []share{{"-", 1}}); err != nil {
				return err
			}
			xs, err = e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/some")}, Count: count, Connections: 64})
			if err != nil {
				return err
			}
			if err := all("some", xs, "200"); err != nil {
				return err
			}
			if err := splitsBy(xs, flags, shares); err != nil {
				return err
			}
			var delayed []loadgen.Exchange
			for _, x := range xs {
				if flags(x) == "DI" {
					delayed = append(delayed, x)
				}
			}
			return lasted("delayed requests", delayed, delay-early, loadgen.DefaultTimeout)
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].fault.delay.percentage.value=60", Fails: "too many of DI"},
			{Break: "VirtualService spec.http[0].fault.delay.fixedDelay=0.05s", Fails: "want delayed requests to last"},
			{Break: "VirtualService spec.http[2].fault={delay: {fixedDelay: 0.05s, percentage: {value: 100}}}", Fails: "40 of DI, which has no part"},
		},
	}
}

func virtualServiceFaultBoth() Case {
	const delay, count = 500 * time.Millisecond, 8
	return Case{
		Name:    "VirtualService/FaultDelayAndAbort",
		Doc:     "A request that is both delayed and aborted waits for its time, is answered with the abort's status then, and never reaches a backend.",
		Fixture: "virtualservice/fault-delay-part.yaml",
		Judged:  fmt.Sprintf("exact: %d requests, their status, how often backends received them, and that they last at least %s by the client's clock", count, delay),
		Covers: []string{
			"VirtualService.spec.http[].fault.delay.fixedDelay", "VirtualService.spec.http[].fault.abort.httpStatus", "VirtualService.spec.http[].fault.abort.percentage.value",
		},
		Check: func(ctx context.Context, e *Env) error {
			prefix := e.Prefix()
			xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{e.URL("/both")}, Count: count, Connections: count, IDPrefix: prefix})
			if err != nil {
				return err
			}
			if err := all("both", xs, "418"); err != nil {
				return err
			}
			if err := lasted("delayed requests", xs, delay-early, loadgen.DefaultTimeout); err != nil {
				return err
			}
			seen, err := received(ctx, e, prefix)
			if err == nil && len(seen) > 0 {
				err = mismatch("no aborted request at a backend", "%d of %d", len(seen), count)
			}
			return err
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[1].fault.delay=", Fails: "want delayed requests to last"},
			{Break: "VirtualService spec.http[1].fault.abort=", Fails: "both: 418 on each of 8 requests, got 200 ×8"},
			{Break: "VirtualService spec.http[1].fault.abort.percentage.value=0", Fails: "both: 418 on each of 8 requests, got 200 ×8"},
		},
	}
}

func virtualServiceFaultGRPC() Case {
	return changesCase(Case{
		Name:    "VirtualService/FaultAbortGRPC",
		Doc:     "An abort with a status of gRPC gives a call that status, and ends a plain request too, with status 200 and no answer of a backend.",
		Fixture: "virtualservice/fault-grpc.yaml",
		Covers:  []string{"VirtualService.spec.http[].fault.abort.grpcStatus"},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].fault.abort.grpcStatus=PERMISSION_DENIED", Fails: "missing: 403 instead of 404"},
			{Break: "VirtualService spec.http[1].fault.abort={httpStatus: 500, percentage: {value: 100}}", Fails: "broken: 500 instead of 503"},
			{Break: "VirtualService spec.http[0].fault=", Fails: "missing: v1 instead of 404"},
		},
	}, func(e *Env) []changed {
		call := func(name, path, want, status string) changed {
			r := e.URL(path)
			r.Protocol, r.Method = loadgen.GRPC, ""
			return changed{name: name, request: r, want: want, answer: map[string]string{"Grpc-Status": status}}
		}
		return []changed{
			call("missing", "/missing.Service/Call", "404", "5"),
			call("broken", "/broken.Service/Call", "503", "14"),
			call("another service", "/echo.Echo/Echo", "v1", "0"),
			{name: "missing without gRPC", request: e.URL("/missing.Service/Call"), want: "200", answer: map[string]string{":body": "fault filter abort", "X-Echo-Pod": ""}},
		}
	})
}
