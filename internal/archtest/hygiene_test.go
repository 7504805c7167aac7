package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"
)

func TestFiles(t *testing.T) {
	tree := os.DirFS(load(t).dir)
	files, err := texts(tree)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d files: the wrong tree was read", len(files))
	}
	for _, f := range files {
		for _, v := range flawsOf(f) {
			t.Error(v)
		}
		if path.Ext(f.path) == ".md" {
			for _, v := range brokenLinks(tree, f) {
				t.Error(v)
			}
		}
	}
}

func TestModules(t *testing.T) {
	r := load(t)
	work, err := r.readMod(filepath.Join(r.dir, "go.work"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range flawsOfModule("go.work", work) {
		t.Error(v)
	}
	for _, m := range r.modules {
		for _, v := range flawsOfModule(m.Path, m.mod) {
			t.Error(v)
		}
	}
}

// TestWorkspaceIsWhole finds modules that go.work forgot: the gate would never
// look at them. The lint tools alone stay out, to keep their dependencies out of
// everybody's versions.
func TestWorkspaceIsWhole(t *testing.T) {
	r := load(t)
	files, err := texts(os.DirFS(r.dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if path.Base(f.path) != "go.mod" || f.path == "tools/go.mod" {
			continue
		}
		dir := filepath.Join(r.dir, path.Dir(f.path))
		if !slices.ContainsFunc(r.modules, func(m module) bool { return m.Dir == dir }) {
			t.Errorf("%s is not in go.work", f.path)
		}
	}
}

func TestPackages(t *testing.T) {
	for _, l := range load(t).packages {
		if !within("./...", short(l.ImportPath)) || len(l.GoFiles) == 0 {
			continue
		}
		if l.Doc == "" {
			t.Errorf("%s has no package comment", short(l.ImportPath))
		}
		if !l.importable() {
			continue
		}
		files, err := l.testFiles()
		if err != nil {
			t.Fatal(err)
		}
		if !hasExample(files, l.forTests()) {
			t.Errorf("%s has no example that go test compiles and, unless it is called by tests, runs", short(l.ImportPath))
		}
	}
}

func TestFlawsCanFail(t *testing.T) {
	for _, f := range flaws {
		if !f.in(f.example) {
			t.Errorf("%q passes, but: %s", f.example, f.why)
		}
		if f.in(f.allowed) {
			t.Errorf("%q does not pass, as if: %s", f.allowed, f.why)
		}
	}
	tree := fstest.MapFS{
		"a/clean.md":    {Data: []byte("[b](../b.go#L1) [page](#here) [site](https://example.com)\n")},
		"a/broken.md":   {Data: []byte("[c](c.go)\n")},
		"b.go":          {Data: []byte("package b\n\n// TO" + "DO\n")},
		"image.png":     {Data: []byte("\x00 TO" + "DO")},
		"go.sum":        {Data: []byte("/" + "tmp/hash=")},
		".cache/x.json": {Data: []byte("/" + "tmp/x")},
	}
	files, err := texts(tree)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		found = append(found, flawsOf(f)...)
		found = append(found, brokenLinks(tree, f)...)
	}
	want := []string{
		"a/broken.md links to c.go, which is not there",
		"b.go:3: // TO" + "DO\n\tforbidden: what is left to do is an issue, not a comment",
	}
	if !slices.Equal(found, want) {
		t.Errorf("got %q, want %q", found, want)
	}
}

func TestModuleFlawsCanFail(t *testing.T) {
	type version = struct{ Path, Version string }
	type replace = []struct{ Old, New version }
	for name, mod := range map[string]modFile{
		"an older Go":              {Go: "1.25"},
		"a toolchain":              {Go: "1.26", Toolchain: "go1.26.3"},
		"a fork of somebody else":  {Go: "1.26", Replace: replace{{Old: version{Path: "example.com/x"}, New: version{Path: "../x"}}}},
		"a folder of this machine": {Go: "1.26", Replace: replace{{Old: version{Path: root}, New: version{Path: "/" + "home/x"}}}},
	} {
		if len(flawsOfModule("go.mod", mod)) != 1 {
			t.Errorf("%s passes", name)
		}
	}
	for _, version := range []string{"1.26", "1.26.0"} {
		if v := flawsOfModule("go.mod", modFile{Go: version}); v != nil {
			t.Errorf("go %s: %q", version, v)
		}
	}
}

func TestExamplesCanBeMissed(t *testing.T) {
	for _, tc := range []struct {
		src            string
		compiles, runs bool
	}{
		{"package x_test\n\nfunc Example() {\n\tprintln()\n\t// Output: a\n}\n", true, true},
		{"package x_test\n\nfunc Example() {\n\tprintln()\n\t// Output:\n}\n", true, true},
		{"package x_test\n\nfunc Example() {}\n", true, false},
		{"package x_test\n\nfunc TestX() {}\n", false, false},
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x_test.go", tc.src, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files := []*ast.File{f}
		if hasExample(files, true) != tc.compiles || hasExample(files, false) != tc.runs {
			t.Errorf("has an example: %t, one that runs: %t; want %t, %t for:\n%s",
				hasExample(files, true), hasExample(files, false), tc.compiles, tc.runs, tc.src)
		}
	}
}
