package main

import (
	"context"
	"net/http"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/redisstore"
	"github.com/alexedwards/scs/v2"
	redigo "github.com/gomodule/redigo/redis"
	"github.com/redis/go-redis/v9"
)

// Pools hold as many connections as there are requests at once: with the sizes
// of the READMEs, requests would wait for one or dial.

func openSCS(ctx context.Context, url string) (*app, error) {
	p, closing, err := scsHandlers(ctx, url)
	if err != nil {
		return nil, err
	}
	return p.app(closing), nil
}

func scsHandlers(_ context.Context, url string) (pages, func(), error) {
	return goRedisPages(url, "scs:session:", true)
}

// openSCSNoIdle leaves the idle timeout out, for reference: then scs writes
// nothing when nothing was changed.
func openSCSNoIdle(_ context.Context, url string) (*app, error) {
	p, closing, err := goRedisPages(url, "scs-no-idle:", false)
	if err != nil {
		return nil, err
	}
	return p.app(closing), nil
}

func goRedisPages(url, prefix string, withIdle bool) (pages, func(), error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return pages{}, nil, err
	}
	opts.PoolSize = concurrency
	client := redis.NewClient(opts)
	return scsPages(goredisstore.NewWithPrefix(client, prefix), withIdle), func() { _ = client.Close() }, nil
}

func openSCSRedigo(_ context.Context, url string) (*app, error) {
	pool := &redigo.Pool{MaxIdle: concurrency, Dial: func() (redigo.Conn, error) { return redigo.DialURL(url) }}
	return scsPages(redisstore.NewWithPrefix(pool, "scs-redigo:"), true).app(func() { _ = pool.Close() }), nil
}

func scsPages(st scs.Store, withIdle bool) pages {
	m := scs.New()
	m.Store = st
	m.Lifetime = absolute
	if withIdle {
		m.IdleTimeout = idle
	}
	b := bag{
		get:  func(r *http.Request, name string) string { return m.GetString(r.Context(), name) },
		put:  func(r *http.Request, name, value string) { m.Put(r.Context(), name, value) },
		save: func(http.ResponseWriter, *http.Request) error { return nil }, // LoadAndSave does it
	}
	return b.pages(m.LoadAndSave)
}
