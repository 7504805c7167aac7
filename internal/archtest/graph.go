package archtest

import (
	"fmt"
	"slices"
	"strings"
)

const root = "github.com/coatcheck/coatcheck"

// short writes a package or module of ours as the rules do.
func short(path string) string {
	switch rest, ok := strings.CutPrefix(path, root); {
	case ok && rest == "":
		return "."
	case ok && rest[0] == '/':
		return "." + rest
	}
	return path
}

// pkg is a package as the go command lists it, with all paths in short form.
type pkg struct {
	path        string
	module      string // "" for the standard library
	standard    bool
	imports     []string
	testImports []string
}

// ours reports whether the package is in this repository.
func (p *pkg) ours() bool { return within("./...", p.path) }

// edge is an import, or a requirement among modules.
type edge struct {
	from, to string
	test     bool // the import is in a test file
}

type graph map[string]*pkg

// at returns the package named path; one that is not in the graph is taken for a
// leaf that belongs to nobody.
func (g graph) at(path string) *pkg {
	if p, ok := g[path]; ok {
		return p
	}
	return &pkg{path: path}
}

// violations returns what in g breaks r, each as a sentence with r's reason.
func (r rule) violations(g graph) []string {
	var found []string
	for _, path := range sorted(g) {
		from := g[path]
		if !from.ours() || !anyWithin(r.in, path) || anyWithin(r.not, path) {
			continue
		}
		for _, to := range from.imports {
			if r.forbids(from, g.at(to)) {
				found = append(found, fmt.Sprintf("%s imports %s\n\tforbidden: %s", path, to, r.why))
			}
		}
		if r.tests {
			for _, to := range from.testImports {
				if r.forbids(from, g.at(to)) {
					found = append(found, fmt.Sprintf("a test of %s imports %s\n\tforbidden: %s", path, to, r.why))
				}
			}
		}
		if r.through {
			for _, way := range g.reach(from, r) {
				found = append(found, fmt.Sprintf("%s\n\tforbidden: %s", strings.Join(way, " imports "), r.why))
			}
		}
	}
	return found
}

// forbids reports whether from may not import to.
func (r rule) forbids(from, to *pkg) bool {
	return r.only != nil && !matches(r.only, from, to) || matches(r.never, from, to) && !anyWithin(r.but, to.path)
}

// reach returns the shortest way from a package to each one that the rule
// never lets it reach, where that way has more than one import.
func (g graph) reach(from *pkg, r rule) [][]string {
	var found [][]string
	seen := map[string]bool{from.path: true}
	queue := [][]string{{from.path}}
	for len(queue) > 0 {
		way := queue[0]
		queue = queue[1:]
		for _, to := range g.at(way[len(way)-1]).imports {
			if seen[to] {
				continue
			}
			seen[to] = true
			longer := append(slices.Clone(way), to)
			if matches(r.never, from, g.at(to)) {
				if len(longer) > 2 {
					found = append(found, longer)
				}
				continue // what lies behind it is its own affair
			}
			queue = append(queue, longer)
		}
	}
	return found
}

func matches(patterns []string, from, to *pkg) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		switch pattern {
		case std:
			return to.standard
		case otherBackend:
			b := backend(to.path)
			return b != "" && b != backend(from.path)
		case foreignInternal:
			return to.ours() && to.module != from.module && slices.Contains(strings.Split(to.path, "/"), "internal")
		}
		return within(pattern, to.path)
	})
}

// backend returns the store that a package belongs to, "" if to none.
func backend(path string) string {
	rest, ok := strings.CutPrefix(path, "./store/")
	name, _, _ := strings.Cut(rest, "/")
	if !ok || name == "storetest" {
		return ""
	}
	return name
}

// violations returns what in requires, which maps each module to what its go.mod
// requires, breaks q.
func (q requirement) violations(requires map[string][]string) []string {
	var found []string
	for _, module := range sorted(requires) {
		if !anyWithin(q.in, module) || anyWithin(q.not, module) {
			continue
		}
		for _, to := range requires[module] {
			if q.only != nil && !anyWithin(q.only, to) || anyWithin(q.never, to) {
				found = append(found, fmt.Sprintf("module %s requires %s\n\tforbidden: %s", module, to, q.why))
			}
		}
	}
	return found
}

func anyWithin(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return within(pattern, path) })
}

// within reports whether path is what the pattern names, or below it if the
// pattern ends in "/...".
func within(pattern, path string) bool {
	above, all := strings.CutSuffix(pattern, "/...")
	return path == above || all && strings.HasPrefix(path, above+"/")
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
