package up_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/up"
)

func parse(t *testing.T, s string) storeurl.URL {
	t.Helper()
	u, err := storeurl.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func config(t *testing.T) up.Config {
	return up.Config{
		Listen: "127.0.0.1:0", Admin: "127.0.0.1:0", Workers: 3,
		Store: parse(t, "sqlite:"+filepath.Join(t.TempDir(), "s.db")),
	}
}

func TestValidateNamesTheFlag(t *testing.T) {
	for _, tt := range []struct {
		change func(*up.Config)
		want   string // "" is no error
	}{
		{func(*up.Config) {}, ""},
		{func(c *up.Config) { c.Workers = 1; c.Store = parse(t, "memory:") }, ""},
		{func(c *up.Config) { c.Store = parse(t, "memory:") }, "--store: memory: is the memory of one process"},
		{func(c *up.Config) { c.NearCache = true }, ""},
		{func(c *up.Config) { c.NearCache = true; c.Workers = 1; c.Store = parse(t, "memory:") }, "--near-cache: memory: is in the server's own memory"},
		{func(c *up.Config) { c.NearCache = true; c.Store = parse(t, "redis://localhost") }, ""},
		{func(c *up.Config) { c.Workers = 0 }, "--workers: "},
		{func(c *up.Config) { c.Workers = 101 }, "--workers: "},
		{func(c *up.Config) { c.TLSKey = "key.pem" }, "--tls-cert and --tls-key"},
		{func(c *up.Config) { c.Listen = "localhost" }, "--listen: "},
		{func(c *up.Config) { c.Admin = "192.168.0.1:8081" }, "--admin: "},
		{func(c *up.Config) { c.Admin = "8081" }, "--admin: "},
	} {
		c := config(t)
		tt.change(&c)
		err := c.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
			t.Errorf("Validate of %+v = %v, want %q", c, err, tt.want)
		}
	}
}

func run(ctx context.Context, c up.Config) error {
	return up.Run(ctx, ctx, c, console.New(io.Discard, false), slog.New(slog.DiscardHandler), func(up.Running) error {
		return errors.New("ready")
	})
}

// The workers of these tests would be the test binary, which is none: what
// Run does with workers is tested with the real command.
func TestRunFailsBeforeItStartsAnything(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		change func(*up.Config)
		want   string
	}{
		{func(c *up.Config) { c.Listen = taken.Addr().String() }, "--listen " + taken.Addr().String() + ": "},
		{func(c *up.Config) { c.Admin = taken.Addr().String() }, "--admin " + taken.Addr().String() + ": "},
		{func(c *up.Config) { c.TLSCert, c.TLSKey = "nowhere.pem", "nowhere.key" }, "--tls-cert, --tls-key: "},
		{func(c *up.Config) { c.NoMigrate = true }, "session store: "},
	} {
		c := config(t)
		tt.change(&c)
		if err := run(t.Context(), c); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("Run = %v, want %q", err, tt.want)
		}
	}
}

func TestRunFailsWithTheWorker(t *testing.T) {
	c := config(t)
	c.WorkerArgs = []string{"-test.run", "^$", "-nonsense"}
	if err := run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "did not start: exit status 2") {
		t.Errorf("Run = %v, want that a worker did not start", err)
	}
}

func ExampleConfig_Validate() {
	u, err := storeurl.Parse("memory:")
	if err != nil {
		fmt.Println(err)
		return
	}
	err = up.Config{Listen: "127.0.0.1:8080", Admin: "0.0.0.0:8081", Workers: 1, Store: u}.Validate()
	fmt.Println(err)
	// Output:
	// --admin: "0.0.0.0:8081" can be reached from other machines, and whoever reaches the admin port can kill processes; use 127.0.0.1, and an SSH tunnel to come from elsewhere
}
