package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

// Writes below the sessions: compare-and-swap of a record, and a plain write of as
// many bytes. Workers have keys of their own, so that every write succeeds.

const dataSize = 230 // what the values of a session take when sealed

// openCAS replaces records in the store.
func openCAS(ctx context.Context, url string) (*app, error) {
	st, err := redisstore.OpenURL(ctx, url, &redisstore.Options{Prefix: "cas:"})
	if err != nil {
		return nil, err
	}
	return casApp(ctx, st, func() { _ = st.Close() }), nil
}

func casApp(ctx context.Context, st store.Store, closing func()) *app {
	created := time.Now()
	record := func(version uint64) store.Record {
		return store.Record{Version: version, Created: created, Deadline: created.Add(absolute), Expires: time.Now().Add(idle), Data: data}
	}
	versions := make([]uint64, maxSessions)
	key := newKeys()
	return &app{
		signIn: func(ctx context.Context, i int) (string, error) {
			versions[i] = 1
			return "", st.Create(ctx, key(i), record(1))
		},
		write: func(worker int) op {
			return func(i int, _ string) ([]byte, error) {
				i = own(i, worker)
				old := versions[i]
				err := st.Replace(ctx, key(i), old, record(old+1))
				if err == nil {
					versions[i]++
				}
				return nil, err
			}
		},
		close: closing,
	}
}

// newKeys returns a function that numbers keys, which are new, whoever was here
// before.
func newKeys() func(i int) store.Key {
	first := store.Key(random(32))
	return func(i int) store.Key {
		k := first
		binary.BigEndian.PutUint64(k[:], uint64(i))
		return k
	}
}

// openSET writes with SET and a time to live.
func openSET(ctx context.Context, url string) (*app, error) {
	client, err := newClient(url, 0)
	if err != nil {
		return nil, err
	}
	const header = 60 // of a record
	value := string(append(random(header), data...))
	first := random(16)
	set := func(i int) error {
		return client.Do(ctx, client.B().Set().Key(fmt.Sprintf("set:%x%011d", first, i)).Value(value).Px(idle).Build()).Error()
	}
	return &app{
		signIn: func(_ context.Context, i int) (string, error) { return "", set(i) },
		write:  func(worker int) op { return func(i int, _ string) ([]byte, error) { return nil, set(own(i, worker)) } },
		close:  client.Close,
	}, nil
}

const maxSessions = 100_000

var data = random(dataSize)

// own returns a number near i that is the worker's, and not above the highest
// session if there is one for each worker.
func own(i, worker int) int { return max(i/concurrency-1, 0)*concurrency + worker }

// bareRecord is a record that is as large as that of a session and begins with what
// a bare read answers.
func bareRecord(i int, now time.Time) store.Record {
	text := append([]byte(greetings[i]+"\x00"+cartJSON), make([]byte, dataSize)...)
	return store.Record{
		Version: 1, Handle: store.Handle(random(16)), Owner: user(i),
		Created: now, Deadline: now.Add(absolute), Expires: now.Add(idle), Data: text[:dataSize],
	}
}

// createBare stores such records and returns their keys as cookies.
func createBare(st store.Store) func(ctx context.Context, i int) (string, error) {
	return func(ctx context.Context, i int) (string, error) {
		k := store.Key(random(32))
		return base64.RawURLEncoding.EncodeToString(k[:]), st.Create(ctx, k, bareRecord(i, time.Now()))
	}
}

// bareRead reads the data of a record by the key that the cookie is.
func bareRead(get func(ctx context.Context, key []byte) (data []byte, err error)) page {
	return inProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := base64.RawURLEncoding.DecodeString(r.Header["Cookie"][0])
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		data, err := get(r.Context(), key)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		greeting, _, _ := bytes.Cut(data, []byte{0})
		_, _ = w.Write(greeting)
	}), checkGreeting)
}

// bareWrite writes records of st by a function that asks for nothing, not even for
// what the record was.
func bareWrite(st store.Store, update func(ctx context.Context, k store.Key) error, closing func()) *app {
	key := newKeys()
	return &app{
		signIn: func(ctx context.Context, i int) (string, error) {
			r := bareRecord(i, time.Now())
			r.Owner = "" // as in casApp
			return "", st.Create(ctx, key(i), r)
		},
		write: func(worker int) op {
			return func(i int, _ string) ([]byte, error) {
				return nil, update(context.Background(), key(own(i, worker)))
			}
		},
		close: closing,
	}
}
