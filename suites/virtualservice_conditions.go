// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"net/http"
	"strings"

	"harness.example/harness/loadgen"
)

// virtualServiceConditions are the rarer conditions of a match, and what a request looks like when it is matched.
func virtualServiceConditions() []Case {
	return []Case{
		virtualServiceStringMatch(), virtualServiceHeaderPresence(), virtualServiceNormalPath(), virtualServiceLinearRegex(), virtualServiceUpgrade(),
	}
}

func virtualServiceStringMatch() Case {
	return routesCase(Case{
		Name:    "VirtualService/StringMatch",
		Doc:     "Method, authority, scheme and query parameters are matched by their beginning and by expressions for the whole of them.",
		Fixture: "virtualservice/string-match.yaml",
		Covers: []string{
			"VirtualService.spec.http[].match[].method.prefix", "VirtualService.spec.http[].match[].method.regex",
			"VirtualService.spec.http[].match[].authority.prefix", "VirtualService.spec.http[].match[].authority.regex",
			"VirtualService.spec.http[].match[].scheme.prefix", "VirtualService.spec.http[].match[].scheme.regex",
			"VirtualService.spec.http[].match[].queryParams{}.prefix", "VirtualService.spec.http[].match[].queryParams{}.regex",
		},
		Controls: []Control{
			{
				Break: "VirtualService spec.http[0].match[0].method.prefix=P; VirtualService spec.http[2].match[0].authority.prefix=s",
				Fails: "another authority than the beginning: v3 instead of 404 ×4, another method than the beginning: v1 instead of 404",
			},
			{
				Break: "VirtualService spec.http[1].match[0].method.regex=P.*; VirtualService spec.http[3].match[0].authority.regex=.*",
				Fails: "another authority than the expression: v1 instead of 404 ×4, another method than the expression: v2 instead of 404",
			},
			{
				Break: "VirtualService spec.http[4].match[0].scheme.prefix=https; VirtualService spec.http[5].match[0].scheme.regex=htt",
				Fails: "scheme by expression: 404 instead of v3 ×4, scheme by its beginning: 404 instead of v2",
			},
			{
				Break: `VirtualService spec.http[6].match[0].queryParams.page.prefix="2"; VirtualService spec.http[7].match[0].queryParams.page.regex="[0-9]+.*"; ` +
					"VirtualService spec.http[8].match[0].queryParams=",
				Fails: "another parameter than the beginning: v1 instead of 404 ×4, another parameter than the expression: v2 instead of 404 ×4, no parameter: v3 instead of 404",
			},
		},
	}, func(e *Env) []route {
		one, word := "shop-1."+e.Vars["HOST"], "shop-a."+e.Vars["HOST"]
		return []route{
			{"method by its beginning", method(toHost(e, one, "/method-prefix"), http.MethodPatch), "v1"},
			{"another method than the beginning", method(toHost(e, one, "/method-prefix"), http.MethodPut), "404"},
			{"method by expression", method(toHost(e, one, "/method-regex"), http.MethodPut), "v2"},
			{"another method than the expression", method(toHost(e, one, "/method-regex"), http.MethodPatch), "404"},
			{"authority by its beginning", toHost(e, word, "/authority-prefix"), "v3"},
			{"another authority than the beginning", toHost(e, "s-"+one, "/authority-prefix"), "404"},
			{"authority by expression", toHost(e, one, "/authority-regex"), "v1"},
			{"another authority than the expression", toHost(e, word, "/authority-regex"), "404"},
			{"scheme by its beginning", toHost(e, one, "/scheme-prefix"), "v2"},
			{"scheme by expression", toHost(e, one, "/scheme-regex"), "v3"},
			{"parameter by its beginning", toHost(e, one, "/query-prefix?x=2&page=1b"), "v1"},
			{"another parameter than the beginning", toHost(e, one, "/query-prefix?page=21"), "404"},
			{"parameter by expression", toHost(e, one, "/query-regex?page=12"), "v2"},
			{"another parameter than the expression", toHost(e, one, "/query-regex?page=12b"), "404"},
			{"parameter that is there", toHost(e, one, "/query-present?page=any"), "v3"},
			{"parameter without a value", toHost(e, one, "/query-present?page"), "v3"},
			{"no parameter", toHost(e, one, "/query-present?pages=1"), "404"},
		}
	})
}

func virtualServiceHeaderPresence() Case {
	return routesCase(Case{
		Name:    "VirtualService/HeaderPresence",
		Doc:     "A header can be required with any value, even an empty one, and forbidden at all, by its beginning or by an expression.",
		Fixture: "virtualservice/header-presence.yaml",
		Covers: []string{
			"VirtualService.spec.http[].match[].withoutHeaders{}.prefix", "VirtualService.spec.http[].match[].withoutHeaders{}.regex",
		},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].match[0].headers=", Fails: "not there: v1 instead of 404"},
			{Break: "VirtualService spec.http[1].match[0].withoutHeaders=", Fails: "there although forbidden: v2 instead of 404"},
			{
				Break: "VirtualService spec.http[2].match[0].withoutHeaders.x-kind.prefix=ti; VirtualService spec.http[3].match[0].withoutHeaders.x-kind.regex=l.*",
				Fails: "a forbidden beginning: v3 instead of 404 ×4, another beginning: 404 instead of v3 ×4, more than the forbidden expression: 404 instead of v1",
			},
			{Break: "VirtualService spec.http[4].match[0].withoutHeaders=", Fails: "one required and one forbidden: v2 instead of 404"},
		},
	}, func(e *Env) []route {
		kind := func(path, value string) loadgen.Request { return with(e.URL(path), "X-Kind", value) }
		return []route{
			{"any value", kind("/present", "whatever"), "v1"},
			{"an empty value", kind("/present", ""), "v1"},
			{"not there", e.URL("/present"), "404"},
			{"not there and forbidden", e.URL("/absent"), "v2"},
			{"there although forbidden", kind("/absent", "whatever"), "404"},
			{"a forbidden beginning", kind("/not-prefix", "lead"), "404"},
			{"another beginning", kind("/not-prefix", "tin"), "v3"},
			{"nothing that could begin so", e.URL("/not-prefix"), "v3"},
			{"a forbidden expression", kind("/not-regex", "lead"), "404"},
			{"more than the forbidden expression", kind("/not-regex", "leader"), "v1"},
			{"nothing to match the expression", e.URL("/not-regex"), "v1"},
			{"the required one only", kind("/both", "tin"), "v2"},
			{"one required and one forbidden", with(kind("/both", "tin"), "X-Skip", "1"), "404"},
		}
	})
}

func virtualServiceNormalPath() Case {
	return changesCase(Case{
		Name:    "VirtualService/NormalPath",
		Doc:     "Paths are matched and passed on without dot segments and needless escapes, but with double slashes and escaped ones as they are.",
		Fixture: "virtualservice/normal-path.yaml",
		Covers:  []string{"VirtualService.spec.http[].match[].uri.prefix", "VirtualService.spec.http[].match[].uri.exact"},
		Controls: []Control{
			{Break: "VirtualService spec.http[1].match[0].uri={exact: /public/../secret}", Fails: "dot segments: v3 instead of v2"},
			{Break: "VirtualService spec.http[1].match[0].uri={exact: /%73ecret}", Fails: "a needless escape: v3 instead of v2"},
			{Break: "VirtualService spec.http[0].match[0].uri={prefix: /public}", Fails: "an escaped slash: v1 instead of v3"},
			{Break: "VirtualService spec.http[1].match[0].uri={regex: /+secret}", Fails: "double slashes: v2 instead of v3"},
		},
	}, func(e *Env) []changed {
		arrives := func(name, path, want, as string) changed {
			return changed{name: name, request: e.URL(path), want: want, arrives: map[string]string{":path": as}}
		}
		return []changed{
			arrives("nothing to do", "/public/a", "v1", "/public/a"),
			arrives("dot segments", "/public/../secret", "v2", "/secret"),
			arrives("escaped dot segments", "/public/%2e%2E/secret", "v2", "/secret"),
			arrives("a single dot", "/x/./y", "v3", "/x/y"),
			arrives("a needless escape", "/%73ecret", "v2", "/secret"),
			arrives("a needed escape", "/a%20b", "v3", "/a%20b"),
			arrives("double slashes", "//secret", "v3", "//secret"),
			arrives("an escaped slash", "/public%2Fa", "v3", "/public%2Fa"),
			arrives("dots in the query", "/secret?q=/../%73", "v2", "/secret?q=/../%73"),
		}
	})
}

func virtualServiceLinearRegex() Case {
	c := routesCase(Case{
		Name:    "VirtualService/LinearRegex",
		Doc:     "Expressions with nested repetition are matched in linear time, however long the path or header is.",
		Fixture: "virtualservice/linear-regex.yaml",
		Covers:  []string{"VirtualService.spec.http[].match[].uri.regex", "VirtualService.spec.http[].match[].headers{}.regex"},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].match[0].uri.regex=/(a+)+", Fails: "a long path that does not match: v1 instead of v3"},
			{Break: "VirtualService spec.http[1].match[0].headers.x-long.regex=(a|aa)+", Fails: "a long header that does not match: v2 instead of v3"},
		},
	}, func(e *Env) []route {
		path, value := strings.Repeat("a", 8000), strings.Repeat("a", 32000)
		return []route{
			{"a long path", e.URL("/" + path + "b"), "v1"},
			{"a long path that does not match", e.URL("/" + path), "v3"},
			{"a long header", with(e.URL("/"), "X-Long", value+"b"), "v2"},
			{"a long header that does not match", with(e.URL("/"), "X-Long", value), "v3"},
		}
	})
	c.Judged += "; a matcher that goes back would need more than 2^8000 steps, so that any answer at all shows a linear one"
	return c
}

func virtualServiceUpgrade() Case {
	return routesCase(Case{
		Name:    "VirtualService/Upgrade",
		Doc:     "A handshake for WebSocket is matched by its headers like any request, and switches protocols with the backend of its rule.",
		Fixture: "virtualservice/upgrade.yaml",
		Covers:  []string{"VirtualService.spec.http[].match[].headers{}.exact"},
		Controls: []Control{
			{Break: "VirtualService spec.http[0].match[0].headers.upgrade.exact=other", Fails: "a handshake: 101 from v1 instead of 101 from v2"},
			{Break: "VirtualService spec.http[0].match[0].headers=", Fails: "a plain request: v2 instead of v1"},
		},
	}, func(e *Env) []route {
		handshake := e.URL("/")
		handshake.Protocol, handshake.Method, handshake.Body = loadgen.WebSocket, "", []byte("hello")
		return []route{
			{"a handshake", handshake, "101 from v2"},
			{"a plain request", e.URL("/"), "v1"},
		}
	})
}
