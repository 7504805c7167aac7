package integration

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/breaker"
	"github.com/coatcheck/coatcheck/store/dynamostore"
	"github.com/coatcheck/coatcheck/store/nearcache"
	"github.com/coatcheck/coatcheck/store/storetest"
)

// dynamoTable is the name of a table that nobody else has in a server that tests
// share.
func dynamoTable() string { return strings.ToLower(rand.Text()[:10]) }

// dynamoURL returns the URL of a table at addr.
func dynamoURL(addr, table string) string {
	return "dynamodb://" + table + "?endpoint=" + url.QueryEscape("http://"+addr)
}

// dynamoOpen returns a store of that table, which it does not create.
func dynamoOpen(t testing.TB, addr, table string) *dynamostore.Store {
	t.Helper()
	s, err := dynamostore.OpenURL(t.Context(), dynamoURL(addr, table), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// dynamoNew returns a store of a new table.
func dynamoNew(t testing.TB, srv *testserver.Server) *dynamostore.Store {
	t.Helper()
	s := dynamoOpen(t, srv.Nodes[0].Addr, dynamoTable())
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// dynamoClient returns a client of the test's own.
func dynamoClient(addr string, set ...func(*dynamodb.Options)) *dynamodb.Client {
	return dynamodb.New(dynamodb.Options{
		Region: "us-east-1", BaseEndpoint: aws.String("http://" + addr),
		Credentials: credentials.NewStaticCredentialsProvider("coatcheck", "coatcheck", ""),
	}, set...)
}

// dynamoCount returns how many items a table has, entries and what has expired too.
func dynamoCount(t testing.TB, srv *testserver.Server, table string) int {
	t.Helper()
	n := 0
	pages := dynamodb.NewScanPaginator(dynamoClient(srv.Nodes[0].Addr), &dynamodb.ScanInput{TableName: &table, ConsistentRead: aws.Bool(true)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		n += len(page.Items)
	}
	return n
}

func dynamoConfig(t testing.TB, srv *testserver.Server) storetest.Config {
	dynamoNew(t, srv) // else every rule says the same
	return storetest.Config{
		New: func(t *testing.T) store.Store { return dynamoNew(t, srv) },
		Second: func(t *testing.T, s store.Store) store.Store {
			return dynamoOpen(t, srv.Nodes[0].Addr, s.(*dynamostore.Store).Table())
		},
		MaxData: 384 << 10,
		Count: func(t *testing.T, s store.Store) int {
			return dynamoCount(t, srv, s.(*dynamostore.Store).Table())
		},
	}
}

func TestDynamo(t *testing.T) {
	t.Parallel()
	storetest.Run(t, dynamoConfig(t, testserver.Shared(t, "dynamo")))
}

// TestDynamoScripts: random sequences of operations end as they do in memory.
func TestDynamoScripts(t *testing.T) {
	t.Parallel()
	storetest.RunScripts(t, dynamoConfig(t, testserver.Shared(t, "dynamo")), scripts()...)
}

// TestDynamoWrapped: the wrappers keep the contract over it.
func TestDynamoWrapped(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	for name, wrap := range map[string]func(store.Store) (store.Store, error){
		"nearcache": func(s store.Store) (store.Store, error) { return nearcache.New(s, nil) },
		"breaker": func(s store.Store) (store.Store, error) {
			return breaker.New(s, &breaker.Options{Timeout: 10 * time.Second})
		},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.RunScripts(t, storetest.Config{
				New: func(t *testing.T) store.Store {
					s, err := wrap(dynamoNew(t, srv))
					if err != nil {
						t.Fatal(err)
					}
					return s
				},
				MaxData: 384 << 10,
			}, 1)
		})
	}
}

// TestDynamoMigrate: any number of servers may create the table at once, and again,
// and Verify tells what is wrong before.
func TestDynamoMigrate(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	table := dynamoTable()
	first := dynamoOpen(t, srv.Nodes[0].Addr, table)
	mentions(t, "Verify without a table", first.Verify(t.Context()), "Migrate creates it")
	const n = 8
	done := make(chan error, n)
	for range n {
		s := dynamoOpen(t, srv.Nodes[0].Addr, table)
		go func() { done <- s.Migrate(t.Context()) }()
	}
	for range n {
		if err := <-done; err != nil {
			t.Errorf("one of %d Migrates at once: %v", n, err)
		}
	}
	for _, f := range []func(context.Context) error{first.Verify, first.Migrate, first.Verify} {
		if err := f(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestDynamoForeignTable: a table of another shape is not touched.
func TestDynamoForeignTable(t *testing.T) {
	t.Parallel()
	srv := testserver.Shared(t, "dynamo")
	table := dynamoTable()
	dynamoMust(t, "CreateTable", dynamoForeign(t.Context(), srv, table, "id"))
	s := dynamoOpen(t, srv.Nodes[0].Addr, table)
	mentions(t, "Verify", s.Verify(t.Context()), "somebody else's")
	mentions(t, "Migrate", s.Migrate(t.Context()), "somebody else's")
	refused(t, "Create", s.Create(t.Context(), numberedKey(1), numberedSession(1)))
	if n := dynamoCount(t, srv, table); n != 0 {
		t.Errorf("%d items were written into somebody else's table", n)
	}
}

func dynamoMust(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// dynamoSession returns session i as it is stored first.
func dynamoSession(i int) store.Record {
	r := numberedSession(i).Truncate()
	r.Version = 1
	r.Label = fmt.Appendf(nil, "device %d", i)
	return r
}

// dynamoForeign creates a table whose partition is a text.
func dynamoForeign(ctx context.Context, srv *testserver.Server, table, partition string) error {
	_, err := dynamoClient(srv.Nodes[0].Addr).CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName: &table, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: &partition, AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: &partition, KeyType: types.KeyTypeHash}},
	})
	return err
}
