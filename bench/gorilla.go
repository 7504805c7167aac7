package main

import (
	"context"
	"net/http"

	"github.com/boj/redistore"
	"github.com/gorilla/sessions"
)

const gorillaCookie = "session"

// openGorilla saves with each request: gorilla has no idle timeout but the age of
// what was saved last.
func openGorilla(_ context.Context, url string) (*app, error) { return gorillaApp(url, true) }

// openGorillaNoIdle saves when something was changed, for reference.
func openGorillaNoIdle(_ context.Context, url string) (*app, error) { return gorillaApp(url, false) }

func gorillaApp(url string, withIdle bool) (*app, error) {
	st, err := redistore.NewRediStoreWithURL(concurrency, url, []byte("a key of thirty-two bytes for it"))
	if err != nil {
		return nil, err
	}
	st.SetMaxAge(int(idle.Seconds()))
	if !withIdle {
		st.SetKeyPrefix("gorilla_no_idle_")
	}
	// A session that cannot be loaded is an empty one, and then nobody is signed in.
	load := func(r *http.Request) *sessions.Session {
		s, _ := st.Get(r, gorillaCookie)
		return s
	}
	type changed struct{}
	b := bag{
		get: func(r *http.Request, name string) string {
			text, _ := load(r).Values[name].(string)
			return text
		},
		put: func(r *http.Request, name, value string) {
			s := load(r)
			s.Values[name] = value
			if !withIdle {
				*r = *r.WithContext(context.WithValue(r.Context(), changed{}, true))
			}
		},
		save: func(w http.ResponseWriter, r *http.Request) error {
			if !withIdle && r.Context().Value(changed{}) == nil {
				return nil
			}
			return load(r).Save(r, w)
		},
	}
	bare := func(h http.Handler) http.Handler { return h }
	return b.pages(bare).app(func() { _ = st.Close() }), nil
}
