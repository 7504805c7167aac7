package main

import (
	"context"
	"embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A family is the servers that are measured alike: against the same peers, in the
// same sections.
type family struct {
	kinds  []string // of scripts/server
	config []string // lines of the server's configuration

	peers    []peer
	sections []section
	panels   []panel  // of the plot
	modules  []string // whose versions matter
	notes    string   // file in the folder notes

	// judge says whether what the project asks of itself was met.
	judge func(*judge)
	// cpu returns a function that tells how much processor time the server has used.
	cpu func(context.Context, *server) (used func() (time.Duration, error), closing func(), err error)
	// memory measures what sessions take on the server, which it erases; nil if that
	// is not measured.
	memory func(ctx context.Context, url string, sessions int, progress io.Writer) ([]memoryResult, error)
	// relax keeps commits from waiting for the disk, for the sections that ask for
	// it, until restore.
	relax func(ctx context.Context, url string) (restore func() error, err error)
}

var families = []*family{&redisFamily, &postgresFamily, &mariadbFamily, &mongoFamily, &dynamoFamily}

// familyOf returns the family that a kind of server belongs to.
func familyOf(kind string) (*family, error) {
	var all []string
	for _, f := range families {
		if slices.Contains(f.kinds, kind) {
			return f, nil
		}
		all = append(all, f.kinds...)
	}
	return nil, fmt.Errorf("there is no store %q; there are %s", kind, strings.Join(all, ", "))
}

// find returns the peer of that name.
func (f *family) find(name string) (peer, bool) {
	i := slices.IndexFunc(f.peers, func(p peer) bool { return p.name == name })
	if i < 0 {
		return peer{}, false
	}
	return f.peers[i], true
}

// parts are the names that --only takes.
func (f *family) parts() []string {
	var names []string
	if f.memory != nil {
		names = append(names, "memory")
	}
	for _, s := range f.sections {
		names = append(names, s.name)
	}
	return names
}

// start starts a server of that kind. ctx bounds its life, too.
func (f *family) start(ctx context.Context, kind string) (*server, error) {
	return startServer(ctx, kind, f.config)
}

//go:embed notes/*.md
var notes embed.FS

// text is what the results say besides figures. {{NAME}} stands for a table.
func (f *family) text() (string, error) {
	b, err := notes.ReadFile("notes/" + f.notes)
	return string(b), err
}
