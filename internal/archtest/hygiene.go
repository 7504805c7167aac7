package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	goversion "go/version"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// goLanguage is the version of Go that every module is written in.
const goLanguage = "go1.26"

// flaw is a text that no committed file may hold.
type flaw struct {
	text *regexp.Regexp
	why  string
	// example is a line with the flaw and allowed one that only resembles it;
	// both are in pieces so that this file is clean.
	example, allowed string
}

var flaws = []flaw{
	{
		text:    regexp.MustCompile(`(^|[^\w.)}/-])/(home/\w|Users/\w|root/|tmp/|work/|workspace/)`),
		why:     "a path of somebody's machine means nothing on another's",
		example: "see /" + "home/gopher/notes",
		allowed: "https://example.com/" + "home/page",
	},
	{
		text:    regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`),
		why:     "what is left to do is an issue, not a comment",
		example: "// TO" + "DO: later",
		allowed: "ctx := context.TO" + "DO()",
	},
	{
		text:    regexp.MustCompile(`^(<{7}|>{7}) `),
		why:     "a merge was not finished",
		example: "<<<<" + "<<< HEAD",
		allowed: "a << 7",
	},
}

// in returns the flaw if the line has it.
func (f flaw) in(line string) bool {
	return f.text.MatchString(strings.ReplaceAll(line, "context.TO"+"DO", ""))
}

// textFile is a committed file that is text, by its path from the root.
type textFile struct {
	path string
	data []byte
}

// texts returns the text files of the tree but for sums, which are hashes, and
// what .gitignore leaves out.
func texts(tree fs.FS) ([]textFile, error) {
	var files []textFile
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == ".git" || path == ".cache" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.Type().IsRegular(), strings.HasSuffix(path, ".sum"), strings.HasSuffix(path, ".out"), strings.HasSuffix(path, ".test"):
			return nil
		}
		data, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		if !bytes.Contains(data, []byte{0}) {
			files = append(files, textFile{path, data})
		}
		return nil
	})
	return files, err
}

// flawsOf lists what no committed file may hold and this one does.
func flawsOf(f textFile) []string {
	var found []string
	for n, line := range strings.Split(string(f.data), "\n") {
		for _, flaw := range flaws {
			if flaw.in(line) {
				found = append(found, fmt.Sprintf("%s:%d: %s\n\tforbidden: %s", f.path, n+1, strings.TrimSpace(line), flaw.why))
			}
		}
	}
	return found
}

var (
	codeBlock    = regexp.MustCompile("(?ms)^```.*?^```$")
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// brokenLinks lists the relative links of a Markdown file that lead nowhere.
func brokenLinks(tree fs.FS, f textFile) []string {
	var found []string
	text := codeBlock.ReplaceAllString(string(f.data), "")
	for _, m := range markdownLink.FindAllStringSubmatch(text, -1) {
		target, _, _ := strings.Cut(m[1], "#")
		if target == "" || strings.Contains(target, ":") {
			continue // a place on the same page, or another site
		}
		path := filepath.ToSlash(filepath.Join(filepath.Dir(f.path), target))
		if _, err := fs.Stat(tree, path); err != nil {
			found = append(found, fmt.Sprintf("%s links to %s, which is not there", f.path, m[1]))
		}
	}
	return found
}

// flawsOfModule lists what is wrong with a go.mod or go.work.
func flawsOfModule(name string, mod modFile) []string {
	var found []string
	if goversion.Lang("go"+mod.Go) != goLanguage {
		found = append(found, fmt.Sprintf("%s says go %s, want %s", name, mod.Go, strings.TrimPrefix(goLanguage, "go")))
	}
	if mod.Toolchain != "" {
		found = append(found, fmt.Sprintf("%s names the toolchain %s: builds would download it", name, mod.Toolchain))
	}
	for _, r := range mod.Replace {
		if !within("./...", short(r.Old.Path)) || !strings.HasPrefix(r.New.Path, ".") {
			found = append(found, fmt.Sprintf("%s replaces %s by %s: only modules of ours are replaced, by their relative folder", name, r.Old.Path, r.New.Path))
		}
	}
	return found
}

// importable reports whether other people's code may import the package: those
// are the ones that need an example.
func (l listed) importable() bool {
	path := short(l.ImportPath)
	return anyWithin([]string{"./session/...", "./store/..."}, path) && l.Name != "main" &&
		!strings.Contains(path+"/", "/internal/")
}

// hasExample reports whether one of the test files holds an example that go test
// runs, which is one that states its output. Of a package that is called with a
// *testing.T it is enough that the example compiles: none can be had there.
func hasExample(files []*ast.File, forTests bool) bool {
	for _, e := range doc.Examples(files...) {
		if forTests || e.Output != "" || e.EmptyOutput {
			return true
		}
	}
	return false
}

// forTests reports whether a package is one that tests call.
func (l listed) forTests() bool { return slices.Contains(l.Imports, "testing") }

// testFiles parses the test files of a package.
func (l listed) testFiles() ([]*ast.File, error) {
	var files []*ast.File
	for _, name := range slices.Concat(l.TestGoFiles, l.XTestGoFiles) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(l.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
