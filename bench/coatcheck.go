package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/session"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/redisstore"
)

var (
	nameAttr = session.NewAttr[string]("name")
	cartAttr = session.NewAttr[[]item]("cart")
)

// openCoatcheck is the store as its documentation opens it.
func openCoatcheck(ctx context.Context, url string) (*app, error) {
	p, closing, err := coatcheckHandlers(ctx, url)
	if err != nil {
		return nil, err
	}
	return p.app(closing), nil
}

func coatcheckHandlers(ctx context.Context, url string) (pages, func(), error) {
	st, err := redisstore.OpenURL(ctx, url, nil)
	if err != nil {
		return pages{}, nil, err
	}
	p, err := coatcheckPages(st)
	if err != nil {
		_ = st.Close()
	}
	return p, func() { _ = st.Close() }, err
}

// openTouching makes one read in ten record activity.
func openTouching(ctx context.Context, url string) (*app, error) {
	return openAging(ctx, url, 10)
}

func openAging(ctx context.Context, url string, every uint64) (*app, error) {
	st, err := redisstore.OpenURL(ctx, url, &redisstore.Options{Prefix: "touching:"})
	if err != nil {
		return nil, err
	}
	return coatcheckApp(&aging{Store: st, every: every}, func() { _ = st.Close() })
}

// openNear is with the near cache, and the invalidation that Redis pushes. It has
// a prefix of its own, so that what other rows write is not told to it.
func openNear(ctx context.Context, url string) (*app, error) {
	st, err := redisstore.OpenURL(ctx, url, &redisstore.Options{Prefix: "near:"})
	if err != nil {
		return nil, err
	}
	cache, err := nearcache.New(st, nil)
	if err != nil {
		_ = st.Close()
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cache.Run(run) }()
	closing := func() { stop(); <-ended; _ = st.Close() }
	if err := await(ctx, func() bool { return cache.Stats().Pushing }); err != nil {
		closing()
		return nil, fmt.Errorf("the near cache is not told of changes: %w", err)
	}
	a, err := coatcheckApp(cache, closing)
	if err == nil {
		a.cached = true
	}
	return a, err
}

// await polls until ok, or ctx ends.
func await(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// An aging store answers one read in every so many with a record that looks as if
// it had been used last seven minutes ago. That is more than a tenth of the idle
// timeout, so the manager records the activity, and the touch is a real one: it
// makes the record expire later.
type aging struct {
	store.Store
	every uint64
	reads atomic.Uint64
}

func (a *aging) Get(ctx context.Context, k store.Key) (store.Record, error) {
	r, err := a.Store.Get(ctx, k)
	if err == nil && a.reads.Add(1)%a.every == 0 {
		r.Expires = r.Expires.Add(-7 * time.Minute)
	}
	return r, err
}

// coatcheckApp calls closing, too, if it fails.
func coatcheckApp(st store.Store, closing func()) (*app, error) {
	p, err := coatcheckPages(st)
	if err != nil {
		closing()
		return nil, err
	}
	return p.app(closing), nil
}

func coatcheckPages(st store.Store) (pages, error) {
	m, err := session.New(st, &session.Options{
		InsecureCookie: true,
		Policy:         session.Policy{Idle: idle, Absolute: absolute},
		Logger:         slog.New(slog.DiscardHandler), // what fails is an error of the page
	})
	if err != nil {
		return pages{}, err
	}
	page := func(f func(r *http.Request, s *session.Session) (string, error)) http.Handler {
		return m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, err := f(r, m.From(r.Context()))
			switch {
			case errors.Is(err, errSignedOut):
				http.Error(w, err.Error(), http.StatusUnauthorized)
			case err != nil:
				m.HandleError(w, r, err)
			default:
				_, _ = w.Write([]byte(text))
			}
		}))
	}
	signedIn := func(f func(r *http.Request, s *session.Session, user string) (string, error)) http.Handler {
		return page(func(r *http.Request, s *session.Session) (string, error) {
			user := s.Owner()
			if user == "" {
				return "", errSignedOut
			}
			return f(r, s, user)
		})
	}
	return pages{
		signIn: page(func(r *http.Request, s *session.Session) (string, error) {
			return "ok", errors.Join(
				nameAttr.Set(s, r.FormValue("name")),
				cartAttr.Set(s, items),
				s.SignIn(r.Context(), r.FormValue("user"), nil),
			)
		}),
		read: signedIn(func(_ *http.Request, s *session.Session, user string) (string, error) {
			name, err := nameAttr.Get(s)
			return user + " " + name, err
		}),
		all: signedIn(func(_ *http.Request, s *session.Session, user string) (string, error) {
			name, err := nameAttr.Get(s)
			if err != nil {
				return "", err
			}
			cart, err := cartAttr.Get(s)
			if err != nil || len(cart) == 0 {
				return "", errors.Join(errAnswer, err)
			}
			return user + " " + name + " " + strconv.Itoa(cart[0].Quantity), nil
		}),
		write: signedIn(func(_ *http.Request, s *session.Session, _ string) (string, error) {
			err := cartAttr.Update(s, func(c []item) ([]item, error) {
				if len(c) == 0 {
					return nil, errAnswer
				}
				c[0].Quantity++
				return c, nil
			})
			return "ok", err // the middleware commits before the first byte
		}),
	}, nil
}
