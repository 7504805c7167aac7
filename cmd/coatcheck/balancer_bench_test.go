//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/uptest"
)

func init() { commands["coatcheck-balance"] = balance }

// balance is a process that is a balancer alone: of the servers that its arguments name.
func balance() {
	quiet := slog.New(slog.DiscardHandler)
	b := balancer.New(&balancer.Options{Logger: quiet})
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "balance:", err)
			os.Exit(1)
		}
	}
	for _, arg := range os.Args[1:] {
		u, err := url.Parse(arg)
		fail(err)
		fail(b.Add(u.Host, u))
	}
	go b.Run(context.Background())
	for _, arg := range os.Args[1:] {
		fail(b.WaitReady(context.Background(), strings.TrimPrefix(arg, "http://")))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	fmt.Println("http://" + ln.Addr().String())
	fail(balancer.NewServer(b, quiet).Serve(balancer.Listener(ln)))
}

// atOnce is how many requests are under way.
const atOnce = 64

// BenchmarkBalancer sends the same requests to the same servers: to one of them itself,
// through the balancer of `up`, and through others. What a request takes of the
// processors is that of the balancer's processes alone.
//
//	go test -run '^$' -bench BenchmarkBalancer -benchtime 20000x -count 6 ./cmd/coatcheck
func BenchmarkBalancer(b *testing.B) {
	var servers []string
	for i := range 3 {
		servers = append(servers, startServe(b, i))
	}
	fronts := []struct {
		name  string
		start func(b *testing.B, servers []string) (url string, pid int)
	}{
		{"none", func(*testing.B, []string) (string, int) { return servers[0], 0 }},
		{"coatcheck", startBalance},
		{"nginx", startNginx},
		{"haproxy", startHAProxy},
	}
	for _, f := range fronts {
		b.Run(f.name, func(b *testing.B) {
			front, pid := f.start(b, servers)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}
			defer client.CloseIdleConnections()
			ask := func() error {
				resp, err := client.Get(front + "/healthz")
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					return errors.New(resp.Status)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				return err
			}
			for end := time.Now().Add(uptest.Patience); ; {
				err := ask()
				if err == nil {
					break
				}
				if time.Now().After(end) {
					b.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			b.SetParallelism(atOnce / runtime.GOMAXPROCS(0))
			before := processorTime(b, pid)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := ask(); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
			if pid != 0 {
				b.ReportMetric(float64((processorTime(b, pid)-before).Nanoseconds())/float64(b.N), "balancer-cpu-ns/op")
			}
		})
	}
}

// startServe starts a worker alone.
func startServe(b *testing.B, i int) string {
	b.Helper()
	cmd := exec.Command(uptest.Binary(b), "serve", "--json", "--name", fmt.Sprintf("web-%d", i), "--listen", "127.0.0.1:0", "--insecure-cookie",
		"--store", "sqlite:"+filepath.Join(b.TempDir(), "sessions.db"))
	var ready struct {
		URL string `json:"url"`
	}
	if err := json.NewDecoder(started(b, cmd)).Decode(&ready); err != nil {
		b.Fatal(err)
	}
	return ready.URL
}

func startBalance(b *testing.B, servers []string) (string, int) {
	cmd := exec.Command("coatcheck-balance", servers...)
	line, err := bufio.NewReader(started(b, cmd)).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line), cmd.Process.Pid
}

func startNginx(b *testing.B, servers []string) (string, int) {
	return startForeign(b, "nginx", servers, "server %s;", `
daemon off;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	keepalive_requests 1000000;
	upstream servers { %[3]s keepalive 64; }
	server {
		listen %[2]s;
		location / {
			proxy_pass http://servers;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Forwarded-For $remote_addr;
		}
	}
}
`, "-c", "%s", "-e", "stderr")
}

func startHAProxy(b *testing.B, servers []string) (string, int) {
	return startForeign(b, "haproxy", servers, "server %[2]s %[1]s check\n", `
global
	maxconn 1024
defaults
	mode http
	timeout connect 1s
	timeout client 30s
	timeout server 30s
	http-reuse always
	option forwardfor
frontend front
	bind %[2]s
	default_backend servers
backend servers
	balance roundrobin
	%[3]s
`, "-db", "-f", "%s")
}

// startForeign starts a balancer whose configuration is made of that of each server,
// a folder and the address to listen on. Its arguments have the file's name for %s.
func startForeign(b *testing.B, name string, servers []string, each, config string, args ...string) (string, int) {
	b.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name // where root alone looks
	}
	if _, err := os.Stat(path); err != nil {
		b.Skipf("%s is not installed; on Debian: apt-get install -y --no-install-recommends %[1]s", name)
	}
	var list strings.Builder
	for i, s := range servers {
		if strings.Contains(each, "%[2]s") {
			fmt.Fprintf(&list, each+"\t", strings.TrimPrefix(s, "http://"), fmt.Sprintf("web-%d", i))
		} else {
			fmt.Fprintf(&list, each+" ", strings.TrimPrefix(s, "http://"))
		}
	}
	addr, dir := freeAddr(b), b.TempDir()
	file := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, dir, addr, list.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "%s", file)
	}
	cmd := exec.Command(path, args...)
	started(b, cmd)
	return "http://" + addr, cmd.Process.Pid
}

// freeAddr returns an address on which nobody listens.
func freeAddr(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// started starts a process that is ended with the benchmark, and returns what it prints.
func started(b *testing.B, cmd *exec.Cmd) io.Reader {
	b.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		stuck := time.AfterFunc(uptest.Patience, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		_ = cmd.Wait() // which an interrupt ends one way or the other
	})
	return out
}

// processorTime returns what a process and its children have used so far.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	if pid == 0 {
		return 0
	}
	const tick = 10 * time.Millisecond // USER_HZ, which is 100 everywhere
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	total := time.Duration(ticks) * tick
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			total += processorTime(b, n)
		}
	}
	return total
}
