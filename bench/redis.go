package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Names of peers on Redis.
const (
	bareSealed = "bare: cookie, rueidis GET, unseal"
	bareGET    = "bare: rueidis GET"
	plainSET   = "bare: rueidis SET"

	scsGoRedis = "scs, go-redis"
	scsRedigo  = "scs, redigo"
	gorilla    = "gorilla, redistore"
	fiberRedis = "fiber, its redis storage"
	express    = "express-session, connect-redis"

	scsNoIdle     = scsGoRedis + ", no idle timeout"
	gorillaNoIdle = gorilla + ", no idle timeout"

	coatcheckServed = "Coatcheck, served"
	scsServed       = "scs, go-redis, served"
)

// flushDelays are values of rueidis' MaxFlushDelay.
var flushDelays = []time.Duration{0, 20 * time.Microsecond, 100 * time.Microsecond}

func delayed(name string, d time.Duration) string { return name + ", flush delay " + d.String() }

var redisFamily = family{
	kinds: []string{"redis", "valkey"},
	// Nothing is written to disk: a snapshot would fall into somebody's measurement.
	config:   []string{`save ""`, "appendonly no"},
	peers:    redisPeers(),
	sections: redisSections(),
	panels: []panel{
		{"Read, Redis asked each time", "read", []string{coatcheck, touching, scsGoRedis, scsRedigo, gorilla, fiberRedis}},
		{"Read, copies near the app", "read", []string{near, coatcheck, scsGoRedis}},
		{"Write", "write", []string{coatcheck, scsGoRedis, scsRedigo, gorilla, fiberRedis}},
		{"Read over HTTP", "http-read", []string{coatcheckServed, scsServed, express}},
	},
	modules: []string{
		"github.com/alexedwards/scs/v2",
		"github.com/alexedwards/scs/goredisstore",
		"github.com/alexedwards/scs/redisstore",
		"github.com/gorilla/sessions",
		"github.com/boj/redistore",
		"github.com/gofiber/fiber/v3",
		"github.com/gofiber/storage/redis/v3",
		"github.com/redis/go-redis/v9",
		"github.com/gomodule/redigo",
		"github.com/redis/rueidis",
	},
	notes:  "redis.md",
	judge:  redisBars,
	cpu:    redisCPU,
	memory: redisMemory,
}

func redisPeers() []peer {
	all := []peer{
		{noSession, openNone},
		{coatcheck, openCoatcheck},
		{touching, openTouching},
		{near, openNear},
		{bareSealed, openBare},
		{bareGET, openGET(0)},
		{scsGoRedis, openSCS},
		{scsRedigo, openSCSRedigo},
		{gorilla, openGorilla},
		{fiberRedis, openFiber},
		{scsNoIdle, openSCSNoIdle},
		{gorillaNoIdle, openGorillaNoIdle},
		{casStore, openCAS},
		{plainSET, openSET},
		{express, openExpress},
		{coatcheckServed, openServed("coatcheck")},
		{scsServed, openServed("scs")},
	}
	for _, d := range flushDelays {
		all = append(all,
			peer{delayed(coatcheck, d), openDelayed(d)},
			peer{delayed(bareGET, d), openGET(d)})
	}
	return all
}

func redisSections() []section {
	s := []section{
		{name: "read", title: "Read: user and name", workers: concurrency, page: read, base: scsGoRedis, peers: []string{
			scsGoRedis, coatcheck, bareSealed, bareGET, near, touching, scsRedigo, gorilla, fiberRedis,
			scsNoIdle, gorillaNoIdle, noSession,
		}},
		{name: "read-all", title: "Read: every value", workers: concurrency, page: all, base: scsGoRedis, peers: []string{scsGoRedis, coatcheck, near}},
		{name: "write", title: "Write: one more in the cart", workers: concurrency, page: write, base: scsGoRedis, peers: []string{
			scsGoRedis, coatcheck, near, scsRedigo, gorilla, fiberRedis,
		}},
		{name: "store", title: "Below the sessions: a record", workers: concurrency, page: write, base: plainSET, peers: []string{plainSET, casStore}},
		{name: "http-read", title: "Read over HTTP, in a process of its own", workers: concurrency, page: read, base: scsServed, peers: []string{scsServed, coatcheckServed, express}},
		{name: "http-write", title: "Write over HTTP, in a process of its own", workers: concurrency, page: write, base: scsServed, peers: []string{scsServed, coatcheckServed, express}},
	}
	for _, workers := range []int{1, 8, concurrency} {
		n := strconv.Itoa(workers)
		l := section{name: "delay-" + n, title: "Read, requests at once: " + n, workers: workers, page: read, base: delayed(bareGET, 0), peers: []string{coatcheck}}
		for _, d := range flushDelays {
			l.peers = append(l.peers, delayed(bareGET, d), delayed(coatcheck, d))
		}
		s = append(s, l)
	}
	return s
}

func redisBars(j *judge) {
	j.rate("read, to scs on go-redis", "read", coatcheck, scsGoRedis, 5.5)
	j.rate("read, to a bare handler: cookie, GET, unseal", "read", coatcheck, bareSealed, 0.85)
	j.rate("write, to scs on go-redis", "write", coatcheck, scsGoRedis, 3)
	j.rate("compare-and-swap in the store, to a plain SET", "store", casStore, plainSET, 0.8)
	j.rate("read with the near cache, to scs on go-redis", "read", near, scsGoRedis, 20)
	j.p50("read with the near cache, p50", "read", near, 3500*time.Nanosecond)
	for _, n := range []string{"1", "8"} {
		j.latency("p50 of a read, "+n+" at once, to a bare GET's", "delay-"+n, coatcheck, delayed(bareGET, 0), 1.25)
	}
	// Memory is the same on a busy machine.
	var ours, theirs float64
	for _, m := range j.res.Memory {
		switch m.Peer {
		case coatcheck:
			ours = m.Bytes
		case scsGoRedis:
			theirs = m.Bytes
		}
	}
	if ours > 0 && theirs > 0 {
		j.bars = append(j.bars, bar{
			What: "memory of a session on the server, owner index counted",
			Want: fmt.Sprintf("at most scs's %.0f bytes", theirs), Got: fmt.Sprintf("%.0f bytes", ours), Met: ours <= theirs,
		})
	}
}

// redisCPU asks the server.
func redisCPU(ctx context.Context, srv *server) (func() (time.Duration, error), func(), error) {
	admin, err := newClient(srv.url, 0)
	if err != nil {
		return nil, nil, err
	}
	return func() (time.Duration, error) {
		info, err := admin.Do(ctx, admin.B().Info().Section("cpu").Build()).ToString()
		return seconds(line(info, "used_cpu_sys")) + seconds(line(info, "used_cpu_user")), err
	}, admin.Close, nil
}

func seconds(text string) time.Duration {
	f, _ := strconv.ParseFloat(text, 64)
	return time.Duration(f * float64(time.Second))
}
