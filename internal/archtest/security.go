package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// asvsLines are the lines of OWASP ASVS 5.0 that docs/security.md answers.
var asvsLines = []string{
	"3.3.1", "3.3.2", "3.3.3", "3.3.4", "3.3.5",
	"7.1.1", "7.1.2", "7.1.3", "7.2.1", "7.2.2", "7.2.3", "7.2.4", "7.3.1", "7.3.2",
	"7.4.1", "7.4.2", "7.4.3", "7.4.4", "7.4.5", "7.5.1", "7.5.2", "7.5.3", "7.6.1", "7.6.2",
}

// faults is how many faults of other libraries docs/security.md lists.
const faults = 15

var (
	tableRow  = regexp.MustCompile(`(?m)^\| *([0-9.]+) *\|(.*)\|$`)
	testName  = regexp.MustCompile("`((?:Test|Fuzz|Example)[A-Z0-9_]\\w*)(/[^`\n]+)?`")
	faultTest = regexp.MustCompile(`^TestFault(\d\d)`)
)

// notThere is what the page says of a requirement that nothing fulfils yet.
const notThere = "Not there yet"

// testFuncs maps the tests of the repository to the strings in them, which hold
// the names of their subtests as far as those are literal.
func testFuncs(files []textFile) (map[string][]string, error) {
	found := map[string][]string{}
	for _, f := range files {
		if !strings.HasSuffix(f.path, "_test.go") || strings.Contains(f.path, "testdata/") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.path, f.data, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range parsed.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !testName.MatchString("`"+fn.Name.Name+"`") {
				continue
			}
			texts := found[fn.Name.Name]
			ast.Inspect(fn, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						texts = append(texts, s)
					}
				}
				return true
			})
			found[fn.Name.Name] = append(texts, path.Dir(f.path))
		}
	}
	return found, nil
}

// flawsOfSecurityPage lists what is wrong with docs/security.md: tests that are
// not there, and requirements and faults that are missing or unproven.
func flawsOfSecurityPage(page string, tests map[string][]string) []string {
	var found []string
	named := map[string]bool{}
	for _, m := range testName.FindAllStringSubmatch(page, -1) {
		texts, ok := tests[m[1]]
		if !ok {
			found = append(found, fmt.Sprintf("%s is no test of this repository", m[1]))
			continue
		}
		named[m[1]] = true
		for part := range strings.SplitSeq(strings.TrimPrefix(m[2], "/"), "/") {
			if part != "" && !slices.Contains(texts, part) {
				found = append(found, fmt.Sprintf("%s has no subtest %q", m[1], part))
			}
		}
	}
	rows := map[string]string{}
	for _, m := range tableRow.FindAllStringSubmatch(page, -1) {
		if _, twice := rows[m[1]]; twice {
			found = append(found, fmt.Sprintf("there are two rows %s", m[1]))
		}
		rows[m[1]] = m[2]
	}
	for _, id := range asvsLines {
		row, ok := rows[id]
		ours := !strings.Contains(row, "| app |")
		switch {
		case !ok:
			found = append(found, fmt.Sprintf("requirement %s is missing", id))
		case ours && !testName.MatchString(row) && !strings.Contains(row, notThere):
			found = append(found, fmt.Sprintf("requirement %s is the library's, but no test proves it; name one, or say %q", id, notThere))
		}
	}
	for n := range faults {
		id := strconv.Itoa(n + 1)
		if row, ok := rows[id]; !ok {
			found = append(found, fmt.Sprintf("fault %s is missing", id))
		} else if !strings.Contains(row, fmt.Sprintf("`TestFault%02d", n+1)) {
			found = append(found, fmt.Sprintf("fault %s has no regression test of its number", id))
		}
	}
	for name := range tests {
		if faultTest.MatchString(name) && !named[name] {
			found = append(found, fmt.Sprintf("%s is not on the page", name))
		}
	}
	slices.Sort(found)
	return found
}
