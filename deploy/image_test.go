//go:build unix

package deploy_test

import (
	"bufio"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

const (
	repository = ".."
	dockerfile = "docker/Dockerfile"
)

// instruction is a line of a Dockerfile.
type instruction struct {
	name  string // in capitals
	flags []string
	args  []string
	exec  bool // its arguments are JSON
	line  int
}

func parseDockerfile(t *testing.T) (stages [][]instruction) {
	t.Helper()
	f, err := os.Open(dockerfile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	result, err := parser.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range result.Warnings {
		t.Errorf("%s: %s", dockerfile, w.Short)
	}
	for _, n := range result.AST.Children {
		in := instruction{name: strings.ToUpper(n.Value), flags: n.Flags, exec: n.Attributes["json"], line: n.StartLine}
		for arg := n.Next; arg != nil; arg = arg.Next {
			in.args = append(in.args, arg.Value)
		}
		if in.name == "FROM" {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("%s:%d: %s before the first FROM", dockerfile, in.line, in.name)
		}
		stages[len(stages)-1] = append(stages[len(stages)-1], in)
	}
	return stages
}

// all returns the instructions of that name.
func all(stage []instruction, name string) (found []instruction) {
	for _, in := range stage {
		if in.name == name {
			found = append(found, in)
		}
	}
	return found
}

// one returns the arguments of the one instruction of that name.
func one(t *testing.T, stage []instruction, name string) instruction {
	t.Helper()
	found := all(stage, name)
	if len(found) != 1 {
		t.Fatalf("%s has %d times %s, want it once", dockerfile, len(found), name)
	}
	return found[0]
}

// ignored returns what the .dockerignore leaves out of the context.
func ignored(t *testing.T) *patternmatcher.PatternMatcher {
	t.Helper()
	f, err := os.Open(dockerfile + ".dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// copyContext does what COPY does, below root, and fails if there is nothing to copy.
func copyContext(t *testing.T, in instruction, root, workdir string) {
	t.Helper()
	m := ignored(t)
	sources, dest := in.args[:len(in.args)-1], in.args[len(in.args)-1]
	for _, source := range sources {
		copied := 0
		err := filepath.WalkDir(filepath.Join(repository, source), func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, err := filepath.Rel(repository, file)
			if err != nil {
				return err
			}
			if skip, err := m.MatchesOrParentMatches(name); err != nil || skip || !d.Type().IsRegular() {
				return err
			}
			to := filepath.Join(root, workdir, dest, strings.TrimPrefix(name, source))
			if strings.HasSuffix(dest, "/") {
				to = filepath.Join(root, workdir, dest, name)
			}
			copied++
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return os.WriteFile(to, b, 0o644)
		})
		if err != nil || copied == 0 {
			t.Fatalf("%s:%d: COPY %s copies %d files, %v: it is not there, or .dockerignore leaves it out", dockerfile, in.line, source, copied, err)
		}
	}
}

// buildImage does what an engine would with the Dockerfile, as far as there is none, and
// returns the image's folder. What other images bring is left out.
func buildImage(t *testing.T, dir string) string {
	t.Helper()
	stages := parseDockerfile(t)
	if len(stages) != 2 {
		t.Fatalf("%d stages, want one that builds and one that runs", len(stages))
	}
	build, final := stages[0], stages[1]
	root, image := filepath.Join(dir, "build"), filepath.Join(dir, "image")
	workdir := one(t, build, "WORKDIR").args[0]
	for _, in := range all(build, "COPY") {
		copyContext(t, in, root, workdir)
	}
	env := os.Environ()
	for _, in := range all(build, "ENV") {
		// As name, value and "=" in turn.
		for i := 0; i+1 < len(in.args); i += 3 {
			// The caches are this machine's, for else everything would be fetched again.
			if name := in.args[i]; name != "GOCACHE" && name != "GOMODCACHE" {
				env = append(env, name+"="+in.args[i+1])
			}
		}
	}
	run := one(t, build, "RUN")
	command := strings.Join(run.args, " ")
	if !strings.Contains(command, "-o /out/") {
		t.Fatalf("%s:%d: the command writes nothing to /out: %s", dockerfile, run.line, command)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience) // it may compile everything
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", strings.ReplaceAll(command, "-o /out/", "-o "+root+"/out/"))
	cmd.Dir, cmd.Env = filepath.Join(root, workdir), env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}

	if from := one(t, final, "FROM").args[0]; from != "scratch" {
		t.Errorf("the image is made from %s, which has more in it than is needed", from)
	}
	for _, in := range all(final, "COPY") {
		if !slices.Equal(in.flags, []string{"--from=build"}) || len(in.args) != 2 {
			t.Fatalf("%s:%d: the image is copied from elsewhere than the build", dockerfile, in.line)
		}
		source, to := filepath.Join(root, in.args[0]), filepath.Join(image, in.args[1])
		if strings.HasSuffix(in.args[1], "/") {
			to = filepath.Join(to, path.Base(in.args[0]))
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		switch _, err := os.Stat(source); {
		case err == nil:
			if err := os.Rename(source, to); err != nil {
				t.Fatal(err)
			}
		case in.args[0] == "/etc/ssl/certs/ca-certificates.crt": // of the image that builds
		default:
			t.Errorf("%s:%d: %s is not what the build has made", dockerfile, in.line, in.args[0])
		}
	}
	return image
}

var imageDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "coatcheck-deploy-") })

// image returns the folder with the image's files, built once.
func image(t *testing.T) string {
	t.Helper()
	dir, err := imageDir()
	if err != nil {
		t.Fatal(err)
	}
	built.Do(func() { buildImage(t, dir); complete = true })
	if !complete {
		t.Fatal("the image could not be built: the first test that wanted it says why")
	}
	return filepath.Join(dir, "image")
}

var (
	built    sync.Once
	complete bool
)

func TestMain(m *testing.M) {
	status := m.Run()
	if dir, err := imageDir(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(status)
}

// notShort skips where nobody wants to wait for a compiler, which is anywhere but in the
// soak: this build shares nothing with others.
func notShort(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Getenv("COATCHECK_SOAK") != "1" {
		t.Skip("builds the command as its image does, for half a minute: COATCHECK_SOAK=1 go test -C deploy .")
	}
}

// started waits for the line that says where a server listens, and asks whether it is
// ready.
func started(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("it said: %s", &stderr)
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	_, address, ok := strings.Cut(strings.TrimSpace(line), " ready: ")
	if err != nil || !ok {
		t.Errorf("%s did not start: %q, %v", cmd, line, err)
		return
	}
	resp, err := http.Get(address + "/readyz")
	if err != nil {
		t.Error(err)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/readyz is %s", resp.Status)
	}
}

func TestSoakImage(t *testing.T) {
	notShort(t)
	if runtime.GOOS != "linux" {
		t.Skip("an image is for Linux")
	}
	root := image(t)
	final := parseDockerfile(t)[1]

	user := one(t, final, "USER").args[0]
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
		t.Errorf("USER %s: Kubernetes cannot tell that it is not root", user)
	}
	entry, args := one(t, final, "ENTRYPOINT"), one(t, final, "CMD")
	if !entry.exec || !args.exec || len(entry.args) != 1 {
		t.Fatal("ENTRYPOINT and CMD need a shell, which is not there; signals would end that")
	}
	if n := len(all(final, "HEALTHCHECK")); n > 0 {
		t.Error("a HEALTHCHECK runs in the image, where there is no program for it")
	}
	bin := filepath.Join(root, entry.args[0])
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatalf("the entry point is not in the image: %v", err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("the command needs a loader, which is not in the image")
	}

	var words []string
	for _, a := range args.args {
		words = append(words, strings.ReplaceAll(a, "0.0.0.0:8080", "127.0.0.1:0"))
	}
	if slices.Equal(words, args.args) {
		t.Error("the server does not listen at 0.0.0.0:8080")
	}
	if exposed := one(t, final, "EXPOSE").args; !slices.Equal(exposed, []string{"8080"}) {
		t.Errorf("EXPOSE %v, and it listens at 8080", exposed)
	}
	cmd := exec.Command(bin, words...)
	cmd.Env = []string{"COATCHECK_STORE=memory:"}
	cmd.Dir = root
	if os.Getuid() == 0 {
		// With nothing but what is in the image, as whom it says.
		for dir := root; dir != filepath.Dir(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
			if info, err := os.Stat(dir); err == nil {
				_ = os.Chmod(dir, info.Mode().Perm()|0o055)
			}
		}
		cmd = exec.Command(entry.args[0], words...)
		cmd.Env, cmd.Dir = []string{"COATCHECK_STORE=memory:"}, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		var id syscall.Credential
		if _, err := fmt.Sscanf(user, "%d:%d", &id.Uid, &id.Gid); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr.Credential = &id
	}
	started(t, cmd)
}

// TestSoakFlags finds flags that the command does not have: of the image, of Kubernetes and
// of systemd.
func TestSoakFlags(t *testing.T) {
	notShort(t)
	help, err := exec.Command(filepath.Join(image(t), "coatcheck"), "serve", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	flag := regexp.MustCompile(`--[a-z][a-z-]*`)
	known := flag.FindAllString(string(help), -1)
	look := func(where string, words []string) {
		t.Helper()
		if !slices.Contains(words, "serve") {
			t.Errorf("%s does not run serve: %q", where, words)
		}
		for _, f := range flag.FindAllString(strings.Join(words, " "), -1) {
			if !slices.Contains(known, f) {
				t.Errorf("%s has %s, which serve does not know", where, f)
			}
		}
	}
	look(dockerfile, one(t, parseDockerfile(t)[1], "CMD").args)
	for name, d := range decode(readFolder(t, "kubernetes")).deployments {
		look("Deployment "+name, d.Spec.Template.Spec.Containers[0].Args)
	}
	look(service, strings.Fields(unit(t, service)["ExecStart"][0]))
}

// freePort returns a port at which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
