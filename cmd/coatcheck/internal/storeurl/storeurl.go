// Package storeurl opens session stores by URL, for the command line.
//
//	sqlite:PATH   a SQLite file, shared by all processes of this machine
//	memory:       the memory of one process
//	redis://HOST  Redis or Valkey, in one of the forms that package redisstore
//	              describes
//	postgres://USER:PASSWORD@HOST/DATABASE, or mysql:// or mariadb://
//	              a SQL server
//	mongodb://USER:PASSWORD@HOST/DATABASE, or mongodb+srv://
//	              MongoDB, as package mongostore describes
//	dynamodb://[TABLE]
//	              DynamoDB, as package dynamostore describes
package storeurl

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/coatcheck/coatcheck/store/dynamostore"
	"github.com/coatcheck/coatcheck/store/mongostore"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// Supported is what messages say of the URLs that work.
const Supported = "sqlite:PATH (a file that the processes of this machine share), redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], redis+sentinel://HOST,HOST,.../PRIMARY, redis+cluster://HOST,HOST,... (each also with rediss for TLS, and with valkey), postgres://USER:PASSWORD@HOST[:PORT]/DATABASE?sslmode=verify-full, mysql://USER:PASSWORD@HOST[:PORT]/DATABASE?tls=true (or mariadb://), mongodb://USER:PASSWORD@HOST[:PORT]/DATABASE?tls=true (or mongodb+srv://), dynamodb://TABLE?region=REGION or memory: (one process only, gone when it ends)"

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
	postgres
	mySQL
	mariaDB
	mongoDB
	dynamoDB
)

// unsupported are kinds of URLs that people may try. Only these are named in an
// error: the first word of anything else may be part of a password.
var unsupported = []string{
	"file", "sqlite3", "sqlserver",
}

// redises are the kinds of URLs that package redisstore takes.
var redises = map[string]kind{"redis": redis, "rediss": redis, "valkey": valkey, "valkeys": valkey}

// sqls are the kinds of URLs of SQL servers.
var sqls = map[string]kind{"postgres": postgres, "postgresql": postgres, "mysql": mySQL, "mariadb": mariaDB}

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
	case sqls[scheme] != none:
		if _, err := parseSQL(s); err != nil {
			return URL{}, err
		}
		return URL{kind: sqls[scheme], raw: s}, nil
	case base == "mongodb":
		if err := mongostore.CheckURL(s, nil); err != nil {
			return URL{}, errors.New(strings.TrimPrefix(err.Error(), "mongostore: "))
		}
		return URL{kind: mongoDB, raw: s}, nil
	case scheme == "dynamodb":
		if err := dynamostore.CheckURL(s, nil); err != nil {
			return URL{}, errors.New(strings.TrimPrefix(err.Error(), "dynamostore: "))
		}
		return URL{kind: dynamoDB, raw: s}, nil
	case scheme == "http", scheme == "https", scheme == "tcp":
		return URL{}, errors.New("the session store is no web server: write redis://HOST:PORT for Redis or Valkey, or rediss://HOST:PORT with TLS")
	case isAddress(s):
		return URL{}, errors.New("this is an address, and the store URL says what is there as well: write redis://HOST:PORT for Redis or Valkey, or rediss://HOST:PORT with TLS")
	case slices.Contains(unsupported, scheme):
		return URL{}, fmt.Errorf("stores of kind %q are not supported; supported are %s", scheme, Supported)
	}
	return URL{}, fmt.Errorf("this kind of store URL is not supported; supported are %s", Supported)
}

// isAddress reports whether s is HOST:PORT.
func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	_, numErr := strconv.ParseUint(port, 10, 16)
	return err == nil && numErr == nil
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
func (u URL) network() bool { return u.redis() || u.sql() || u.kind == mongoDB || u.kind == dynamoDB }

// redis reports whether the store is Redis or Valkey.
func (u URL) redis() bool { return u.kind == redis || u.kind == valkey }

// sql reports whether the store is a SQL server.
func (u URL) sql() bool { return u.kind == postgres || u.kind == mySQL || u.kind == mariaDB }

var kinds = [...]string{
	none: "none", sqlite: "sqlite", memory: "memory", redis: "redis", valkey: "valkey",
	postgres: "postgres", mySQL: "mysql", mariaDB: "mariadb",
	mongoDB: "mongodb", dynamoDB: "dynamodb",
}

// Kind returns "sqlite", "memory", "redis", "valkey", "postgres", "mysql",
// "mariadb", "mongodb" or "dynamodb".
func (u URL) Kind() string { return kinds[u.kind] }

// String returns the URL as it may be shown: without credentials. Of one on the
// network that is the hosts, and the names of a primary and a database if
// they are in it, and of DynamoDB the table if it is.
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

// Name is what people call the store: of a file the name without its folders, and else
// [URL.String].
func (u URL) Name() string {
	if u.kind == sqlite {
		return u.Kind() + " " + filepath.Base(u.path)
	}
	return u.String()
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
