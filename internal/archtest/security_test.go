package archtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSecurityPage: what docs/security.md claims for the library is proven by
// tests that exist.
func TestSecurityPage(t *testing.T) {
	r := load(t)
	page, err := os.ReadFile(filepath.Join(r.dir, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := texts(os.DirFS(r.dir))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := testFuncs(files)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := tests["TestSecurityPage"]; !ok {
		t.Fatal("this test is not among those found: the wrong tree was read")
	}
	for _, v := range flawsOfSecurityPage(string(page), tests) {
		t.Errorf("docs/security.md: %s", v)
	}
}

func TestSecurityPageCanFail(t *testing.T) {
	tests, err := testFuncs([]textFile{{"a/a_test.go", []byte(`package a

func TestA(t *testing.T) { t.Run("one way", f) }
func Testing() {}
func helper() {}
func (x) TestMethod() {}
func FuzzA(f *testing.F) {}
func TestFault01A(t *testing.T) {}
func TestFault02A(t *testing.T) {}
`)}, {"a/a.go", []byte("package a\n\nfunc TestNot() {}\n")}})
	if err != nil {
		t.Fatal(err)
	}
	var good strings.Builder
	for _, id := range asvsLines {
		fmt.Fprintf(&good, "| %s | is so | both | `TestA/one way`, `FuzzA` |\n", id)
	}
	for n := range faults {
		name := fmt.Sprintf("TestFault%02dA", n+1)
		tests[name] = nil
		fmt.Fprintf(&good, "| %d | went wrong | `%s` |\n", n+1, name)
	}
	if v := flawsOfSecurityPage(good.String(), tests); v != nil {
		t.Errorf("a page without flaws: %q", v)
	}
	for _, tc := range []struct{ old, by, want string }{
		{"`FuzzA`", "`FuzzB`", "FuzzB is no test of this repository"},
		{"`FuzzA`", "`TestMethod`", "TestMethod is no test of this repository"},
		{"`FuzzA`", "`TestNot`", "TestNot is no test of this repository"},
		{"`TestA/one way`", "`TestA/another way`", `TestA has no subtest "another way"`},
		{"| 7.2.3 | is so | both | `TestA/one way`, `FuzzA` |", "", "requirement 7.2.3 is missing"},
		{"| 7.2.3 | is so | both | `TestA/one way`, `FuzzA` |", "| 7.2.3 | is so | both | – |", `requirement 7.2.3 is the library's, but no test proves it; name one, or say "Not there yet"`},
		{"| 7.2.3 | is so | both | `TestA/one way`, `FuzzA` |", "| 7.2.3 | is so | app | – |", ""},
		{"| 7.2.3 | is so | both | `TestA/one way`, `FuzzA` |", "| 7.2.3 | is so | both | Not there yet |", ""},
		{"| 7.2.3 |", "| 7.2.2 |", "requirement 7.2.3 is missing"},
		{"`TestFault09A`", "`TestFault08A`", "fault 9 has no regression test of its number"},
		{"| 9 |", "| 16 |", "fault 9 is missing"},
	} {
		page := strings.ReplaceAll(good.String(), tc.old, tc.by)
		if page == good.String() {
			t.Fatalf("%q is not on the page", tc.old)
		}
		v := flawsOfSecurityPage(page, tests)
		if tc.want == "" && v != nil || tc.want != "" && !slices.Contains(v, tc.want) {
			t.Errorf("with %q for %q: %q, want %q", tc.by, tc.old, v, tc.want)
		}
	}
	tests["TestFault01B"] = nil
	if v := flawsOfSecurityPage(good.String(), tests); !slices.Equal(v, []string{"TestFault01B is not on the page"}) {
		t.Errorf("a regression test that the page forgot: %q", v)
	}
}
