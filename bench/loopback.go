package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// Apps that are processes of their own, behind HTTP on loopback. Each prints its
// address and ends with its standard input.

// openExpress is server.js in the folder node.
func openExpress(ctx context.Context, url string) (*app, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "bench", "node")
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, fmt.Errorf("express: %w: node is not installed", errMissing)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		return nil, fmt.Errorf("express: %w: run npm ci --prefix bench/node", errMissing)
	}
	cmd := exec.CommandContext(ctx, node, filepath.Join(dir, "server.js"), url, strconv.Itoa(int(idle.Seconds())))
	cmd.Env = append(os.Environ(), "NODE_ENV=production")
	return loopback(ctx, cmd)
}

// serveVariable names the app that this program is to serve, if it is one.
const serveVariable = "COATCHECK_BENCH_SERVE"

// openServed returns the app that serve serves under that name, in another
// process of this program.
func openServed(name string) func(context.Context, string) (*app, error) {
	return func(ctx context.Context, url string) (*app, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, self)
		cmd.Env = append(os.Environ(), serveVariable+"="+name+" "+url)
		return loopback(ctx, cmd)
	}
}

// served are the apps that can be served over HTTP.
var served = map[string]func(context.Context, string) (pages, func(), error){
	"coatcheck": coatcheckHandlers,
	"scs":       scsHandlers,
}

// serve serves what the variable says until standard input ends.
func serve(what string) error {
	name, url, _ := strings.Cut(what, " ")
	open, ok := served[name]
	if !ok {
		return fmt.Errorf("%s: no app is called %q", serveVariable, name)
	}
	p, closing, err := open(context.Background(), url)
	if err != nil {
		return err
	}
	defer closing()
	mux := http.NewServeMux()
	mux.Handle("/signin", p.signIn)
	mux.Handle("/read", p.read)
	mux.Handle("/all", p.all)
	mux.Handle("/write", p.write)
	mux.HandleFunc("/cpu", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strconv.FormatInt(cpuTime().Microseconds(), 10))
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = l.Close()
	}()
	if err := http.Serve(l, mux); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func loopback(ctx context.Context, cmd *exec.Cmd) (*app, error) {
	c, err := start(cmd)
	if err != nil {
		return nil, err
	}
	if !c.lines.Scan() {
		c.stop()
		return nil, fmt.Errorf("%s ended before it printed its address", filepath.Base(cmd.Path))
	}
	base := c.lines.Text()
	client := &fasthttp.HostClient{Addr: strings.TrimPrefix(base, "http://"), MaxConns: 2 * concurrency}
	over := func(path string, check func(i, status int, body []byte) error) page {
		return func(int) op {
			var req fasthttp.Request
			var res fasthttp.Response
			return func(i int, cookie string) ([]byte, error) {
				req.Reset()
				req.SetRequestURI(base + path)
				req.Header.Set("Cookie", cookie)
				if err := client.Do(&req, &res); err != nil {
					return nil, err
				}
				body := res.Body()
				return body, check(i, res.StatusCode(), body)
			}
		}
	}
	return &app{
		signIn: func(_ context.Context, i int) (string, error) {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, signInURL(base, i), nil)
			if err != nil {
				return "", err
			}
			res, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				return "", err
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			return join(res.Cookies()), errors.Join(err, checkOK(i, res.StatusCode, body))
		},
		read:  over("/read", checkGreeting),
		all:   over("/all", checkCart),
		write: over("/write", checkOK),
		cpu: func() (time.Duration, error) {
			_, body, err := client.Get(nil, base+"/cpu")
			if err != nil {
				return 0, err
			}
			n, err := strconv.ParseInt(string(body), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		},
		close: func() { client.CloseIdleConnections(); c.stop() },
	}, nil
}
