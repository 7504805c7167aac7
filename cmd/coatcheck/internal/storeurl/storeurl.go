// Package storeurl opens session stores by URL, for the command line.
//
//	sqlite:PATH   a SQLite file, shared by all processes of this machine
//	memory:       the memory of one process
//	redis://HOST  Redis or Valkey, as package redisstore describes
package storeurl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/coatcheck/coatcheck/store/redisstore"
)

// Supported is what messages say of the URLs that work.
const Supported = "sqlite:PATH (a file that the processes of this machine share), redis://HOST (also rediss for TLS, valkey and valkeys; with +sentinel or +cluster) or memory: (one process only, gone when it ends)"

// URL names a store. The zero value names none; [Parse] and [Default] make one.
type URL struct {
	kind kind
	path string // absolute; of SQLite
	raw  string // of a store on the network: a secret
	// private: the file is in a folder of our own, which may be created.
	private bool
}

type kind int

const (
	none kind = iota
	sqlite
	memory
	redis
	valkey
)

// unsupported are kinds of URLs that people may try. Only these are named in an
// error: the first word of anything else may be part of a password.
var unsupported = []string{
	"dynamodb", "file", "mariadb", "mongodb", "mongodb+srv", "mysql", "postgres", "postgresql",
	"sqlite3",
}

// redises are the kinds of URLs that package redisstore takes.
var redises = map[string]kind{"redis": redis, "rediss": redis, "valkey": valkey, "valkeys": valkey}

// Parse returns the URL written in s. "" is [Default]. Its errors say what is
// supported and hold nothing of s, which may have a password in it.
func Parse(s string) (URL, error) {
	if s == "" {
		return Default()
	}
	scheme, rest, ok := strings.Cut(s, ":")
	base, _, _ := strings.Cut(scheme, "+")
	switch {
	case !ok:
		return URL{}, fmt.Errorf("the store URL does not begin with its kind; supported are %s", Supported)
	case scheme == "memory":
		if rest != "" {
			return URL{}, errors.New("the store URL memory: has nothing after the colon")
		}
		return URL{kind: memory}, nil
	case scheme == "sqlite":
		return parseSQLite(rest)
	case redises[base] != none:
		if err := redisstore.CheckURL(s, nil); err != nil {
			return URL{}, errors.New(strings.TrimPrefix(err.Error(), "redisstore: ")) // the flag is named before it
		}
		return URL{kind: redises[base], raw: s}, nil
	case slices.Contains(unsupported, scheme):
		return URL{}, fmt.Errorf("stores of kind %q are not supported; supported are %s", scheme, Supported)
	}
	return URL{}, fmt.Errorf("this kind of store URL is not supported; supported are %s", Supported)
}

func parseSQLite(path string) (URL, error) {
	if after, ok := strings.CutPrefix(path, "//"); ok {
		if !strings.HasPrefix(after, "/") {
			return URL{}, errors.New("a store URL with sqlite:// has a third slash and an absolute path, as sqlite:///var/lib/app/sessions.db; without slashes, sqlite:sessions.db is relative")
		}
		path = after
	}
	switch {
	case path == "":
		return URL{}, errors.New("the store URL sqlite: has a path after the colon, as sqlite:sessions.db")
	case strings.HasPrefix(path, ":memory:"):
		return URL{}, errors.New("SQLite in memory is not supported; use memory: for one worker, or sqlite:PATH")
	case strings.ContainsFunc(path, unicode.IsControl):
		return URL{}, errors.New("the path of the store URL sqlite: has a control character in it, as a line end or a zero byte; see how the shell or the file that it comes from quotes it")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return URL{}, fmt.Errorf("path of the store URL: %w", err)
	}
	return URL{kind: sqlite, path: path}, nil
}

// Default returns the URL of a SQLite file in the user's cache folder.
func Default() (URL, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return URL{}, fmt.Errorf("no folder for the session store (%w); name one with --store sqlite:PATH", err)
	}
	return URL{kind: sqlite, path: filepath.Join(dir, "coatcheck", "sessions.db"), private: true}, nil
}

// Shared reports whether several processes that open the URL see the same
// sessions.
func (u URL) Shared() bool { return u.kind == sqlite || u.network() }

// network reports whether the store is a server that can be away while we are
// here.
func (u URL) network() bool { return u.kind == redis || u.kind == valkey }

var kinds = [...]string{none: "none", sqlite: "sqlite", memory: "memory", redis: "redis", valkey: "valkey"}

// Kind returns "sqlite", "memory", "redis" or "valkey".
func (u URL) Kind() string { return kinds[u.kind] }

// String returns the URL as it may be shown: without credentials. Of one on the
// network that is the hosts, and the name of a primary and the number of a
// database if they are in it.
func (u URL) String() string {
	switch {
	case u.kind == sqlite:
		return "sqlite:" + u.path
	case u.network():
		scheme, rest, _ := strings.Cut(u.raw, "://")
		rest, _, _ = strings.Cut(rest, "?")
		authority, path, _ := strings.Cut(rest, "/")
		hosts := authority[strings.LastIndex(authority, "@")+1:]
		return strings.TrimRight(scheme+"://"+hosts+"/"+path, "/")
	}
	return u.Kind() + ":"
}

// Raw returns the whole URL, credentials included, for [Parse] in another
// process. It is not to be shown.
func (u URL) Raw() string {
	if u.network() {
		return u.raw
	}
	return u.String()
}

// GoString keeps a URL out of what is printed for debugging.
func (u URL) GoString() string { return fmt.Sprintf("storeurl.URL(%s)", u) }
