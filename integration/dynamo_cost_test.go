package integration

import (
	"context"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/dynamostore"
)

// meter has the server tell what each request costs, and adds it up.
type meter struct {
	mu    sync.Mutex
	units float64
}

// attach is for dynamodb.Options.
func (m *meter) attach(o *dynamodb.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("meter", m.measure), middleware.Before)
	})
}

func (m *meter) measure(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
	// Every input and output of an operation on items has these fields.
	reflect.ValueOf(in.Parameters).Elem().FieldByName("ReturnConsumedCapacity").SetString(string(types.ReturnConsumedCapacityTotal))
	out, meta, err := next.HandleInitialize(ctx, in)
	if err != nil {
		return out, meta, err
	}
	var all []types.ConsumedCapacity
	switch told := reflect.ValueOf(out.Result).Elem().FieldByName("ConsumedCapacity").Interface().(type) {
	case *types.ConsumedCapacity:
		if told != nil {
			all = append(all, *told)
		}
	case []types.ConsumedCapacity:
		all = told
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range all {
		m.units += aws.ToFloat64(c.CapacityUnits)
	}
	return out, meta, nil
}

// take returns what was added up since the last time.
func (m *meter) take() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	units := m.units
	m.units = 0
	return units
}

// TestDynamoCosts: each operation takes what the documentation says of a session of
// up to 1 KB, by the server's own word.
func TestDynamoCosts(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	table := dynamoNew(t, srv).Table()
	var m meter
	s, err := dynamostore.New(dynamoClient(srv.Nodes[0].Addr, m.attach), &dynamostore.Options{Table: table})
	dynamoMust(t, "New", err)
	ctx := t.Context()
	owned, nobodys := dynamoSession(1), dynamoSession(2)
	owned.Owner, nobodys.Owner = "alice", ""
	changed := func(r store.Record, version uint64) store.Record {
		r.Version = version
		return r
	}
	for _, c := range []struct {
		what string
		call func() error
		want float64
	}{
		{"Create", func() error { return s.Create(ctx, numberedKey(2), nobodys) }, 1},
		{"Create with an owner", func() error { return s.Create(ctx, numberedKey(1), owned) }, 4},
		{"Get", func() error { _, err := s.Get(ctx, numberedKey(1)); return err }, 1},
		{"Get of nothing", func() error { _, _ = s.Get(ctx, numberedKey(9)); return nil }, 1},
		{"GetMany of two", func() error { _, err := s.GetMany(ctx, []store.Key{numberedKey(1), numberedKey(2)}); return err }, 2},
		{"Replace", func() error { return s.Replace(ctx, numberedKey(1), 1, changed(owned, 2)) }, 1},
		{"Replace of nobody's", func() error { return s.Replace(ctx, numberedKey(2), 1, changed(nobodys, 2)) }, 1},
		{"Touch", func() error { return s.Touch(ctx, numberedKey(1), owned.Expires.Add(time.Minute)) }, 1},
		{"ListOwner of one", func() error { _, err := s.ListOwner(ctx, "alice"); return err }, 2},
		{"Delete of nobody's", func() error { _, err := s.Delete(ctx, numberedKey(2)); return err }, 1},
		{"Delete with an owner", func() error { _, err := s.Delete(ctx, numberedKey(1)); return err }, 2},
		{"Create, to delete it", func() error { return s.Create(ctx, numberedKey(3), owned) }, 4},
		{"DeleteOwner of one", func() error { _, err := s.DeleteOwner(ctx, "alice"); return err }, 3},
	} {
		m.take()
		dynamoMust(t, c.what, c.call())
		if got := m.take(); got != c.want {
			t.Errorf("%s takes %v units, want %v", c.what, got, c.want)
		}
	}

	// The documentation says so.
	text, err := os.ReadFile("../store/dynamostore/doc.go")
	dynamoMust(t, "documentation", err)
	for _, says := range []string{
		"Get +1 read", "GetMany +1 read for each key", "Create, Replace, Touch +1 write; Create with an owner 4",
		"Delete +1 write; with an owner 2", "ListOwner +1 read for each session, and 1 for", "DeleteOwner +2 writes for each session, and 1 read for",
	} {
		if !regexp.MustCompile(says).Match(text) {
			t.Errorf("the documentation does not say %q", strings.ReplaceAll(says, " +", " "))
		}
	}
}
