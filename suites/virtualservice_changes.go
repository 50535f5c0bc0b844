// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"harness.example/harness/loadgen"
)

// virtualServiceChanges are the cases about requests and answers that do not arrive as they were sent.
func virtualServiceChanges() []Case {
	return []Case{
		virtualServiceRedirect(), virtualServiceRewrite(), virtualServiceDirectResponse(), virtualServiceHeaders(), virtualServiceCORS(),
	}
}

// changed is a request and what must become of it.
type changed struct {
	name    string
	request loadgen.Request
	want    string // who answers, see answerer
	// answer and arrives are header fields of the answer, and of the request as the backend got it, several values with a
	// comma between them; "" means none. ":body" is the body of the answer; ":method", ":host", ":path" and ":body" those
	// of the request.
	answer, arrives map[string]string
}

// changesCase completes a case that is a table of changes.
func changesCase(c Case, table func(e *Env) []changed) Case {
	c.Judged = fmt.Sprintf("exact: each of %d kinds of request, %d times on connections of their own, against what must arrive and be answered; no false alarm",
		len(table(sampleEnv())), routeTries)
	c.Check = func(ctx context.Context, e *Env) error { return becomes(ctx, e, table(e)) }
	return c
}

// becomes judges every request of the table.
func becomes(ctx context.Context, e *Env, table []changed) error {
	b := loadgen.Burst{Count: routeTries * len(table), Connections: routeTries, Policy: loadgen.Fresh}
	for _, r := range table {
		b.Requests = append(b.Requests, r.request)
	}
	xs, err := e.Gateway(ctx, b)
	if err != nil {
		return err
	}
	return changedBy(xs, func(x loadgen.Exchange) changed { return table[x.Seq%len(table)] })
}

// changedBy judges every exchange by the change that it must show.
func changedBy(xs []loadgen.Exchange, row func(loadgen.Exchange) changed) error {
	wrong := map[string]int{}
	m := mismatch(fmt.Sprintf("%d requests and their answers changed as configured", len(xs)), "")
	for _, x := range xs {
		r := row(x)
		found, err := r.differs(x)
		if err != nil {
			return err
		}
		if len(found) > 0 && len(m.Exchanges) < 5 {
			m.Exchanges = append(m.Exchanges, x)
		}
		for _, f := range found {
			wrong[r.name+": "+f]++
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	m.Got = counts(wrong)
	return m
}

// differs lists what is not as it must be.
func (c changed) differs(x loadgen.Exchange) ([]string, error) {
	if got := answerer(x); got != c.want {
		return []string{fmt.Sprintf("%s instead of %s", got, c.want)}, nil
	}
	fields := map[string]string{":body": string(x.Body)}
	out := compare("answer has ", c.answer, fields, x.Header)
	if len(c.arrives) == 0 {
		return out, nil
	}
	a, err := answer(x)
	if err != nil {
		return nil, err
	}
	path := a.Path
	if a.Query != "" {
		path += "?" + a.Query
	}
	fields = map[string]string{":method": a.Method, ":host": a.Host, ":path": path, ":body": a.Body}
	return append(out, compare("arrives with ", c.arrives, fields, a.Header)...), nil
}

func compare(what string, want, fields map[string]string, header http.Header) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		got, special := fields[name]
		if !special {
			got = strings.Join(header.Values(name), ",")
		}
		if got != want[name] {
			out = append(out, fmt.Sprintf("%s%s %q instead of %q", what, name, got, want[name]))
		}
	}
	return out
}

func virtualServiceRedirect() Case {
	return changesCase(Case{
		Name:    "VirtualService/Redirect",
		Doc:     "The gateway redirects with the path, authority, port, scheme and status that the rule names, and keeps what it does not.",
		Fixture: "virtualservice/redirect.yaml",
		Covers: []string{
			"VirtualService.spec.http[].redirect.uri", "VirtualService.spec.http[].redirect.authority", "VirtualService.spec.http[].redirect.port",
			"VirtualService.spec.http[].redirect.scheme", "VirtualService.spec.http[].redirect.redirectCode",
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].redirect.uri=/other", Fails: "path: answer has Location"},
			{Break: "VirtualService spec.http[1].redirect.authority=other.harness.test", Fails: "authority: answer has Location"},
			{Break: "VirtualService spec.http[2].redirect.port=8444", Fails: "port: answer has Location"},
			{Break: "VirtualService spec.http[3].redirect.scheme=http", Fails: "scheme: answer has Location"},
			{Break: "VirtualService spec.http[4].redirect.redirectCode=308", Fails: "status: 308 instead of 307"},
			{Break: "VirtualService spec.http[5].match[0].uri.exact=/none", Fails: "followed: 404 instead of v1"},
		},
	}, func(e *Env) []changed {
		host := e.Vars["HOST"]
		to := func(name, path, status, location string) changed {
			return changed{name: name, request: e.URL(path), want: status, answer: map[string]string{"Location": location}}
		}
		followed := method(e.URL("/code"), http.MethodPut)
		followed.Body, followed.FollowRedirects = []byte("kept"), true
		return []changed{
			to("path", "/uri", "301", "http://"+host+"/new"),
			to("authority", "/authority", "301", "http://elsewhere.harness.test/authority"),
			to("port", "/port", "301", "http://"+host+":8443/port"),
			to("scheme", "/scheme", "301", "https://"+host+"/scheme"),
			to("status", "/code", "307", "http://"+host+"/new"),
			{name: "followed", request: followed, want: "v1", arrives: map[string]string{":method": "PUT", ":path": "/new", ":body": "kept"}},
		}
	})
}

func virtualServiceRewrite() Case {
	return changesCase(Case{
		Name:    "VirtualService/Rewrite",
		Doc:     "The backend gets the path or authority that the rule rewrites to, with the rest of the request as it was sent.",
		Fixture: "virtualservice/rewrite.yaml",
		Covers: []string{
			"VirtualService.spec.http[].rewrite.uri", "VirtualService.spec.http[].rewrite.authority",
			"VirtualService.spec.http[].rewrite.uriRegexRewrite.match", "VirtualService.spec.http[].rewrite.uriRegexRewrite.rewrite",
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].rewrite=", Fails: `below the prefix: arrives with :path "/old/x?q=1" instead of "/new/x?q=1"`},
			{Break: "VirtualService spec.http[1].rewrite.authority=other.harness.test", Fails: `authority: arrives with :host "other.harness.test"`},
			{Break: "VirtualService spec.http[2].rewrite.uriRegexRewrite.rewrite=/none", Fails: `expression: arrives with :path "/none`},
			{Break: "VirtualService spec.http[3].rewrite={uri: /all}", Fails: `nothing: arrives with :path "/all`},
		},
	}, func(e *Env) []changed {
		host := e.Vars["HOST"]
		arrives := func(name, path, host, as string) changed {
			return changed{name: name, request: e.URL(path), want: "v1", arrives: map[string]string{":host": host, ":path": as}}
		}
		return []changed{
			arrives("the prefix", "/old", host, "/new"),
			arrives("below the prefix", "/old/x?q=1", host, "/new/x?q=1"),
			arrives("authority", "/authority/x", "inner.harness.test", "/authority/x"),
			arrives("expression", "/user/7/photo?q=1", host, "/photo/of/7?q=1"),
			arrives("expression that does not match", "/user/7", host, "/user/7"),
			arrives("nothing", "/same?q=1", host, "/same?q=1"),
		}
	})
}

func virtualServiceDirectResponse() Case {
	return changesCase(Case{
		Name:    "VirtualService/DirectResponse",
		Doc:     "The gateway answers with the status and body of the rule, without any backend, and lets other paths through.",
		Fixture: "virtualservice/direct-response.yaml",
		Covers:  []string{"VirtualService.spec.http[].directResponse.status", "VirtualService.spec.http[].directResponse.body.string"},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].directResponse.status=298", Fails: "direct: 298 instead of 299"},
			{Break: "VirtualService spec.http[0].directResponse.body.string=another", Fails: `direct: answer has :body "another"`},
			{Break: "VirtualService spec.http[0].match[0].uri.prefix=/", Fails: "another path: 299 instead of v1"},
			{Break: "VirtualService spec.http[0].match[0].uri.prefix=/elsewhere", Fails: "direct: v1 instead of 299"},
		},
	}, func(e *Env) []changed {
		return []changed{
			{name: "direct", request: e.URL("/direct/x"), want: "299", answer: map[string]string{":body": "from the gateway, token " + e.Vars["TOKEN"]}},
			{name: "another path", request: e.URL("/"), want: "v1"},
		}
	})
}

func virtualServiceHeaders() Case {
	return changesCase(Case{
		Name:    "VirtualService/Headers",
		Doc:     "Headers are set, added and removed on requests and on answers, and others stay.",
		Fixture: "virtualservice/headers.yaml",
		Covers: []string{
			"VirtualService.spec.http[].headers.request.set{}", "VirtualService.spec.http[].headers.request.add{}", "VirtualService.spec.http[].headers.request.remove[]",
			"VirtualService.spec.http[].headers.response.set{}", "VirtualService.spec.http[].headers.response.add{}", "VirtualService.spec.http[].headers.response.remove[]",
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].headers.request.set=", Fails: `with them: arrives with X-Set "old" instead of "new"`},
			{Break: "VirtualService spec.http[0].headers.request.add=", Fails: `with them: arrives with X-Add "one" instead of "one,more"`},
			{Break: "VirtualService spec.http[0].headers.request.remove=", Fails: `with them: arrives with X-Remove "gone" instead of ""`},
			{Break: "VirtualService spec.http[0].headers.response.set=", Fails: `with them: answer has X-Answer-Set "old" instead of "new"`},
			{Break: "VirtualService spec.http[0].headers.response.add=", Fails: `with them: answer has X-Answer-Add "one" instead of "one,more"`},
			{Break: "VirtualService spec.http[0].headers.response.remove=", Fails: `with them: answer has X-Answer-Remove "gone" instead of ""`},
			{Break: "VirtualService spec.http[0].headers.request.remove[1]=x-keep", Fails: `with them: arrives with X-Keep "" instead of "yes"`},
		},
	}, func(e *Env) []changed {
		full := e.URL("/")
		for name, value := range map[string]string{"X-Set": "old", "X-Add": "one", "X-Remove": "gone", "X-Keep": "yes"} {
			full = with(full, name, value)
		}
		full = e.Commanded(full, "header=X-Answer-Set:old", "header=X-Answer-Add:one", "header=X-Answer-Remove:gone", "header=X-Answer-Keep:yes")
		return []changed{
			{
				name: "with them", request: full, want: "v1",
				arrives: map[string]string{"X-Set": "new", "X-Add": "one,more", "X-Remove": "", "X-Keep": "yes"},
				answer:  map[string]string{"X-Answer-Set": "new", "X-Answer-Add": "one,more", "X-Answer-Remove": "", "X-Answer-Keep": "yes"},
			},
			{
				name: "without them", request: e.URL("/"), want: "v1",
				arrives: map[string]string{"X-Set": "new", "X-Add": "more", "X-Remove": "", "X-Keep": ""},
				answer:  map[string]string{"X-Answer-Set": "new", "X-Answer-Add": "more", "X-Answer-Remove": "", "X-Answer-Keep": ""},
			},
		}
	})
}

func virtualServiceCORS() Case {
	const allow = "Access-Control-Allow-"
	return changesCase(Case{
		Name:    "VirtualService/CORS",
		Doc:     "Pages of the allowed origin learn what they may do, from the gateway itself in a preflight, and pages of other origins do not.",
		Fixture: "virtualservice/cors.yaml",
		Covers: []string{
			"VirtualService.spec.http[].corsPolicy.allowOrigins[].exact", "VirtualService.spec.http[].corsPolicy.allowMethods[]", "VirtualService.spec.http[].corsPolicy.allowHeaders[]",
			"VirtualService.spec.http[].corsPolicy.exposeHeaders[]", "VirtualService.spec.http[].corsPolicy.maxAge", "VirtualService.spec.http[].corsPolicy.allowCredentials",
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].corsPolicy=", Fails: "preflight of the origin: v1 instead of 200"},
			{Break: `VirtualService spec.http[0].corsPolicy.allowOrigins=[{exact: "https://bad.harness.test"}]`, Fails: "another origin: answer has Access-Control-Allow-Origin"},
			{Break: "VirtualService spec.http[0].corsPolicy.allowMethods=[GET]", Fails: `preflight of the origin: answer has Access-Control-Allow-Methods "GET"`},
			{Break: "VirtualService spec.http[0].corsPolicy.allowHeaders=[x-other]", Fails: `preflight of the origin: answer has Access-Control-Allow-Headers "x-other"`},
			{Break: "VirtualService spec.http[0].corsPolicy.maxAge=60s", Fails: `preflight of the origin: answer has Access-Control-Max-Age "60"`},
			{Break: "VirtualService spec.http[0].corsPolicy.exposeHeaders=", Fails: `the origin: answer has Access-Control-Expose-Headers ""`},
			{Break: "VirtualService spec.http[0].corsPolicy.allowCredentials=", Fails: `the origin: answer has Access-Control-Allow-Credentials ""`},
		},
	}, func(e *Env) []changed {
		const good, bad = "https://good.harness.test", "https://bad.harness.test"
		preflight := func(from string) loadgen.Request {
			return with(with(method(e.URL("/"), http.MethodOptions), "Origin", from), "Access-Control-Request-Method", http.MethodPut)
		}
		none := map[string]string{allow + "Origin": "", allow + "Credentials": "", allow + "Methods": ""}
		return []changed{
			{name: "the origin", request: with(e.URL("/"), "Origin", good), want: "v1", answer: map[string]string{
				allow + "Origin": good, allow + "Credentials": "true", "Access-Control-Expose-Headers": "x-echo-pod",
			}},
			{name: "preflight of the origin", request: preflight(good), want: "200", answer: map[string]string{
				allow + "Origin": good, allow + "Credentials": "true", allow + "Methods": "GET,PUT", allow + "Headers": "x-custom", "Access-Control-Max-Age": "600",
			}},
			{name: "another origin", request: with(e.URL("/"), "Origin", bad), want: "v1", answer: none},
			{name: "preflight of another origin", request: preflight(bad), want: "v1", answer: none},
			{name: "no origin", request: e.URL("/"), want: "v1", answer: none},
		}
	})
}
