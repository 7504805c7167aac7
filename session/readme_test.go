package session_test

import (
	"os"
	"strings"
	"testing"
)

// TestReadmeProgram: the program in the README is the one that is compiled here.
func TestReadmeProgram(t *testing.T) {
	readme := string(must(os.ReadFile("../README.md"))(t))
	_, program, ok := strings.Cut(readme, "```go\npackage main\n")
	program, _, closed := strings.Cut(program, "```\n")
	if !ok || !closed {
		t.Fatal("README.md has no program")
	}
	example := string(must(os.ReadFile("example_app_test.go"))(t))
	example = strings.TrimPrefix(example, "package session_test\n")
	example = strings.Replace(example, "func Example_app()", "func main()", 1)
	if program != example {
		t.Errorf("README.md says:\n%s\nexample_app_test.go says:\n%s", program, example)
	}
}
