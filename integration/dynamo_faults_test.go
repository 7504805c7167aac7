package integration

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

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

// throttling answers requests of the SDK like a table without capacity, as long as it
// has refusals left, and passes all others on. Of transactions it says so by the reasons
// for which they were given up.
type throttling struct{ left, answered atomic.Int64 }

func (l *throttling) Do(r *http.Request) (*http.Response, error) {
	if l.left.Add(-1) < 0 {
		return http.DefaultTransport.RoundTrip(r)
	}
	l.answered.Add(1)
	body := `{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"of secret-owner"}`
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".TransactWriteItems") {
		body = `{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","message":"of secret-owner","CancellationReasons":[{"Code":"None"},{"Code":"ThrottlingError"}]}`
	}
	return dynamoAnswer(r, body), nil
}

// dynamoAnswer is how DynamoDB refuses a request.
func dynamoAnswer(r *http.Request, body string) *http.Response {
	return &http.Response{
		Status: "400 Bad Request", StatusCode: http.StatusBadRequest, Request: r,
		ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(body)),
		Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}}, Body: io.NopCloser(strings.NewReader(body)),
	}
}

// TestDynamoThrottled: what a table has no capacity for is tried again until it has, or
// the caller's time is up; then the error says why, and that nothing was done.
func TestDynamoThrottled(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	f := dynamoNew(t, srv)
	limit := &throttling{}
	s, err := dynamostore.New(dynamoClient(srv.Nodes[0].Addr, func(o *dynamodb.Options) { o.HTTPClient = limit }), &dynamostore.Options{Table: f.Table()})
	dynamoMust(t, "New", err)
	k, r := numberedKey(1), dynamoSession(1)
	next := r
	next.Version = 2
	calls := []struct {
		name  string
		write bool
		call  func(context.Context) error
	}{
		{"Create", true, func(ctx context.Context) error { return s.Create(ctx, k, r) }}, // a transaction
		{"Get", false, func(ctx context.Context) error { _, err := s.Get(ctx, k); return err }},
		{"GetMany", false, func(ctx context.Context) error { _, err := s.GetMany(ctx, []store.Key{k}); return err }},
		{"List", false, func(ctx context.Context) error {
			for _, err := range s.List(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"ListOwner", false, func(ctx context.Context) error { _, err := s.ListOwner(ctx, r.Owner); return err }},
		{"Touch", true, func(ctx context.Context) error { return s.Touch(ctx, k, r.Expires.Add(time.Minute)) }},
		{"Replace", true, func(ctx context.Context) error { return s.Replace(ctx, k, 1, next) }},
		{"Delete", true, func(ctx context.Context) error { _, err := s.Delete(ctx, k); return err }},
	}
	for _, c := range calls {
		limit.left.Store(1 << 40)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := c.call(ctx)
		cancel()
		if c.write {
			refused(t, c.name+" without capacity", err)
		} else {
			failed(t, c.name+" without capacity", err)
		}
		mentions(t, c.name+" without capacity", err, "throttled")
		if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s without capacity: %v; want the context's error, and none of the server's words", c.name, err)
		}
		limit.answered.Store(0)
		limit.left.Store(2)
		dynamoMust(t, c.name+" when there is capacity again", c.call(t.Context()))
		if n := limit.answered.Load(); n != 2 {
			t.Errorf("%s was throttled %d times; want 2", c.name, n)
		}
	}
	if _, err := f.Get(t.Context(), k); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after all of them, the last of which deleted: %v; want ErrNotFound", err)
	}
}

// TestDynamoInspectFindsWhatIsWrong: each finding says what is wrong and what to do.
func TestDynamoInspectFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	client := dynamoClient(srv.Nodes[0].Addr)

	foreign := dynamoTable()
	dynamoMust(t, "CreateTable", dynamoForeign(t.Context(), srv, foreign, "id"))
	provisioned := dynamoTable()
	_, err := client.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: &provisioned,
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String("k"), AttributeType: types.ScalarAttributeTypeB},
			{AttributeName: aws.String("s"), AttributeType: types.ScalarAttributeTypeB},
		},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String("k"), KeyType: types.KeyTypeHash}, {AttributeName: aws.String("s"), KeyType: types.KeyTypeRange},
		},
		ProvisionedThroughput: &types.ProvisionedThroughput{ReadCapacityUnits: aws.Int64(5), WriteCapacityUnits: aws.Int64(5)},
	})
	dynamoMust(t, "CreateTable", err)

	for _, c := range []struct {
		what, table string
		denied      bool
		want        map[string]store.Severity
		says        string
	}{
		{"somebody else's table", foreign, false, map[string]store.Severity{"table": store.SeverityCritical}, "name another table"},
		{"a table made by hand", provisioned, false, map[string]store.Severity{
			"table": store.SeverityOK, "ttl": store.SeverityWarning, "capacity": store.SeverityWarning, "protection": store.SeverityWarning,
		}, "on demand"},
		{"credentials that may not look", provisioned, true, map[string]store.Severity{
			"table": store.SeverityUnknown, "ttl": store.SeverityUnknown, "capacity": store.SeverityUnknown, "protection": store.SeverityUnknown,
		}, "dynamodb:DescribeTable"},
	} {
		s, err := dynamostore.New(dynamoClient(srv.Nodes[0].Addr, func(o *dynamodb.Options) {
			if c.denied {
				o.HTTPClient = denied{}
			}
		}), &dynamostore.Options{Table: c.table})
		dynamoMust(t, "New", err)
		found, err := s.Inspect(t.Context())
		dynamoMust(t, "Inspect of "+c.what, err)
		said := ""
		for _, f := range found {
			if want, ok := c.want[f.Check]; ok && f.Severity != want {
				t.Errorf("%s: %s is found to be %v (%s); want %v", c.what, f.Check, f.Severity, f.Evidence, want)
			}
			delete(c.want, f.Check)
			said += f.Evidence + " " + f.Fix + "\n"
		}
		if len(c.want) > 0 || !strings.Contains(said, c.says) {
			t.Errorf("%s: not found are %v, and %q is to be in\n%s", c.what, c.want, c.says, said)
		}
	}
}

// denied answers every request of the SDK as AWS does to credentials without rights.
type denied struct{}

func (denied) Do(r *http.Request) (*http.Response, error) {
	const body = `{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"User: arn:aws:iam::1:user/x is not authorized"}`
	return dynamoAnswer(r, body), nil
}
