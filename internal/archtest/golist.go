package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// repository is what the go command says of the checkout.
type repository struct {
	dir      string
	modules  []module
	packages []listed // ours, with those they depend on
}

// module is a module of the workspace.
type module struct {
	Path string // in short form
	Dir  string
	mod  modFile
}

// modFile is the part that matters of `go mod edit -json` and `go work edit
// -json`.
type modFile struct {
	Go        string
	Toolchain string
	Require   []struct{ Path string }
	Replace   []struct {
		Old, New struct{ Path, Version string }
	}
}

// listed is the part that matters of `go list -json`.
type listed struct {
	ImportPath   string
	Name         string
	Doc          string
	Dir          string
	Standard     bool
	Module       *struct{ Path string }
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
}

// open reads the repository whose root folder is dir, with the modules of its
// go.work whatever the environment says.
func open(dir string) (*repository, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &repository{dir: dir}
	out, err := r.run("list", "-m", "-json=Path,Dir")
	if err != nil {
		return nil, err
	}
	if r.modules, err = decodeAll[module](out); err != nil {
		return nil, err
	}
	args := []string{"list", "-deps", "-json=ImportPath,Name,Doc,Dir,Standard,Module,Imports,TestImports,XTestImports,GoFiles,TestGoFiles,XTestGoFiles"}
	for i := range r.modules {
		m := &r.modules[i]
		args = append(args, m.Path+"/...")
		m.Path = short(m.Path)
		if m.mod, err = r.readMod(filepath.Join(m.Dir, "go.mod")); err != nil {
			return nil, err
		}
	}
	if out, err = r.run(args...); err != nil {
		return nil, err
	}
	if r.packages, err = decodeAll[listed](out); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *repository) readMod(file string) (modFile, error) {
	var mod modFile
	kind := "mod"
	if filepath.Ext(file) == ".work" {
		kind = "work"
	}
	out, err := r.run(kind, "edit", "-json", file)
	if err != nil {
		return mod, err
	}
	return mod, json.Unmarshal(out, &mod)
}

func (r *repository) run(args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GOWORK="+filepath.Join(r.dir, "go.work"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args[:2], " "), err, stderr.Bytes())
	}
	return out, nil
}

// graph is what the rules are applied to.
func (r *repository) graph() graph {
	g := graph{}
	for _, l := range r.packages {
		p := &pkg{
			path:        short(l.ImportPath),
			standard:    l.Standard,
			imports:     shorten(l.Imports),
			testImports: shorten(slices.Concat(l.TestImports, l.XTestImports)),
		}
		if l.Module != nil {
			p.module = short(l.Module.Path)
		}
		g[p.path] = p
	}
	return g
}

// requires maps each module to what its go.mod requires.
func (r *repository) requires() map[string][]string {
	all := map[string][]string{}
	for _, m := range r.modules {
		all[m.Path] = nil
		for _, q := range m.mod.Require {
			all[m.Path] = append(all[m.Path], short(q.Path))
		}
	}
	return all
}

func shorten(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = short(p)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// decodeAll reads the objects that the go command prints one after another.
func decodeAll[T any](data []byte) ([]T, error) {
	var all []T
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var v T
		switch err := dec.Decode(&v); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, v)
	}
}
