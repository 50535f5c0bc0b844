// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// refusals are what the validation webhook, or the schema, says about the specs of the fixture, by their names.
var refusals = map[string]string{ //nolint:gochecknoglobals // a constant map
	"any-host":           "wildcard host * is not allowed for virtual services bound to the mesh gateway",
	"no-rule":            "http, tcp or tls must be provided in virtual service",
	"no-answer":          "HTTP route, redirect or direct_response is required",
	"two-answers":        "HTTP route cannot contain both route and redirect",
	"direct-and-rewrite": "HTTP route rule cannot contain both rewrite and direct_response",
	"negative-weight":    "weight -1 < 0",
	"no-weight":          "total destination weight = 0",
	"bad-regex":          `"uri": error parsing regexp: missing closing )`,
	"back-reference":     `"headers": error parsing regexp: invalid escape sequence`,
	"empty-prefix":       `"authority": prefix string match should not be empty`,
	"retry-reason":       `"6xx" is not a valid retryOn policy`,
	"retry-nothing":      "http retry policy configured when attempts are set to 0 (disabled)",
	"percentage":         "percentage 101 is neither 0.0, nor in range [0.0001, 100.0]",
	"http2-error":        "HTTP/2 abort fault injection not supported yet",
	"exponential-delay":  "exponentialDelay not supported yet",
	"grpc-status":        `gRPC status "NO_SUCH" is not supported`,
	"redirect-code":      "200 is not a valid redirect code, must be 3xx",
	"redirect-nowhere":   "redirect must specify URI, authority, scheme, or port",
	"two-authorities":    "authority header cannot be set multiple times",
	"header-value":       "header value configuration",
	"short-timeout":      "spec.http[0].timeout: Invalid value",
	"cors-age":           "max_age duration is accurate only to seconds precision",
	"mirrors":            "HTTP route cannot contain both mirror and mirrors",
}

// virtualServiceRefused are the cases about what never gets into the cluster.
func virtualServiceRefused() []Case {
	return []Case{{
		Name:    "VirtualService/Refused",
		Doc:     "An object with a mistake is refused by the validation webhook or by its schema, with a message that says what is wrong.",
		Fixture: "virtualservice/refused.yaml",
		Judged:  fmt.Sprintf("exact: each of %d objects is refused with its message; they are sent as dry runs, so that none is kept", len(refusals)),
		Covers: []string{
			"VirtualService.spec.http[].fault.abort.http2Error", "VirtualService.spec.http[].fault.delay.exponentialDelay", "VirtualService.spec.http[].route[].weight",
			"VirtualService.spec.http[].match[].uri.regex", "VirtualService.spec.http[].retries.retryOn", "VirtualService.spec.hosts[]",
		},
		Check: func(ctx context.Context, e *Env) error {
			specs, err := e.Kube.CoreV1().ConfigMaps(e.Namespace()).Get(ctx, e.Name(), metav1.GetOptions{})
			if err != nil {
				return fmt.Errorf("read the specs: %w", err)
			}
			revision, err := validated(ctx, e)
			if err != nil {
				return err
			}
			var wrong []string
			for _, name := range sortedKeys(refusals) {
				said, err := dryRun(ctx, e, name, revision, specs.Data[name])
				if err != nil {
					return err
				}
				if !strings.Contains(said, refusals[name]) {
					wrong = append(wrong, name+": "+said)
				}
			}
			if len(wrong) > 0 {
				return mismatch(fmt.Sprintf("all of %d objects refused with their messages", len(refusals)), "%s", strings.Join(wrong, "; "))
			}
			return nil
		},
		Controls: []Control{
			{Break: `ConfigMap data.negative-weight="{hosts: [shop.test], http: [{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 99}]}]}"`, Fails: "negative-weight: accepted"},
			{Break: `ConfigMap data.bad-regex="{hosts: [shop.test], http: [{match: [{uri: {regex: /(a)}}], route: [{destination: {host: echo}}]}]}"`, Fails: "bad-regex: accepted"},
			{Break: `ConfigMap data.two-answers="{hosts: [shop.test], http: [{redirect: {uri: /x}}]}"; ConfigMap data.no-answer="{hosts: [shop.test], http: [{timeout: 1s, route: [{destination: {host: echo}}]}]}"`, Fails: "no-answer: accepted; two-answers: accepted"},
			{Break: `ConfigMap data.http2-error="{hosts: [shop.test], http: [{fault: {abort: {httpStatus: 500, percentage: {value: 100}}}, route: [{destination: {host: echo}}]}]}"; ConfigMap data.exponential-delay="{hosts: [shop.test], http: [{fault: {delay: {fixedDelay: 1s, percentage: {value: 100}}}, route: [{destination: {host: echo}}]}]}"`, Fails: "exponential-delay: accepted; http2-error: accepted"},
		},
	}}
}

// validated is the revision whose objects, by their label, Istio's webhook looks at: one installed without a default revision
// looks at no others.
func validated(ctx context.Context, e *Env) (string, error) {
	configs, err := e.Kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return "", fmt.Errorf("find the validation webhook: %w", err)
	}
	for _, c := range configs.Items {
		for _, hook := range c.Webhooks {
			if hook.Name == "rev.validation.istio.io" {
				return c.Labels["istio.io/rev"], nil
			}
		}
	}
	return "", errors.New("find the validation webhook: there is none of Istio's")
}

// dryRun asks for a VirtualService with the spec and returns "accepted" or why it was refused.
func dryRun(ctx context.Context, e *Env, name, revision, spec string) (string, error) {
	var content map[string]any
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		return "", fmt.Errorf("spec %s: %w", name, err)
	}
	vs := object("networking.istio.io/v1", "VirtualService", e.Namespace(), e.Name()+"-"+name, content)
	vs.SetLabels(map[string]string{"istio.io/rev": revision})
	body, err := json.Marshal(vs)
	if err != nil {
		return "", fmt.Errorf("spec %s: %w", name, err)
	}
	err = e.Istio.NetworkingV1().RESTClient().Post().Namespace(e.Namespace()).Resource("virtualservices").
		Param("dryRun", metav1.DryRunAll).SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
	switch {
	case err == nil:
		return "accepted", nil
	case apierrors.IsBadRequest(err), apierrors.IsInvalid(err), apierrors.IsForbidden(err):
		return err.Error(), nil
	default:
		return "", fmt.Errorf("ask for VirtualService %s: %w", name, err)
	}
}
