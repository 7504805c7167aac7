package main

import (
	"strconv"
	"time"
)

// Names of peers.
const (
	noSession  = "no session"
	coatcheck  = "Coatcheck"
	touching   = "Coatcheck, one read in ten touches"
	near       = "Coatcheck, near cache"
	bareSealed = "bare: cookie, rueidis GET, unseal"
	bareGET    = "bare: rueidis GET"
	scsGoRedis = "scs, go-redis"
	scsRedigo  = "scs, redigo"
	gorilla    = "gorilla, redistore"
	fiberRedis = "fiber, its redis storage"
	express    = "express-session, connect-redis"

	scsNoIdle     = scsGoRedis + ", no idle timeout"
	gorillaNoIdle = gorilla + ", no idle timeout"

	casStore = "Coatcheck's store: compare-and-swap"
	plainSET = "bare: rueidis SET"

	coatcheckServed = "Coatcheck, served"
	scsServed       = "scs, go-redis, served"
)

var peers = func() []peer {
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
}()

// flushDelays are values of rueidis' MaxFlushDelay.
var flushDelays = []time.Duration{0, 20 * time.Microsecond, 100 * time.Microsecond}

func delayed(name string, d time.Duration) string { return name + ", flush delay " + d.String() }

// A section is a table of the results: peers under one load.
type section struct {
	name    string
	title   string
	workers int // requests at once
	page    func(*app) page
	base    string // the peer that the others are set in relation to
	peers   []string
}

func read(a *app) page  { return a.read }
func all(a *app) page   { return a.all }
func write(a *app) page { return a.write }

var sections = func() []section {
	s := []section{
		{"read", "Read: user and name", concurrency, read, scsGoRedis, []string{
			scsGoRedis, coatcheck, bareSealed, bareGET, near, touching, scsRedigo, gorilla, fiberRedis,
			scsNoIdle, gorillaNoIdle, noSession,
		}},
		{"read-all", "Read: every value", concurrency, all, scsGoRedis, []string{scsGoRedis, coatcheck, near}},
		{"write", "Write: one more in the cart", concurrency, write, scsGoRedis, []string{
			scsGoRedis, coatcheck, near, scsRedigo, gorilla, fiberRedis,
		}},
		{"store", "Below the sessions: a record", concurrency, write, plainSET, []string{plainSET, casStore}},
		{"http-read", "Read over HTTP, in a process of its own", concurrency, read, scsServed, []string{scsServed, coatcheckServed, express}},
		{"http-write", "Write over HTTP, in a process of its own", concurrency, write, scsServed, []string{scsServed, coatcheckServed, express}},
	}
	for _, workers := range []int{1, 8, concurrency} {
		n := strconv.Itoa(workers)
		l := section{"delay-" + n, "Read, requests at once: " + n, workers, read, delayed(bareGET, 0), nil}
		for _, d := range flushDelays {
			l.peers = append(l.peers, delayed(bareGET, d), delayed(coatcheck, d))
		}
		s = append(s, l)
	}
	return s
}()
