//go:build unix

package main

import (
	"bytes"
	"database/sql"
	sqldriver "database/sql/driver"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/redis/rueidis"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// examined is what `coatcheck doctor --json` says.
type examined struct {
	Worst    string `json:"worst"`
	Findings []struct {
		Check    string `json:"check"`
		Severity string `json:"severity"`
		Evidence string `json:"evidence"`
		Fix      string `json:"fix"`
	} `json:"findings"`
	Operations []struct {
		Name string `json:"name"`
	} `json:"operations"`
}

// runDoctor examines a store with few rounds, of which the latency says nothing, and
// returns what it says and its status. The environment is the test's, and env.
func runDoctor(t *testing.T, store string, env ...string) (e examined, status int) {
	t.Helper()
	cmd := exec.Command(uptest.Binary(t), "doctor", "--json", "--rounds", "5")
	cmd.Env = append(append(cmd.Environ(), env...), "COATCHECK_STORE="+store)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // the status tells
	if err := json.Unmarshal(stdout.Bytes(), &e); err != nil {
		t.Fatalf("%v; it said:\n%s%s", err, stdout.String(), stderr.String())
	}
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	if password, ok := u.User.Password(); ok && strings.Contains(stdout.String()+stderr.String(), password) {
		t.Error("it shows the password")
	}
	return e, cmd.ProcessState.ExitCode()
}

// wantFindings compares what is worse than unknown, apart from the latency, with
// "check severity" each.
func wantFindings(t *testing.T, e examined, want ...string) {
	t.Helper()
	var got []string
	for _, f := range e.Findings {
		if f.Severity != "warning" && f.Severity != "critical" || f.Check == "latency" {
			continue
		}
		got = append(got, f.Check+" "+f.Severity)
		if f.Fix == "" && f.Check != "operations" {
			t.Errorf("%s has no fix: %s", f.Check, f.Evidence)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("it finds %v; want %v\n%+v", got, want, e.Findings)
	}
}

// TestDoctorFindsWhatIsWrong: on servers that are set up badly on purpose it lists exactly
// that.
func TestDoctorFindsWhatIsWrong(t *testing.T) {
	t.Parallel() // it waits for servers to start
	t.Run("redis", func(t *testing.T) {
		srv := testserver.Start(t, "redis", &testserver.Options{Config: []string{"maxmemory 100mb", "maxmemory-policy allkeys-lru"}})
		e, status := runDoctor(t, srv.URL)
		wantFindings(t, e, "tls warning", "auth critical", "eviction critical", "persistence warning")
		if status != exitCritical || len(e.Operations) != 5 {
			t.Errorf("status %d, %d operations; want %d, and five", status, len(e.Operations), exitCritical)
		}
	})
	t.Run("postgres", func(t *testing.T) {
		srv := testserver.Start(t, "postgres", &testserver.Options{Config: []string{"fsync = off"}})
		e, status := runDoctor(t, srv.URL)
		wantFindings(t, e, "tls warning", "durability critical", "schema critical", "operations critical")
		if status != exitCritical {
			t.Errorf("status %d; want %d", status, exitCritical)
		}
		mustRun(t, srv.URL, "schema", "apply")
		e, _ = runDoctor(t, srv.URL)
		wantFindings(t, e, "tls warning", "durability critical", "privileges warning")
	})
	t.Run("mariadb", func(t *testing.T) {
		srv := testserver.Start(t, "mariadb", &testserver.Options{Config: []string{"innodb_flush_log_at_trx_commit = 2", "sql_mode = ''"}})
		mustRun(t, srv.URL, "schema", "apply")
		e, status := runDoctor(t, srv.URL)
		wantFindings(t, e, "tls warning", "durability warning", "sql-mode warning", "privileges warning")
		if status != exitWarning {
			t.Errorf("status %d; want %d", status, exitWarning)
		}
	})
	t.Run("dynamo", func(t *testing.T) {
		srv := testserver.Start(t, "dynamo", nil)
		e, status := runDoctor(t, srv.URL)
		wantFindings(t, e, "tls warning", "table critical", "schema critical", "operations critical")
		if status != exitCritical {
			t.Errorf("status %d; want %d", status, exitCritical)
		}
		mustRun(t, srv.URL, "schema", "apply")
		for target, body := range map[string]string{
			"UpdateTimeToLive": `{"TableName":"coatcheck","TimeToLiveSpecification":{"AttributeName":"t","Enabled":false}}`,
			"UpdateTable":      `{"TableName":"coatcheck","BillingMode":"PROVISIONED","ProvisionedThroughput":{"ReadCapacityUnits":5,"WriteCapacityUnits":5},"DeletionProtectionEnabled":false}`,
		} {
			askDynamo(t, srv, target, body)
		}
		e, status = runDoctor(t, srv.URL)
		wantFindings(t, e, "tls warning", "ttl warning", "schema critical", "capacity warning", "protection warning")
		if status != exitCritical {
			t.Errorf("status %d; want %d", status, exitCritical)
		}
	})
	t.Run("mongo", func(t *testing.T) {
		srv := testserver.Shared(t, "mongo")
		e, status := runDoctor(t, srv.URL)
		wantFindings(t, e, "tls warning", "privileges warning", "schema critical", "expiry-index warning", "owner-index warning")
		if status != exitCritical {
			t.Errorf("status %d; want %d", status, exitCritical)
		}
	})
}

// TestDoctorIsSilent: on servers that are set up well, for a user with the documented
// rights and no others, it finds nothing.
func TestDoctorIsSilent(t *testing.T) {
	t.Parallel() // it waits for servers to start
	silent := func(t *testing.T, store string, env ...string) {
		t.Helper()
		e, status := runDoctor(t, store, env...)
		wantFindings(t, e)
		if status != exitOK && status != exitWarning { // for the latency
			t.Errorf("status %d; want %d", status, exitOK)
		}
	}
	as := func(t *testing.T, store, user, password string) string {
		t.Helper()
		u, err := url.Parse(store)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(user, password)
		return u.String()
	}
	const password = "app-pw-4711"
	t.Run("redis", func(t *testing.T) {
		srv := testserver.Start(t, "redis-tls", &testserver.Options{Config: []string{"maxmemory 100mb", "maxmemory-policy noeviction", "appendonly yes", "appendfsync everysec"}})
		c, err := rueidis.NewClient(plainOptions(t, srv))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, line := range []string{
			"ACL SETUSER app on >" + password + " ~coatcheck:* resetchannels -@all +get +set +getrange +setrange +pexpireat +pttl +del " +
				"+zadd +zscore +zrange +zcard +zrem +eval +evalsha +scan +ping +wait +role +hello +auth +select " +
				"+client|setname +client|tracking +cluster|slots +cluster|shards +info +config|get +acl|whoami +acl|getuser +time",
			"ACL SETUSER default off",
		} {
			if err := c.Do(t.Context(), c.B().Arbitrary(strings.Fields(line)...).Build()).Error(); err != nil {
				t.Fatal(err)
			}
		}
		silent(t, as(t, srv.URL, "app", password))
	})
	for kind, c := range map[string]struct{ driver, role, create string }{
		"postgres-tls": {"pgx", "app", "CREATE ROLE app LOGIN PASSWORD '" + password + "'"},
		"mariadb-tls":  {"mysql", "'app'@'%'", "CREATE USER 'app'@'%' IDENTIFIED BY '" + password + "'"},
	} {
		t.Run(kind, func(t *testing.T) {
			config := []string{"fsync = on"}
			if c.driver == "mysql" {
				config = []string{"innodb_flush_log_at_trx_commit = 1", "innodb_doublewrite = 1"}
			}
			srv := testserver.Start(t, kind, &testserver.Options{Config: config})
			mustRun(t, srv.AdminURL, "schema", "apply")
			grants := mustRun(t, srv.AdminURL, "schema", "grants", "--role", c.role)
			db := adminDB(t, srv, c.driver)
			for _, statement := range append([]string{c.create}, strings.Split(strings.TrimSpace(grants), ";\n")...) {
				if _, err := db.ExecContext(t.Context(), strings.TrimSuffix(statement, ";")); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}
			silent(t, as(t, srv.URL, "app", password))
		})
	}
	t.Run("mongo", func(t *testing.T) {
		srv := testserver.Start(t, "mongo-tls", nil)
		mustRun(t, srv.URL, "schema", "apply")
		e, _ := runDoctor(t, srv.URL)
		wantFindings(t, e, "privileges warning") // FerretDB has no others to give
	})
	t.Run("dynamo", func(t *testing.T) {
		srv := testserver.Start(t, "dynamo", nil)
		front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: srv.Node(t, "node-1").Addr}))
		defer front.Close()
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		env := []string{"AWS_CA_BUNDLE=" + ca, "AWS_ACCESS_KEY_ID=app", "AWS_SECRET_ACCESS_KEY=" + password}
		store := "dynamodb://coatcheck?region=us-east-1&endpoint=" + front.URL
		mustRunIn(t, env, store, "schema", "apply")
		silent(t, store, env...)
	})
	t.Run("sqlite", func(t *testing.T) {
		store := "sqlite:" + t.TempDir() + "/s.db"
		mustRun(t, store, "schema", "apply")
		silent(t, store)
	})
}

// askDynamo makes a call of DynamoDB's API, on a server that does not look at signatures.
func askDynamo(t *testing.T, srv *testserver.Server, target, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+srv.Node(t, "node-1").Addr, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.0")
	req.Header.Set("X-Amz-Target", "DynamoDB_20120810."+target)
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=app/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
	req.Header.Set("X-Amz-Date", "20260101T000000Z")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", target, resp.Status, answer)
	}
}

// mustRun runs the command over a store and returns what it prints.
func mustRun(t *testing.T, store string, args ...string) string {
	t.Helper()
	return mustRunIn(t, nil, store, args...)
}

// mustRunIn is mustRun with more in the environment.
func mustRunIn(t *testing.T, env []string, store string, args ...string) string {
	t.Helper()
	cmd := exec.Command(uptest.Binary(t), args...)
	cmd.Env = append(append(cmd.Environ(), env...), "COATCHECK_STORE="+store)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("coatcheck %v: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// adminDB connects to a SQL server as who may make roles.
func adminDB(t *testing.T, srv *testserver.Server, driver string) *sql.DB {
	t.Helper()
	var db *sql.DB
	var err error
	if driver == "pgx" {
		db, err = sql.Open("pgx", srv.AdminURL)
	} else {
		var u *url.URL
		if u, err = url.Parse(srv.AdminURL); err != nil {
			t.Fatal(err)
		}
		config := mysql.NewConfig()
		config.User, config.Net, config.Addr, config.DBName = u.User.Username(), "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
		config.Passwd, _ = u.User.Password()
		config.TLS = plainOptions(t, srv).TLSConfig
		config.TLS.ServerName = u.Hostname()
		var c sqldriver.Connector
		if c, err = mysql.NewConnector(config); err == nil {
			db = sql.OpenDB(c)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
