package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"
)

// shared are the servers that all tests share, one of each family.
var shared = func() map[*family]*sharedServer {
	all := map[*family]*sharedServer{}
	for _, f := range families {
		all[f] = &sharedServer{}
	}
	return all
}()

type sharedServer struct {
	sync.Once
	*server
	err error
}

func TestMain(m *testing.M) {
	if what := os.Getenv(serveVariable); what != "" {
		exit(serve(what))
	}
	code := m.Run()
	for _, s := range shared {
		if s.server != nil {
			s.stop()
		}
	}
	os.Exit(code)
}

// serverOf returns the server that the tests of a family share.
func serverOf(tb testing.TB, f *family) *server {
	tb.Helper()
	s := shared[f]
	s.Do(func() { s.server, s.err = f.start(context.Background(), f.kinds[0]) })
	available(tb, s.err)
	return s.server
}

// eachFamily runs a test for each, named by its first kind.
func eachFamily(t *testing.T, test func(t *testing.T, f *family)) {
	for _, f := range families {
		t.Run(f.kinds[0], func(t *testing.T) { test(t, f) })
	}
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

func open(tb testing.TB, f *family, p peer) *app {
	tb.Helper()
	a, err := p.open(tb.Context(), serverOf(tb, f).url)
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

func find(tb testing.TB, f *family, name string) peer {
	tb.Helper()
	p, ok := f.find(name)
	if !ok {
		tb.Fatalf("on %s no peer is called %q", f.kinds[0], name)
	}
	return p
}
