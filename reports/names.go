// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// maxName bounds one element of a path, in bytes; file systems stop at 255.
const maxName = 100

// ID names the case's attempt in paths and anchors: "DestinationRule_RoundRobin", with ".2" for a second attempt. Different
// names have different IDs: what cannot be kept is replaced and a hash of the name added.
func (c Case) ID() string {
	id := safeName(strings.NewReplacer("/", "_", ".", "-").Replace(c.Name), strings.ContainsAny(c.Name, "._"), c.Name)
	if c.Attempt > 1 {
		id += fmt.Sprintf(".%d", c.Attempt)
	}
	return id
}

// safePath turns the name of a piece of evidence into a relative path with slashes that stays below its directory.
func safePath(name string) string {
	const deepest = 4
	var parts []string
	lossy := false
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			lossy = true
			continue
		}
		parts = append(parts, part)
	}
	if len(parts) > deepest {
		parts, lossy = parts[len(parts)-deepest:], true
	}
	if len(parts) == 0 {
		parts = []string{"evidence"}
	}
	last := len(parts) - 1
	for i := range parts {
		parts[i] = safeName(parts[i], lossy && i == last, name)
	}
	return path.Join(parts...)
}

// safeName keeps letters, digits, '.', '_' and '-', and no leading dot or dash. When anything was lost (or the caller knows
// so) a hash of the whole name is put before the extension.
func safeName(s string, lossy bool, whole string) string {
	safe := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			return c
		}
		return '-'
	}, s)
	safe = strings.TrimLeft(safe, ".-")
	if safe == s && safe != "" && !lossy && len(safe) <= maxName {
		return safe
	}
	sum := sha256.Sum256([]byte(whole))
	ext := path.Ext(safe)
	if len(ext) > 12 || ext == safe {
		ext = ""
	}
	base := strings.TrimSuffix(safe, ext)
	if base == "" {
		base = "unnamed"
	}
	return head(base, maxName-len(ext)-9) + "-" + hex.EncodeToString(sum[:4]) + ext
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
