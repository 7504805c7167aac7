package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/store/redisstore"
	"github.com/redis/rueidis"
)

// openNone is a handler without a session: what the load generator itself costs.
func openNone(context.Context, string) (*app, error) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.Header["Cookie"][0]))
	})
	return &app{
		signIn: func(_ context.Context, i int) (string, error) { return greetings[i], nil },
		read:   inProcess(h, checkGreeting),
		close:  func() {},
	}, nil
}

// newClient returns a client with the settings of redisstore.OpenURL, but for two:
// its connection does not yield before it writes, and it has the delay that rueidis
// calls MaxFlushDelay, which is how long a command may wait for others that leave
// with it.
func newClient(url string, delay time.Duration) (rueidis.Client, error) {
	opts, err := rueidis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	opts.ForceSingleClient = true
	opts.DisableCache = true
	opts.ReadBufferEachConn, opts.WriteBufferEachConn = 64<<10, 64<<10
	opts.ConnWriteTimeout = 2 * time.Second
	opts.PipelineMultiplex = -1
	opts.MaxFlushDelay = delay
	return rueidis.NewClient(opts)
}

// openBare does what every sealed session must: it takes the ID from the cookie,
// hashes it, gets the value, derives a key, opens the value. It has no deadline,
// no expiry and no errors to speak of.
func openBare(_ context.Context, url string) (*app, error) {
	client, err := newClient(url, 0)
	if err != nil {
		return nil, err
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie("bare")
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		key, sealer, err := bareSecrets(cookie.Value)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		b, err := client.Do(r.Context(), client.B().Get().Key(key).Build()).AsBytes()
		if err != nil || len(b) < sealer.NonceSize() {
			http.Error(w, "no session", http.StatusUnauthorized)
			return
		}
		nonce, sealed := b[:sealer.NonceSize()], b[sealer.NonceSize():]
		text, err := sealer.Open(sealed[:0], nonce, sealed, []byte(key))
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		greeting, _, _ := bytes.Cut(text, []byte{0})
		_, _ = w.Write(greeting)
	})
	return &app{
		signIn: func(ctx context.Context, i int) (string, error) {
			id := base64.RawURLEncoding.EncodeToString(random(32))
			key, sealer, err := bareSecrets(id)
			if err != nil {
				return "", err
			}
			b := random(sealer.NonceSize())
			b = sealer.Seal(b, b, []byte(greetings[i]+"\x00"+cartJSON), []byte(key))
			return "bare=" + id, client.Do(ctx, client.B().Set().Key(key).Value(rueidis.BinaryString(b)).Px(idle).Build()).Error()
		},
		read:  inProcess(h, checkGreeting),
		close: client.Close,
	}, nil
}

func bareSecrets(cookie string) (key string, sealer cipher.AEAD, err error) {
	id, err := base64.RawURLEncoding.Strict().DecodeString(cookie)
	if err != nil {
		return "", nil, err
	}
	sum := sha256.Sum256(id)
	secret, err := hkdf.Expand(sha256.New, id, "bare", 32)
	if err != nil {
		return "", nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return "", nil, err
	}
	sealer, err = cipher.NewGCM(block)
	return "bare:" + base64.RawURLEncoding.EncodeToString(sum[:]), sealer, err
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// openGET is a GET for the key that the cookie is, and nothing else: what a round
// trip costs.
func openGET(delay time.Duration) func(context.Context, string) (*app, error) {
	return func(_ context.Context, url string) (*app, error) {
		client, err := newClient(url, delay)
		if err != nil {
			return nil, err
		}
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := client.Do(r.Context(), client.B().Get().Key(r.Header["Cookie"][0]).Build()).AsBytes()
			if err != nil {
				http.Error(w, err.Error(), http.StatusUnauthorized)
				return
			}
			greeting, _, _ := bytes.Cut(b, []byte{0})
			_, _ = w.Write(greeting)
		})
		return &app{
			signIn: func(ctx context.Context, i int) (string, error) {
				key := "get:" + base64.RawURLEncoding.EncodeToString(random(32))
				return key, client.Do(ctx, client.B().Set().Key(key).Value(greetings[i]+"\x00"+cartJSON).Px(idle).Build()).Error()
			},
			read:  inProcess(h, checkGreeting),
			close: client.Close,
		}, nil
	}
}

// openDelayed is Coatcheck over a client with that delay, which does not yield.
func openDelayed(delay time.Duration) func(context.Context, string) (*app, error) {
	return func(_ context.Context, url string) (*app, error) {
		client, err := newClient(url, delay)
		if err != nil {
			return nil, err
		}
		st, err := redisstore.New(client, &redisstore.Options{Prefix: fmt.Sprintf("delay-%d:", delay.Microseconds())})
		if err != nil {
			client.Close()
			return nil, err
		}
		return coatcheckApp(st, client.Close)
	}
}
