//go:build unix

package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/unit"
)

const (
	service = "systemd/coatcheck@.service"
	target  = "systemd/coatcheck.target"
)

// unit returns the directives of a unit, whatever their section.
func unit(t *testing.T, file string) map[string][]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	options, err := systemd.DeserializeOptions(f)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	all := make(map[string][]string)
	for _, o := range options {
		all[o.Name] = append(all[o.Name], o.Value)
	}
	return all
}

func TestSystemdUnitsFitTogether(t *testing.T) {
	s := unit(t, service)
	command := s["ExecStart"][0]
	takes := time.Duration(0)
	for _, flag := range []string{"--drain-delay", "--drain-timeout"} {
		m := regexp.MustCompile(flag + `[ =](\S+)`).FindStringSubmatch(strings.TrimSuffix(command, "'"))
		if m == nil {
			t.Fatalf("the command has no %s", flag)
		}
		d, err := time.ParseDuration(m[1])
		if err != nil {
			t.Fatal(err)
		}
		takes += d
	}
	if stop, err := time.ParseDuration(s["TimeoutStopSec"][0] + "s"); err != nil || stop < takes+5*time.Second {
		t.Errorf("the drain may take %v, and some seconds to close the store; TimeoutStopSec is %v, %v", takes, stop, err)
	}
	for _, w := range strings.Fields(unit(t, target)["Wants"][0]) {
		if !regexp.MustCompile(`^coatcheck@\d+\.service$`).MatchString(w) {
			t.Errorf("%s wants %s, which is no server", target, w)
		}
	}
	if slices.Contains(s["ProcSubset"], "pid") {
		t.Error("Go cannot read how long the queue of connections may be (somaxconn), and takes 128")
	}
	if !slices.Contains(s["PartOf"], filepath.Base(target)) {
		t.Error("stopping the target stops no server")
	}
}

// TestSoakSystemdStartsAServer runs the command of the unit as systemd would: with its
// credentials in a folder, and nothing in its environment but where that is. It does not
// show that the sandbox lets the server work, nor that the store's certificates are found
// there: the store is a file.
func TestSoakSystemdStartsAServer(t *testing.T) {
	notShort(t)
	s := unit(t, service)
	shell := regexp.MustCompile(`^/bin/sh -c '([^']*)'$`).FindStringSubmatch(s["ExecStart"][0])
	if shell == nil {
		t.Fatalf("ExecStart is %s", s["ExecStart"][0])
	}
	const path = "/usr/local/bin/coatcheck"
	if !strings.Contains(shell[1], path) {
		t.Fatalf("ExecStart does not run %s", path)
	}
	credentials := t.TempDir()
	for _, c := range s["LoadCredential"] {
		name, _, _ := strings.Cut(c, ":")
		content := "PEM"
		if name == "store-url" {
			content = "sqlite:sessions.db\n"
		}
		if err := os.WriteFile(filepath.Join(credentials, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line := strings.NewReplacer("$$", "$", "%i", freePort(t), path, filepath.Join(image(t), "coatcheck"), "--no-migrate", "").Replace(shell[1])
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Env = []string{"CREDENTIALS_DIRECTORY=" + credentials, "PATH=/usr/bin:/bin"}
	started(t, cmd)
	if _, err := os.Stat(filepath.Join(credentials, "sessions.db")); err != nil {
		t.Errorf("the server has not used the store of store-url: %v", err)
	}
}

func TestSystemdVerifies(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("COATCHECK_REQUIRE_SERVERS") == "1" {
			t.Fatal("no systemd-analyze here; on Debian: sudo apt-get install -y --no-install-recommends systemd")
		}
		t.Skip("no systemd-analyze here; on Debian: sudo apt-get install -y --no-install-recommends systemd")
	}
	dir := t.TempDir()
	verify := func(change func(string) string) (string, error) {
		t.Helper()
		args := []string{"verify", "--man=no"}
		for _, file := range []string{service, target} {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// It looks whether the command is there.
			text := change(strings.ReplaceAll(string(b), "/usr/local/bin/coatcheck", "/bin/true"))
			path := filepath.Join(dir, filepath.Base(file))
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, path)
		}
		out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(func(s string) string { return strings.Replace(s, "ProtectHome=", "ProtectHomes=", 1) }); !strings.Contains(out, "ProtectHomes") {
		t.Errorf("a directive that does not exist passes: %v\n%s", err, out)
	}
	if out, err := verify(func(s string) string { return s }); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// In tenths, from 0 for what can do nothing to 100 for what can do all.
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=15", filepath.Join(dir, filepath.Base(service))).CombinedOutput()
	if err != nil {
		t.Errorf("the unit may do more than it needs: %v\n%s", err, out)
	}
}
