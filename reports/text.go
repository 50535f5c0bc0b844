// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// ansi matches terminal control sequences: CSI (colours, cursor), OSC (titles, links), and two-character escapes.
var ansi = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(\x07|\x1b\\\\)|\x1b[ -/]*[0-~]|\u009b[0-?]*[ -/]*[@-~]")

// clean makes text from a cluster safe to show anywhere: no terminal sequences, no control characters except newline and tab,
// valid UTF-8, nothing outside XML 1.0's characters. Formats escape what is left in their own way.
func clean(s string) string {
	if isPlain(s) {
		return s
	}
	s = ansi.ReplaceAllString(s, "")
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
			return c
		case c == '\r':
			return '\n'
		case c < ' ', c >= 0x7f && c < 0xa0:
			return -1
		// Direction overrides make text read differently from what it is.
		case c >= 0x202a && c <= 0x202e, c >= 0x2066 && c <= 0x2069:
			return -1
		case c == 0xfffe, c == 0xffff:
			return -1
		}
		return c // an invalid byte arrives here as U+FFFD
	}, s)
}

func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\n' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}

// Most bytes of one text that are looked at: a reason of a megabyte is one somebody dumped a body into.
const (
	mostLine = 8 << 10
	mostText = 64 << 10
)

// oneLine is clean text with every run of white space as one blank.
func oneLine(s string) string { return strings.Join(strings.Fields(clean(head(s, mostLine))), " ") }

// cleanText is clean text of some lines, cut where no reader goes any more.
func cleanText(s string) string {
	if len(s) <= mostText {
		return clean(s)
	}
	return clean(head(s, mostText)) + "\n… cut here; report.json has all of it"
}

// firstLine is the first non-empty line, bounded, or the fallback.
func firstLine(s, fallback string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(clean(head(strings.TrimSpace(s), mostLine))), "\n")
	if line = oneLine(line); line == "" {
		return fallback
	}
	return middle(line, 300)
}

// middle shortens s to at most n bytes by leaving out its middle, since what is said first and last matters most.
func middle(s string, n int) string {
	const gap = " … "
	if len(s) <= n {
		return s
	}
	if n <= len(gap) {
		return head(s, n)
	}
	keep := n - len(gap)
	front := head(s, keep-keep/3)
	back := s[len(s)-keep/3:]
	for len(back) > 0 && !utf8.RuneStart(back[0]) {
		back = back[1:]
	}
	return front + gap + back
}

// head is at most the first n bytes of s, never half a character.
func head(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
