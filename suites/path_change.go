// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"

	"harness.example/harness/loadgen"
)

// pathChanges are changes of configuration and of the machines under load.
func pathChanges() []Case {
	return append([]Case{weightsMove(), subsetsMove(), gatewayEdited(), threeBooks()}, pathMachines()...)
}

// stagesCase is a case about stages of configuration.
func stagesCase(c Case, stages []stage) Case {
	c.Judged = fmt.Sprintf("exact: an open-loop load of %d/s; each request is told by its number and looked for at the backends: none is lost, none arrives twice, each goes where the "+
		"stage sends it in which it was due (while a change is on its way, to the old place or the new), and every place gets some; %d stages of at least %d requests each while nothing changes",
		changeRate, len(stages), changeSteady)
	c.Check = func(ctx context.Context, e *Env) error {
		return underLoad(ctx, e, e.URL("/"), stages)
	}
	return c
}

func weightsMove() Case {
	return stagesCase(Case{
		Name:    "Path/WeightsMoveUnderLoad",
		Doc:     "Weights move from one subset to both and on to the other, and no request is lost or goes where it may not.",
		Fixture: "path/weights-move.yaml",
		Covers:  []string{"VirtualService.spec.http[].route[].weight", "VirtualService.spec.http[].route[].destination.subset"},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].route[1].destination.subset=v3", Fails: "went to v3"},
			{Break: "DestinationRule spec.subsets[1].name=gone", Fails: "requests lost (200 ×"},
		},
	}, []stage{
		{to: []string{"v1"}},
		{edits: "VirtualService spec.http[0].route[0].weight=50; VirtualService spec.http[0].route[1].weight=50", to: []string{"v1", "v2"}},
		{edits: "VirtualService spec.http[0].route[0].weight=0; VirtualService spec.http[0].route[1].weight=100", to: []string{"v2"}},
	})
}

func subsetsMove() Case {
	return stagesCase(Case{
		Name:    "Path/SubsetsComeAndGoUnderLoad",
		Doc:     "A subset is added, traffic moves to it, and the old one is removed, and no request is lost or goes where it may not.",
		Fixture: "path/subsets-move.yaml",
		Covers:  []string{"DestinationRule.spec.subsets[].name", "DestinationRule.spec.subsets[].labels{}", "VirtualService.spec.http[].route[].destination.subset"},
		Controls: []Control{
			{Break: "DestinationRule spec.subsets[0].labels.version=v3", Fails: "went to v3"},
			{Break: "DestinationRule spec.host=elsewhere", Fails: "requests lost (503 ×"},
		},
	}, []stage{
		{to: []string{"v1"}},
		{edits: "DestinationRule spec.subsets=[{name: old, labels: {version: v1}}, {name: new, labels: {version: v2}}]", to: []string{"v1"}},
		{edits: "VirtualService spec.http[0].route[0].destination.subset=new", to: []string{"v2"}},
		{edits: "DestinationRule spec.subsets=[{name: new, labels: {version: v2}}]", to: []string{"v2"}},
	})
}

// gatewayEdited has the load on one host, and a second host that comes and goes.
func gatewayEdited() Case {
	return Case{
		Name:    "Path/GatewayEditedUnderLoad",
		Doc:     "Hosts are added to a Gateway and taken away, and the requests to the one that stays are not disturbed.",
		Fixture: "path/gateway-edited.yaml",
		Judged:  fmt.Sprintf("exact: an open-loop load of %d/s to the host that stays, of which no request is lost and all are answered by one version; the second host answers while it is there, and not before or after", changeRate),
		Check:   checkGatewayEdited,
		Covers:  []string{"Gateway.spec.servers[].hosts[]"},
		Controls: []Control{
			{Break: "Gateway spec.servers[0].hosts=[elsewhere.harness.test]", Fails: "requests lost (200 ×"},
			{Break: "VirtualService spec.http[0].route[0].destination.subset=v2", Fails: "went to v2"},
			{Break: "delete VirtualService", Fails: "the second host: 200 on each of 3 requests, got 404"},
		},
	}
}

func checkGatewayEdited(ctx context.Context, e *Env) error {
	hosts := func(hosts string) string { return "Gateway spec.servers[0].hosts=[" + hosts + "]" }
	one, two := e.Vars["HOST"], "second."+e.Vars["HOST"]
	load := e.startLoad(ctx, "while the Gateway is edited", changeRate, e.URL("/"))
	defer load.stop() //nolint:errcheck // judged below; here only so that nothing keeps sending
	for _, step := range []struct{ hosts, second string }{{"", "404"}, {one + ", " + two, "200"}, {one, "404"}} {
		if step.hosts != "" {
			if err := e.change(ctx, hosts(step.hosts)); err != nil {
				return err
			}
			if err := e.Live(ctx); err != nil {
				return err
			}
		}
		second := e.URL("/")
		second.URL, second.Host = "http://"+two+"/", two
		xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{second}, Count: 3, Policy: loadgen.Fresh})
		if err != nil {
			return err
		}
		if err := all("the second host", xs, step.second); err != nil {
			return err
		}
	}
	result, err := load.stop()
	if err != nil {
		return err
	}
	if err := lostNone("while the Gateway is edited", result); err != nil {
		return err
	}
	return onlyFrom(result, "v1")
}

// onlyFrom judges that a load was answered by one version.
func onlyFrom(r *loadgen.Result, version string) error {
	for _, v := range sortedKeys(r.Versions) {
		if v != version {
			return mismatch("every answer from "+version, "%d requests went to %s", r.Versions[v], v)
		}
	}
	return nil
}
