package main

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/dynamostore"
)

// Names of peers on DynamoDB.
const (
	scsDynamo       = "scs, over a store of GetItem and PutItem"
	scsDynamoNoIdle = scsDynamo + ", no idle timeout"
	bareGetItem     = "bare: the SDK, GetItem"
	bareUpdateItem  = "bare: the SDK, UpdateItem"
)

var dynamoFamily = family{
	kinds: []string{"dynamo"},
	peers: append(opener(openDynamo).peers(),
		peer{bareGetItem, openGetItem},
		peer{bareUpdateItem, openUpdateItem},
		peer{scsDynamo, openSCSDynamo("scs", true)},
		peer{scsDynamoNoIdle, openSCSDynamo("scs_no_idle", false)}),
	sections: documentSections(
		[]string{scsDynamo, coatcheck, bareGetItem, near, touching, scsDynamoNoIdle, noSession}, bareGetItem, bareUpdateItem),
	panels: documentPanels(scsDynamo),
	modules: []string{
		"github.com/alexedwards/scs/v2",
		"github.com/aws/aws-sdk-go-v2",
		"github.com/aws/aws-sdk-go-v2/service/dynamodb",
	},
	notes: "dynamo.md",
	judge: func(j *judge) {
		j.rate("read, to the SDK's GetItem of the same item", "read", coatcheck, bareGetItem, 0.8)
		j.rate("compare-and-swap in the store, to the SDK's UpdateItem", "store", casStore, bareUpdateItem, 0.8)
	},
	cpu: processCPU,
}

// openDynamo opens Coatcheck's store in a table of its own.
func openDynamo(ctx context.Context, rawURL, table string) (store.Store, func(), error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, nil, err
	}
	u.Host = table
	st, err := dynamostore.OpenURL(ctx, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	closing := func() { _ = st.Close() }
	if err := st.Migrate(ctx); err != nil {
		closing()
		return nil, nil, err
	}
	return st, closing, nil
}

// dynamoClient is a client of the SDK for the server at the endpoint that the URL
// names. It keeps a connection for each request at once, as Coatcheck's does.
func dynamoClient(rawURL string) (*dynamodb.Client, func(), error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 2*concurrency, 2*concurrency
	return dynamodb.New(dynamodb.Options{
		Region:       "us-east-1",
		BaseEndpoint: aws.String(u.Query().Get("endpoint")),
		Credentials:  aws.NewCredentialsCache(credentials.NewStaticCredentialsProvider("coatcheck", "coatcheck", "")),
		HTTPClient:   &http.Client{Transport: t},
	}), t.CloseIdleConnections, nil
}

// openTable opens a table with the SDK, and with Coatcheck's store.
func openTable(ctx context.Context, rawURL, table string) (store.Store, *dynamodb.Client, func(), error) {
	client, idle, err := dynamoClient(rawURL)
	if err != nil {
		return nil, nil, nil, err
	}
	st, closing, err := openDynamo(ctx, rawURL, table)
	if err != nil {
		return nil, nil, nil, err
	}
	return st, client, func() { idle(); closing() }, nil
}

type attributes = map[string]types.AttributeValue

func binaryValue(b []byte) types.AttributeValue { return &types.AttributeValueMemberB{Value: b} }

func numberValue(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// recordKey is the primary key of a record in Coatcheck's table.
func recordKey(k []byte) attributes {
	return attributes{"k": binaryValue(k), "s": binaryValue([]byte{'r'})}
}

// openGetItem gets an item by the key that the cookie is, and looks at its data.
func openGetItem(ctx context.Context, rawURL string) (*app, error) {
	const table = "bare_get"
	st, client, closing, err := openTable(ctx, rawURL, table)
	if err != nil {
		return nil, err
	}
	return &app{
		signIn: createBare(st),
		read: bareRead(func(ctx context.Context, key []byte) ([]byte, error) {
			out, err := client.GetItem(ctx, &dynamodb.GetItemInput{
				TableName: aws.String(table), Key: recordKey(key), ConsistentRead: aws.Bool(true),
			})
			if err != nil {
				return nil, err
			}
			return bytesOf(out.Item, "p")
		}),
		close: closing,
	}, nil
}

func bytesOf(item attributes, name string) ([]byte, error) {
	b, ok := item[name].(*types.AttributeValueMemberB)
	if !ok {
		return nil, errors.New("the item has no attribute " + name)
	}
	return b.Value, nil
}

// openUpdateItem writes an item's data whatever its version is.
func openUpdateItem(ctx context.Context, rawURL string) (*app, error) {
	const table = "bare_update"
	st, client, closing, err := openTable(ctx, rawURL, table)
	if err != nil {
		return nil, err
	}
	return bareWrite(st, func(ctx context.Context, k store.Key) error {
		expires := time.Now().Add(idle)
		_, err := client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
			TableName: aws.String(table), Key: recordKey(k[:]),
			UpdateExpression: aws.String("SET v = :v, x = :x, t = :t, p = :p"),
			ExpressionAttributeValues: attributes{
				":v": binaryValue(data[:8]), ":x": numberValue(expires.UnixMilli()), ":t": numberValue(expires.Unix()), ":p": binaryValue(data),
			},
		})
		return err
	}, closing), nil
}

// scsTable keeps sessions of scs, which has no store for DynamoDB of its own, as its
// stores for other servers do: the last write wins.
type scsTable struct {
	client *dynamodb.Client
	table  string
}

func (s *scsTable) key(token string) attributes {
	return attributes{"token": &types.AttributeValueMemberS{Value: token}}
}

func (s *scsTable) Find(token string) (b []byte, found bool, err error) {
	out, err := s.client.GetItem(context.Background(), &dynamodb.GetItemInput{
		TableName: &s.table, Key: s.key(token), ConsistentRead: aws.Bool(true),
	})
	if err != nil || len(out.Item) == 0 {
		return nil, false, err
	}
	expiry, ok := out.Item["expiry"].(*types.AttributeValueMemberN)
	if !ok {
		return nil, false, errors.New("the item has no expiry")
	}
	if n, err := strconv.ParseInt(expiry.Value, 10, 64); err != nil || n < time.Now().Unix() {
		return nil, false, err
	}
	b, err = bytesOf(out.Item, "data")
	return b, err == nil, err
}

func (s *scsTable) Commit(token string, b []byte, expiry time.Time) error {
	item := s.key(token)
	item["data"], item["expiry"] = binaryValue(b), numberValue(expiry.Unix())
	_, err := s.client.PutItem(context.Background(), &dynamodb.PutItemInput{TableName: &s.table, Item: item})
	return err
}

func (s *scsTable) Delete(token string) error {
	_, err := s.client.DeleteItem(context.Background(), &dynamodb.DeleteItemInput{TableName: &s.table, Key: s.key(token)})
	return err
}

func openSCSDynamo(table string, withIdle bool) func(context.Context, string) (*app, error) {
	return func(ctx context.Context, rawURL string) (*app, error) {
		client, closing, err := dynamoClient(rawURL)
		if err != nil {
			return nil, err
		}
		_, err = client.CreateTable(ctx, &dynamodb.CreateTableInput{
			TableName:            &table,
			AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("token"), AttributeType: types.ScalarAttributeTypeS}},
			KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("token"), KeyType: types.KeyTypeHash}},
			BillingMode:          types.BillingModePayPerRequest,
		})
		if _, there := errors.AsType[*types.ResourceInUseException](err); err != nil && !there {
			closing()
			return nil, err
		}
		return scsPages(&scsTable{client, table}, withIdle).app(closing), nil
	}
}
