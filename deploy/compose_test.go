package deploy_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose loads the file as Compose does, which refuses what its schema does not know.
// The secrets, which are not committed, are in the folder.
func compose(t *testing.T, change func(string) string) (*types.Project, error) {
	t.Helper()
	b, err := os.ReadFile("compose/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	env := regexp.MustCompile(`(?m)^#   app\.env +(\S+)$`).FindSubmatch(b)
	if env == nil {
		t.Fatal("the file does not say what is in app.env")
	}
	if err := os.WriteFile(filepath.Join(dir, "secrets", "app.env"), env[1], 0o600); err != nil {
		t.Fatal(err)
	}
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml"), Content: []byte(change(string(b)))}},
	})
}

func TestCompose(t *testing.T) {
	if _, err := compose(t, func(s string) string { return strings.Replace(s, "read_only:", "readonly:", 1) }); err == nil {
		t.Error("a field that does not exist passes")
	}
	p, err := compose(t, func(s string) string { return s })
	if err != nil {
		t.Fatal(err)
	}
	caddyfile, err := os.ReadFile("caddy/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(caddyfile), "reverse_proxy") != strings.Count(string(caddyfile), "{$UPSTREAMS:") {
		t.Error("the Caddyfile has servers that Compose cannot name")
	}
	var upstreams []string
	if u := p.Services["proxy"].Environment["UPSTREAMS"]; u != nil {
		upstreams = strings.Fields(*u)
	}
	command := one(t, parseDockerfile(t)[1], "CMD").args
	takes := time.Duration(0)
	for _, flag := range []string{"--drain-delay=", "--drain-timeout="} {
		i := slices.IndexFunc(command, func(a string) bool { return strings.HasPrefix(a, flag) })
		if i < 0 {
			t.Fatalf("the image's command has no %s", flag)
		}
		d, err := time.ParseDuration(strings.TrimPrefix(command[i], flag))
		if err != nil {
			t.Fatal(err)
		}
		takes += d
	}
	apps := 0
	for name, s := range p.Services {
		if len(s.Ports) > 0 && name != "proxy" {
			t.Errorf("%s can be reached from outside", name)
		}
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged {
			t.Errorf("%s may do more than it needs", name)
		}
		if s.HealthCheck == nil && s.Image != "coatcheck" {
			t.Errorf("nobody asks whether %s is well", name)
		}
		for _, secret := range s.Secrets {
			if _, ok := p.Secrets[secret.Source]; !ok {
				t.Errorf("%s wants the secret %s, which is not there", name, secret.Source)
			}
		}
		if max := megabytes(strings.Join(s.Command, " ")); name == "store" && (max == 0 || 2*max > int64(s.MemLimit)) {
			t.Errorf("the store keeps %d bytes of %d, and has no room to fork", max, s.MemLimit)
		}
		_, front := s.Networks["front"]
		_, store := s.Networks["store"]
		switch {
		case name == "proxy" && store, name == "store" && front:
			t.Errorf("%s reaches the network that it has no business in", name)
		case s.Image == "coatcheck":
			apps++
			if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < takes+5*time.Second {
				t.Errorf("%s may take %v to drain, and some seconds to close the store; it is given %v", name, takes, s.StopGracePeriod)
			}
			if d, ok := s.DependsOn["store"]; !ok || d.Condition != types.ServiceConditionHealthy {
				t.Errorf("%s starts before its store", name)
			}
			if !front || !store || !slices.Contains(upstreams, name+":8080") {
				t.Errorf("%s is not where Caddy looks for it", name)
			}
			if u := s.Environment["COATCHECK_STORE"]; u == nil || !strings.Contains(*u, "@store?") {
				t.Errorf("%s has another store than the service", name)
			}
		}
	}
	if apps != len(upstreams) {
		t.Errorf("%d servers, and Caddy has %d", apps, len(upstreams))
	}
	for name, n := range p.Networks {
		if len(n.Ipam.Config) > 0 {
			t.Errorf("the network %s has addresses that may be those of the machine's own", name)
		}
	}
	if !p.Networks["store"].Internal {
		t.Error("the store can reach the internet")
	}
	for _, s := range p.Secrets {
		if !strings.HasPrefix(s.File, "secrets/") && filepath.Base(filepath.Dir(s.File)) != "secrets" {
			t.Errorf("%s is outside of the folder that is never committed", s.File)
		}
	}
}

// TestStoreUsers holds the users of the store to the rights that package redisstore
// says it needs.
func TestStoreUsers(t *testing.T) {
	doc, err := os.ReadFile("../store/redisstore/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rights, _ := strings.Cut(string(doc), "# Rights\n")
	rights, _, _ = strings.Cut(rights, "In a Redis before")
	needs := regexp.MustCompile(`\+[a-z]\S*`).FindAllString(rights, -1)
	if len(needs) < 20 {
		t.Fatalf("package redisstore needs only %q: its documentation is written otherwise now", needs)
	}
	for _, file := range []string{"kubernetes/secrets.example.yaml", "compose/users.acl.example"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		has := strings.Fields(string(b))
		for _, right := range append(needs, "-@all", "resetchannels") {
			if !slices.Contains(has, right) {
				t.Errorf("%s: the user lacks %s", file, right)
			}
		}
	}
}
