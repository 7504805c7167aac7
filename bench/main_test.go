package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

var shared struct {
	sync.Once
	*server
	err error
}

func TestMain(m *testing.M) {
	if what := os.Getenv(serveVariable); what != "" {
		exit(serve(what))
	}
	code := m.Run()
	if shared.server != nil {
		shared.stop()
	}
	os.Exit(code)
}

// redisURL returns a Redis that all tests share.
func redisURL(tb testing.TB) string {
	tb.Helper()
	shared.Do(func() { shared.server, shared.err = startServer(context.Background(), "redis") })
	available(tb, shared.err)
	return shared.url
}

// available skips if err says that something is missing here.
func available(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case errors.Is(err, errMissing) && os.Getenv("COATCHECK_REQUIRE_SERVERS") != "1":
		tb.Skip(err)
	default:
		tb.Fatal(err)
	}
}

func open(tb testing.TB, p peer) *app {
	tb.Helper()
	a, err := p.open(tb.Context(), redisURL(tb))
	available(tb, err)
	tb.Cleanup(a.close)
	return a
}

// until polls, for what is told to a near cache or another process.
func until(tb testing.TB, rule string, ok func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	if await(ctx, ok) != nil {
		tb.Fatal(rule)
	}
}

func find(name string) peer {
	for _, p := range peers {
		if p.name == name {
			return p
		}
	}
	panic(fmt.Sprintf("no peer is called %q", name))
}
