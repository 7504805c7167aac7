//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/admin"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
	"github.com/coatcheck/coatcheck/internal/testserver"
)

// The files that are for operators to take.
const (
	prometheusFolder = "../../deploy/prometheus"
	dashboardFile    = "../../deploy/grafana/coatcheck.json"
)

// promtool runs Prometheus' own tool on its input, and fails the test if it complains.
// It comes with the server, which the test has started.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Dir = prometheusFolder
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	} else if args[1] == "metrics" && len(bytes.TrimSpace(out)) > 0 { // advice is no failure to it
		t.Errorf("promtool %s says:\n%s", strings.Join(args, " "), out)
	}
}

// configuration returns the lines of deploy/prometheus/prometheus.yml that scrapes the
// target, each second for the test to be short.
func configuration(t *testing.T, target string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(prometheusFolder, "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := filepath.Abs(filepath.Join(prometheusFolder, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for old, with := range map[string]string{
		"127.0.0.1:8082":           target,
		"- alerts.yml":             "- " + rules,
		"scrape_interval: 15s":     "scrape_interval: 1s",
		"evaluation_interval: 15s": "evaluation_interval: 1s",
	} {
		if !strings.Contains(text, old) {
			t.Fatalf("deploy/prometheus/prometheus.yml has no %q any more, which the test replaces", old)
		}
		text = strings.ReplaceAll(text, old, with)
	}
	return strings.Split(text, "\n")
}

// ask puts a question to Prometheus' API and decodes its answer's data.
func ask(t *testing.T, server, path string, query url.Values, data any) {
	t.Helper()
	resp, err := http.Get(server + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("GET %s %v: %s %s %v", path, query, resp.Status, answer.Error, err)
	}
}

// evaluate returns how many series an expression has, and of one that is a number that.
func evaluate(t *testing.T, server, expr string) (series int, values []string) {
	t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	ask(t, server, "query", url.Values{"query": {expr}}, &data)
	for _, r := range data.Result {
		values = append(values, fmt.Sprint(r.Value[1]))
	}
	return len(data.Result), values
}

// expression is one of the dashboard's, as Grafana asks it.
type expression struct{ panel, query string }

func dashboard(t *testing.T) []expression {
	t.Helper()
	b, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Type, Title, Description string
			Targets                  []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m")
	var out []expression
	for _, p := range d.Panels {
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("the panel %q shows nothing, or does not say what", p.Title)
		}
		for _, target := range p.Targets {
			out = append(out, expression{p.Title, variables.Replace(target.Expr)})
		}
	}
	if len(out) < 20 {
		t.Errorf("found %d expressions in the dashboard: the test has lost its reach", len(out))
	}
	return out
}

var metricName = regexp.MustCompile(`\b(coatcheck|process|go)_[a-z_]+\b`)

// What an operator is given works, on the metrics of a fleet that runs, in a Prometheus
// that does.
func TestPrometheus(t *testing.T) {
	t.Parallel() // it waits for scrapes
	if testing.Short() {
		t.Skip("takes seconds: run it without -short")
	}
	prom := func(metricsURL string) string {
		u, err := url.Parse(metricsURL)
		if err != nil {
			t.Fatal(err)
		}
		return testserver.Start(t, "prometheus", &testserver.Options{Config: configuration(t, u.Host)}).URL
	}
	store := testserver.Start(t, "redis", &testserver.Options{Password: "redis-secret-1"})
	u := uptest.Start(t, "--autoscale", "2:4", "--metrics", "127.0.0.1:0", "--store", store.URL)
	server := prom(u.Metrics)
	promtool(t, "", "check", "config", "prometheus.yml")
	promtool(t, "", "check", "rules", "alerts.yml")
	promtool(t, "", "test", "rules", "alerts_test.yml")

	v := newVisitor(t, u, nil)
	v.post("/login", url.Values{"user": {"alice"}, "password": {"demo"}})
	uptest.Await(t, "Prometheus has two scrapes with traffic between", func() bool {
		v.post("/cart", url.Values{"sku": {"apple"}, "qty": {"1"}})
		v.look()
		_, rate := evaluate(t, server, `sum(rate(coatcheck_store_calls_total{op="replace",worker!=""}[1m])) > 0`)
		return len(rate) > 0
	})
	uptest.Await(t, "the load is measured", func() bool {
		n, _ := evaluate(t, server, `coatcheck_autoscale_requests_at_once`)
		return n == 2
	})

	var known []string
	ask(t, server, "label/__name__/values", nil, &known)
	mustKnow := func(what, expr string) {
		for _, name := range metricName.FindAllString(expr, -1) {
			if !slices.Contains(known, name) {
				t.Errorf("%s asks for %s, which nobody tells", what, name)
			}
		}
	}
	for _, e := range dashboard(t) {
		mustKnow("the panel "+e.panel, e.query)
		if n, _ := evaluate(t, server, e.query); n == 0 {
			t.Errorf("the panel %q has no data for\n\t%s", e.panel, e.query)
		}
	}

	var rules struct {
		Groups []struct {
			Rules []struct {
				Name, Query, Health, LastError, State, LastEvaluation string
			}
		}
	}
	uptest.Await(t, "every rule is evaluated", func() bool {
		ask(t, server, "rules", nil, &rules)
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				if r.Health == "unknown" {
					return false
				}
			}
		}
		return len(rules.Groups) > 0
	})
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			mustKnow("the alert "+r.Name, r.Query)
			if r.Health != "ok" || r.State == "firing" {
				t.Errorf("the alert %s of a healthy fleet is %s, its rule %s: %s", r.Name, r.State, r.Health, r.LastError)
			}
		}
	}

	text := scrape(t, u)
	promtool(t, text, "check", "metrics")
	cookie := v.cookie(u).Value
	for what, secret := range map[string]string{
		"an owner": "alice", "a session ID": cookie, "the store's password": "redis-secret-1", "the store's address": store.Nodes[0].Addr,
		"the admin token": u.AdminToken, "the shop's address": strings.TrimPrefix(u.Shop, "http://"), "an attribute": "cart", "a product": "apple",
	} {
		if strings.Contains(text, secret) {
			t.Errorf("the metrics show %s, %q", what, secret)
		}
	}
}

// scrape returns the metrics as they are on the wire.
func scrape(t *testing.T, u *uptest.Up) string {
	t.Helper()
	resp, err := http.Get(u.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v", u.Metrics, resp.Status, err)
	}
	return string(b)
}

// Workers are told apart by names that none has twice; one that hangs spoils no scrape.
func TestMetricsOfWorkersThatComeAndGo(t *testing.T) {
	u := uptest.Start(t, "--workers", "2", "--metrics", ":0")
	if !strings.HasPrefix(u.Metrics, "http://127.0.0.1:") {
		t.Errorf("without a host the metrics are at %s", u.Metrics)
	}
	for range 5 {
		servedBy(t, u)
	}
	has := func(line string) bool { return strings.Contains(scrape(t, u), "\n"+line) }
	for _, line := range []string{
		"coatcheck_store_up 1\n",
		"coatcheck_balancer_requests_total 5\n",
		"coatcheck_balancer_retries_total 0\n",
		`coatcheck_balancer_response_duration_seconds_count{code="2xx"} 5` + "\n",
		"coatcheck_fleet_target_workers 2\n",
		`coatcheck_fleet_workers{state="ready"} 2` + "\n",
		`coatcheck_fleet_events_total{kind="killed"} 0` + "\n",
		`coatcheck_session_events_total{kind="conflict",worker="worker-1"} 0` + "\n",
		`process_resident_memory_bytes{worker="worker-2"} `,
	} {
		uptest.Await(t, "the metrics have "+line, func() bool { return has(line) }) // all answer in time
	}
	u.Kill("worker-1")
	u.AwaitWorkers(2)
	uptest.Await(t, "the new worker is in the metrics", func() bool { return has(`go_goroutines{worker="worker-3"}`) })
	if has(`go_goroutines{worker="worker-1"}`) {
		t.Error("the metrics are of a worker that is gone")
	}
	if !has(`coatcheck_fleet_events_total{kind="killed"} 1` + "\n") {
		t.Error("the kill is not counted")
	}

	const missed = "\ncoatcheck_fleet_scrapes_missed_total "
	missedBy := func(text string) (n int) {
		_, rest, _ := strings.Cut(text, missed)
		_, _ = fmt.Sscan(rest, &n)
		return n
	}
	before := missedBy(scrape(t, u))
	workers := u.Fleet().Workers
	hung := workers[slices.IndexFunc(workers, func(w admin.Worker) bool { return w.Name == "worker-2" })]
	if err := syscall.Kill(hung.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	uptest.Await(t, "who hangs is left out of a scrape and counted, and the other is in it", func() bool {
		text := scrape(t, u)
		if !slices.ContainsFunc(u.Fleet().Workers, func(w admin.Worker) bool { return w.PID == hung.PID }) {
			t.Fatal("the worker that hangs was replaced before any scrape left it out")
		}
		return !strings.Contains(text, `go_goroutines{worker="worker-2"}`) && strings.Contains(text, `go_goroutines{worker="worker-3"}`) &&
			missedBy(text) > before
	})
	_ = syscall.Kill(hung.PID, syscall.SIGCONT) // if it is there still
}

// A visitor cannot ask a worker for its metrics: not through the balancer, and not past
// it.
func TestMetricsAreNotForVisitors(t *testing.T) {
	u := uptest.Start(t, "--workers", "1", "--metrics", ":0")
	for _, base := range []string{u.Shop, u.Fleet().Workers[0].URL} {
		for _, secret := range []string{"", u.AdminToken} {
			req, err := http.NewRequest(http.MethodGet, base+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			if secret != "" {
				req.Header.Set(balancer.SecretHeader, secret)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode < 400 || strings.Contains(string(b), "go_goroutines") {
				t.Errorf("GET %s/metrics with the secret %q is answered %s", base, secret, resp.Status)
			}
		}
	}
}

// Each alert is one that a test makes fire, and that the documentation explains where the
// alert says.
func TestAlertsAreTestedAndExplained(t *testing.T) {
	read := func(path string) string {
		b, err := os.ReadFile(filepath.Join(prometheusFolder, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rules, tests := read("alerts.yml"), read("alerts_test.yml")
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 10 {
		t.Fatalf("found %d alerts: the test has lost its reach", len(alerts))
	}
	for _, part := range []string{"summary:", "description:", "severity:", "runbook: ../../docs/operations.md#alerts"} {
		if n := strings.Count(rules, part); n != len(alerts) {
			t.Errorf("%d of %d alerts have %q", n, len(alerts), part)
		}
	}
	_, docs, found := strings.Cut(read("../../docs/operations.md"), "\n### Alerts\n")
	if !found {
		t.Error("docs/operations.md has no section Alerts, to which all alerts lead")
	}
	for _, a := range alerts {
		if !strings.Contains(tests, `alertname="`+a[1]+`"`) {
			t.Errorf("no test makes %s fire", a[1])
		}
		if !strings.Contains(docs, "`"+a[1]+"`") {
			t.Errorf("docs/operations.md does not explain %s", a[1])
		}
	}
}
