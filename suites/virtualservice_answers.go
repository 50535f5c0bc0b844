// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"math"
	"net/http"

	"harness.example/harness/loadgen"
)

// virtualServiceAnswers are the rarer changes of requests and answers, and the gateway's own answers.
func virtualServiceAnswers() []Case {
	return []Case{
		virtualServiceRedirectParts(), virtualServiceDirectBytes(), virtualServiceCORSOrigins(), virtualServiceDestinationHeaders(),
	}
}

func virtualServiceRedirectParts() Case {
	return changesCase(Case{
		Name:    "VirtualService/RedirectParts",
		Doc:     "A redirect takes its port from the request or from the protocol, replaces only the prefix that matched, and keeps the query.",
		Fixture: "virtualservice/redirect-parts.yaml",
		Covers: []string{
			"VirtualService.spec.http[].redirect.derivePort=FROM_REQUEST_PORT", "VirtualService.spec.http[].redirect.derivePort=FROM_PROTOCOL_DEFAULT",
			"VirtualService.spec.http[].redirect.prefixRewrite", "VirtualService.spec.http[].redirect.redirectCode", "VirtualService.spec.http[].redirect.scheme",
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].redirect.derivePort=FROM_PROTOCOL_DEFAULT", Fails: "the request's port: answer has Location"},
			{Break: "VirtualService spec.http[1].redirect.derivePort=FROM_REQUEST_PORT", Fails: "the protocol's port: answer has Location"},
			{Break: "VirtualService spec.http[2].redirect={uri: /new/}", Fails: "the rest of the path: answer has Location"},
			{
				Break: "VirtualService spec.http[3].redirect.redirectCode=; VirtualService spec.http[5].redirect.redirectCode=301",
				Fails: "found: 301 instead of 302 ×4, permanent: 301 instead of 308",
			},
		},
	}, func(e *Env) []changed {
		host := e.Vars["HOST"]
		to := func(name, path, status, location string) changed {
			return changed{name: name, request: toHost(e, host+":80", path), want: status, answer: map[string]string{"Location": location, ":body": ""}}
		}
		return []changed{
			to("the request's port", "/request-port?q=1", "301", "https://"+host+":80/request-port?q=1"),
			to("the protocol's port", "/protocol-port?q=1", "301", "https://"+host+"/protocol-port?q=1"),
			to("the rest of the path", "/old/a/b?q=1", "301", "http://"+host+":80/new/a/b?q=1"),
			to("found", "/found", "302", "http://elsewhere.harness.test/found"),
			to("see other", "/see?q=1", "303", "http://"+host+":80/new?q=1"),
			to("permanent", "/permanent", "308", "http://"+host+":80/new"),
			{name: "none", request: e.URL("/"), want: "v1", answer: map[string]string{"Location": ""}},
		}
	})
}

func virtualServiceDirectBytes() Case {
	return changesCase(Case{
		Name:    "VirtualService/DirectResponseBytes",
		Doc:     "The gateway answers with any bytes or with none, and with the headers of the rule.",
		Fixture: "virtualservice/direct-response-bytes.yaml",
		Covers: []string{
			"VirtualService.spec.http[].directResponse.body.bytes", "VirtualService.spec.http[].directResponse.status", "VirtualService.spec.http[].headers.response.set{}",
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].directResponse.body.bytes=AAH+", Fails: `bytes: answer has :body "\x00\x01\xfe" instead of "\x00\x01\xfe\xff\r\n"`},
			{Break: "VirtualService spec.http[0].headers.response.set.x-direct=", Fails: `bytes: answer has X-Direct "" instead of "yes"`},
			{Break: "VirtualService spec.http[1].directResponse.status=205; VirtualService spec.http[2].directResponse.body={string: why}", Fails: "no body: answer has :body \"why\" instead of \"\" ×4, no content: 205 instead of 204"},
		},
	}, func(e *Env) []changed {
		return []changed{
			{name: "bytes", request: e.URL("/bytes"), want: "200", answer: map[string]string{
				":body": "\x00\x01\xfe\xff\r\n", "X-Direct": "yes", "Content-Type": "application/octet-stream", "Content-Length": "6",
			}},
			{name: "no content", request: e.URL("/empty"), want: "204", answer: map[string]string{":body": "", "X-Direct": ""}},
			{name: "no body", request: e.URL("/silent"), want: "503", answer: map[string]string{":body": ""}},
			{name: "another path", request: e.URL("/"), want: "v1"},
		}
	})
}

func virtualServiceCORSOrigins() Case {
	const allowed = "Access-Control-Allow-Origin"
	return changesCase(Case{
		Name:    "VirtualService/CORSOrigins",
		Doc:     "Origins are allowed by their beginning or by an expression, and a preflight of another is answered by the gateway or by the backend as the rule says.",
		Fixture: "virtualservice/cors-origins.yaml",
		Covers: []string{
			"VirtualService.spec.http[].corsPolicy.allowOrigins[].prefix", "VirtualService.spec.http[].corsPolicy.allowOrigins[].regex",
			"VirtualService.spec.http[].corsPolicy.unmatchedPreflights=IGNORE", "VirtualService.spec.http[].corsPolicy.unmatchedPreflights=FORWARD",
		},
		Controls: []Control{
			{Break: `VirtualService spec.http[0].corsPolicy.allowOrigins[0].prefix="https://"`, Fails: "another origin: answer has Access-Control-Allow-Origin"},
			{Break: `VirtualService spec.http[0].corsPolicy.allowOrigins[1].regex="https://[a-z]+[.]other[.]test"`, Fails: "by expression: answer has Access-Control-Allow-Origin"},
			{Break: "VirtualService spec.http[0].corsPolicy.unmatchedPreflights=FORWARD", Fails: "ignored preflight: v1 instead of 200"},
			{Break: "VirtualService spec.http[1].corsPolicy.unmatchedPreflights=IGNORE", Fails: "forwarded preflight: 200 instead of v2"},
		},
	}, func(e *Env) []changed {
		const shop, word, longer, bad = "https://shop.test:8443", "https://abc.harness.test", "https://abc.harness.test.evil.test", "https://evil.test"
		from := func(path, origin string) loadgen.Request { return with(e.URL(path), "Origin", origin) }
		preflight := func(path, origin string) loadgen.Request {
			return with(method(from(path, origin), http.MethodOptions), "Access-Control-Request-Method", http.MethodGet)
		}
		allows := func(origin string) map[string]string { return map[string]string{allowed: origin} }
		return []changed{
			{name: "by its beginning", request: from("/ignore", shop), want: "v1", answer: allows(shop)},
			{name: "by expression", request: from("/ignore", word), want: "v1", answer: allows(word)},
			{name: "more than the expression", request: from("/ignore", longer), want: "v1", answer: allows("")},
			{name: "another origin", request: from("/ignore", bad), want: "v1", answer: allows("")},
			{name: "allowed preflight", request: preflight("/ignore", word), want: "200", answer: allows(word)},
			{name: "ignored preflight", request: preflight("/ignore", bad), want: "200", answer: allows("")},
			{name: "forwarded preflight", request: preflight("/forward", bad), want: "v2", answer: allows("")},
		}
	})
}

// branchWords are what the fixture's destinations write into headers, by version.
var branchWords = map[string]string{"v1": "one", "v2": "two", "v3": "three"} //nolint:gochecknoglobals // a constant map

// laden is a request with every header that the destinations change, and a command for such an answer.
func laden(e *Env, path string) loadgen.Request {
	r := with(with(e.URL(path), "X-Set", "old"), "X-Add", "zero")
	commands := []string{"header=X-Answer-Set:old", "header=X-Answer-Add:zero"}
	for _, word := range branchWords {
		r = with(r, "X-Remove-"+word, "there")
		commands = append(commands, "header=X-Answer-Remove-"+word+":there")
	}
	return e.Commanded(r, commands...)
}

// unladen is what the destination of a version makes of it.
func unladen(version string) changed {
	mine := branchWords[version]
	c := changed{
		name: version, want: version,
		arrives: map[string]string{"X-Set": mine, "X-Add": "zero," + mine, ":host": mine + ".harness.test"},
		answer:  map[string]string{"X-Answer-Set": mine, "X-Answer-Add": "zero," + mine},
	}
	for _, word := range branchWords {
		left := "there"
		if word == mine {
			left = ""
		}
		c.arrives["X-Remove-"+word], c.answer["X-Answer-Remove-"+word] = left, left
	}
	return c
}

func virtualServiceDestinationHeaders() Case {
	const count = 40
	return Case{
		Name:    "VirtualService/DestinationHeaders",
		Doc:     "Each destination of a rule sets, adds and removes its own headers, the host among them, and not those of another.",
		Fixture: "virtualservice/destination-headers.yaml",
		Judged:  fmt.Sprintf("exact: %d requests and answers of each of two rules by who answered; alpha is that one of two destinations gets none of them", count),
		Samples: []Sample{covers("destinations that have answered", 2, count, 2*math.Pow(0.5, count))},
		Covers: []string{
			"VirtualService.spec.http[].route[].headers.request.set{}", "VirtualService.spec.http[].route[].headers.request.add{}",
			"VirtualService.spec.http[].route[].headers.request.remove[]", "VirtualService.spec.http[].route[].headers.response.set{}",
			"VirtualService.spec.http[].route[].headers.response.add{}", "VirtualService.spec.http[].route[].headers.response.remove[]",
		},
		Check: func(ctx context.Context, e *Env) error {
			xs, err := e.Gateway(ctx, loadgen.Burst{Requests: []loadgen.Request{laden(e, "/"), laden(e, "/one")}, Count: 2 * count, Connections: 4})
			if err != nil {
				return err
			}
			if err := reached("destinations", xs, version, []string{"v1", "v2", "v3"}); err != nil {
				return err
			}
			return changedBy(xs, func(x loadgen.Exchange) changed {
				if x.Seq%2 == 1 {
					return unladen("v3")
				}
				return unladen(version(x))
			})
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[1].route[0].headers.request.set={x-set: two, host: two.harness.test}", Fails: `v1: arrives with :host "two.harness.test" instead of "one.harness.test"`},
			{Break: "VirtualService spec.http[1].route[1].headers.request.add=; VirtualService spec.http[1].route[0].headers.request.remove=", Fails: `v1: arrives with X-Remove-one "there" instead of ""`},
			{Break: "VirtualService spec.http[1].route[1].headers.response.set=", Fails: `v2: answer has X-Answer-Set "old" instead of "two"`},
			{Break: "VirtualService spec.http[0].route[0].headers.response.add=; VirtualService spec.http[1].route[1].headers.request.add=", Fails: `v3: answer has X-Answer-Add "zero" instead of "zero,three"`},
			{Break: "VirtualService spec.http[0].route[0].headers.response.remove=[x-answer-remove-one]", Fails: `v3: answer has X-Answer-Remove-one "" instead of "there"`},
		},
	}
}
