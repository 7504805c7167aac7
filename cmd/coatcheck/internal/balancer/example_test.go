package balancer_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
)

func Example() {
	const secret = "drawn anew for each run"
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	b := balancer.New(&balancer.Options{Secret: secret})
	go b.Run(ctx)

	for _, name := range []string{"worker-1", "worker-2", "worker-3"} {
		s := httptest.NewServer(balancer.RequireSecret(secret, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "served by", name)
		})))
		defer s.Close()
		u, _ := url.Parse(s.URL)
		if err := b.Add(name, u); err != nil {
			fmt.Println(err)
			return
		}
		if err := b.WaitReady(ctx, name); err != nil {
			fmt.Println(err)
			return
		}
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := balancer.NewServer(b, nil)
	defer srv.Close()
	go srv.Serve(balancer.Listener(l))

	ask := func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			fmt.Println(err)
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		fmt.Print(string(text))
	}
	ask()
	ask()
	ask()
	// Nothing is in flight at worker-1 when Drain returns: its process can be told to end.
	if err := b.Drain(ctx, "worker-1"); err != nil {
		fmt.Println(err)
	}
	ask()
	// Output:
	// served by worker-1
	// served by worker-2
	// served by worker-3
	// served by worker-2
}
