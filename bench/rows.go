package main

import "slices"

// Names of peers that every family has.
const (
	noSession = "no session"
	coatcheck = "Coatcheck"
	touching  = "Coatcheck, one read in ten touches"
	near      = "Coatcheck, near cache"
	casStore  = "Coatcheck's store: compare-and-swap"
)

// A section is a table of the results: peers under one load.
type section struct {
	name    string
	title   string
	workers int // requests at once
	page    func(*app) page
	base    string // the peer that the others are set in relation to
	peers   []string
	// relaxed says that no commit waits for the disk.
	relaxed bool
}

func (s section) has(peer string) bool { return slices.Contains(s.peers, peer) }

func read(a *app) page  { return a.read }
func all(a *app) page   { return a.all }
func write(a *app) page { return a.write }
