package integration

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/dynamostore"
)

// TestDynamoLostAnswers: a write that took effect, and whose answer never came, is
// ErrAmbiguous: no conflict with itself by a hidden second attempt, and no absence.
func TestDynamoLostAnswers(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	for _, c := range []struct {
		name string
		call func(ctx context.Context, s *dynamostore.Store, k store.Key, r store.Record) error
		done func(r store.Record, err error) bool
	}{
		{
			"Create",
			func(ctx context.Context, s *dynamostore.Store, k store.Key, r store.Record) error {
				if _, err := s.Delete(ctx, k); err == nil {
					return errors.New("an answer was not lost")
				}
				r.Version = 2
				return s.Create(ctx, k, r)
			},
			func(r store.Record, err error) bool { return err == nil && r.Version == 2 },
		},
		{
			"Replace",
			func(ctx context.Context, s *dynamostore.Store, k store.Key, r store.Record) error {
				r.Version = 2
				return s.Replace(ctx, k, 1, r)
			},
			func(r store.Record, err error) bool { return err == nil && r.Version == 2 },
		},
		{
			"Touch",
			func(ctx context.Context, s *dynamostore.Store, k store.Key, r store.Record) error {
				return s.Touch(ctx, k, r.Expires.Add(time.Hour))
			},
			func(r store.Record, err error) bool { return err == nil && time.Until(r.Expires) > time.Hour },
		},
		{
			"Delete",
			func(ctx context.Context, s *dynamostore.Store, k store.Key, _ store.Record) error {
				_, err := s.Delete(ctx, k)
				return err
			},
			func(_ store.Record, err error) bool { return errors.Is(err, store.ErrNotFound) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := dynamoNew(t, srv)
			p := redisProxy(t, srv.Nodes[0].Addr)
			s := dynamoOpen(t, p.Listen, f.Table())
			k, r := numberedKey(1), dynamoSession(1)
			dynamoMust(t, "Create", f.Create(t.Context(), k, r))
			// What goes down is swallowed, and the connection then closed.
			redisToxic(t, p, `{"name":"lost","type":"limit_data","stream":"downstream","toxicity":1,"attributes":{"bytes":0}}`)
			err := c.call(t.Context(), s, k, r)
			if !errors.Is(err, store.ErrAmbiguous) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s whose answer was lost: %v; want ErrAmbiguous alone", c.name, err)
			}
			redisEventually(t, c.name+" to have taken effect, for the request was passed on", func() bool { return c.done(f.Get(t.Context(), k)) })
		})
	}
}

// TestDynamoRestart: what was acknowledged outlives a crash; a write that reaches no
// server is not ambiguous; and all goes on by itself.
func TestDynamoRestart(t *testing.T) {
	t.Parallel()
	srv := testserver.Start(t, "dynamo", nil)
	s := dynamoNew(t, srv)
	k, r := numberedKey(1), dynamoSession(1)
	dynamoMust(t, "Create", s.Create(t.Context(), k, r))
	srv.Kill(t, "node-1")
	redisEventually(t, "the connection to be known as broken, and nothing more", func() bool {
		err := s.Replace(t.Context(), k, 1, r)
		if err == nil {
			t.Fatal("Replace on a dead server succeeded")
		}
		return !errors.Is(err, store.ErrAmbiguous)
	})
	refused(t, "Create on a dead server", s.Create(t.Context(), numberedKey(2), r))
	srv.Restart(t, "node-1")
	if got, err := s.Get(t.Context(), k); err != nil || got.Version != 1 {
		t.Fatalf("Get after the restart: version %d, %v; want what was there", got.Version, err)
	}
	r.Version = 2
	dynamoMust(t, "Replace after the restart", s.Replace(t.Context(), k, 1, r))
	if list, err := s.ListOwner(t.Context(), r.Owner); err != nil || len(list) != 1 {
		t.Errorf("ListOwner after the restart: %d sessions, %v; want 1", len(list), err)
	}
}

// TestDynamoSilence: a server that has stopped is no absence and no conflict, and
// holds a caller no longer than their deadline.
func TestDynamoSilence(t *testing.T) {
	t.Parallel()
	srv := testserver.Start(t, "dynamo", nil)
	s := dynamoNew(t, srv)
	srv.Freeze(t, "node-1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Create(ctx, numberedKey(1), dynamoSession(1)); !errors.Is(err, store.ErrAmbiguous) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Create: %v; want ErrAmbiguous and the context's error", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Get(ctx, numberedKey(1)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get: %v; want the context's error, and no absence", err)
	}
}

// TestDynamoInspect: what Migrate has made is found to be as it should be.
func TestDynamoInspect(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	found, err := dynamoNew(t, srv).Inspect(t.Context())
	dynamoMust(t, "Inspect", err)
	got := map[string]store.Severity{}
	for _, f := range found {
		got[f.Check] = f.Severity
	}
	for check, want := range map[string]store.Severity{
		"tls": store.SeverityWarning, "table": store.SeverityOK, "ttl": store.SeverityOK, "capacity": store.SeverityOK, "regions": store.SeverityOK,
	} {
		if s, ok := got[check]; !ok || s != want {
			t.Errorf("%s is found to be %v (found at all: %v); want %v", check, s, ok, want)
		}
	}
	found, err = dynamoOpen(t, srv.Nodes[0].Addr, dynamoTable()).Inspect(t.Context())
	dynamoMust(t, "Inspect without a table", err)
	if last := found[len(found)-1]; last.Check != "table" || last.Severity != store.SeverityCritical {
		t.Errorf("without a table: %+v; want a critical finding", last)
	}
}

// loseFirst passes requests on and loses the first answer.
type loseFirst struct{ lost bool }

func (l *loseFirst) Do(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && !l.lost {
		l.lost = true
		res.Body.Close()
		return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: io.ErrUnexpectedEOF}
	}
	return res, err
}

// TestDynamoNoHiddenRetry: a second attempt, whose answer would arrive, finds the
// first one's version, and would be taken for a conflict.
func TestDynamoNoHiddenRetry(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	f := dynamoNew(t, srv)
	k, r := numberedKey(1), dynamoSession(1)
	dynamoMust(t, "Create", f.Create(t.Context(), k, r))
	s, err := dynamostore.New(dynamoClient(srv.Nodes[0].Addr, func(o *dynamodb.Options) { o.HTTPClient = &loseFirst{} }), &dynamostore.Options{Table: f.Table()})
	dynamoMust(t, "New", err)
	r.Version = 2
	if err := s.Replace(t.Context(), k, 1, r); !errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("Replace whose first answer was lost: %v; want ErrAmbiguous", err)
	}
	if got, err := f.Get(t.Context(), k); err != nil || got.Version != 2 {
		t.Errorf("Get after it: version %d, %v; want 2", got.Version, err)
	}
}
