package main

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// mongoAdmin has a key of three words: the database, the collection, and the
// document's _id in extended JSON. The collections are Coatcheck's and those of scs.
type mongoAdmin struct{ client *mongo.Client }

func newMongoAdmin(t *testing.T, url string) mongoAdmin {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(t.Context()) })
	return mongoAdmin{client}
}

func (a mongoAdmin) keys(t *testing.T) []string {
	t.Helper()
	databases, err := a.client.ListDatabaseNames(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, db := range databases {
		collections, err := a.client.Database(db).ListCollectionNames(t.Context(), bson.D{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range collections {
			found, err := a.client.Database(db).Collection(c).Find(t.Context(), bson.D{}, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}))
			if err != nil {
				t.Fatal(err)
			}
			var documents []bson.D
			if err := found.All(t.Context(), &documents); err != nil {
				t.Fatal(err)
			}
			for _, d := range documents {
				id, err := bson.MarshalExtJSON(d, true, false)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, db+" "+c+" "+string(id))
			}
		}
	}
	return all
}

// document returns the collection of a key and the filter for its document.
func (a mongoAdmin) document(t *testing.T, key string) (*mongo.Collection, bson.D) {
	t.Helper()
	f := strings.SplitN(key, " ", 3)
	var filter bson.D
	if err := bson.UnmarshalExtJSON([]byte(f[2]), true, &filter); err != nil {
		t.Fatal(err)
	}
	return a.client.Database(f[0]).Collection(f[1]), filter
}

func (a mongoAdmin) get(t *testing.T, key string) bson.Raw {
	t.Helper()
	c, filter := a.document(t, key)
	raw, err := c.FindOne(t.Context(), filter).Raw()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (a mongoAdmin) ttl(t *testing.T, key string) time.Duration {
	t.Helper()
	raw := a.get(t, key)
	if end, ok := raw.Lookup("expires").TimeOK(); ok {
		return time.Until(end)
	}
	return time.Until(time.Unix(0, raw.Lookup("expiration").Int64()))
}

func (a mongoAdmin) expire(t *testing.T, key string, d time.Duration) {
	t.Helper()
	end := time.Now().Add(d)
	set := bson.D{{Key: "expiration", Value: end.UnixNano()}}
	if _, ours := a.get(t, key).Lookup("expires").TimeOK(); ours {
		set = bson.D{{Key: "expires", Value: end}}
	}
	c, filter := a.document(t, key)
	if res, err := c.UpdateOne(t.Context(), filter, bson.D{{Key: "$set", Value: set}}); err != nil || res.ModifiedCount != 1 {
		t.Fatalf("not one document is changed: %v", err)
	}
}

func (a mongoAdmin) remove(t *testing.T, key string) {
	t.Helper()
	c, filter := a.document(t, key)
	if res, err := c.DeleteOne(t.Context(), filter); err != nil || res.DeletedCount != 1 {
		t.Fatalf("not one document is deleted: %v", err)
	}
}

func (a mongoAdmin) size(t *testing.T, key string) int64 {
	t.Helper()
	_, data := a.get(t, key).Lookup("data").Binary()
	return int64(len(data))
}

// dynamoAdmin has a key of two words: the table, and the item's key in JSON.
type dynamoAdmin struct{ client *dynamodb.Client }

func newDynamoAdmin(t *testing.T, url string) dynamoAdmin {
	t.Helper()
	client, closing, err := dynamoClient(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closing)
	return dynamoAdmin{client}
}

// dynamoKey is that of a record of Coatcheck's, or the token of a session of scs.
type dynamoKey struct {
	K, S  []byte
	Token string
}

func (k dynamoKey) attributes() attributes {
	if k.Token != "" {
		return attributes{"token": &types.AttributeValueMemberS{Value: k.Token}}
	}
	return attributes{"k": binaryValue(k.K), "s": binaryValue(k.S)}
}

func (a dynamoAdmin) keys(t *testing.T) []string {
	t.Helper()
	tables, err := a.client.ListTables(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, table := range tables.TableNames {
		pages := dynamodb.NewScanPaginator(a.client, &dynamodb.ScanInput{TableName: &table, ConsistentRead: aws.Bool(true)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range page.Items {
				var k dynamoKey
				if token, ok := it["token"].(*types.AttributeValueMemberS); ok {
					k.Token = token.Value
				} else if k.S, err = bytesOf(it, "s"); err != nil || string(k.S) != "r" {
					continue // an entry of the owner index
				} else if k.K, err = bytesOf(it, "k"); err != nil {
					t.Fatal(err)
				}
				text, err := json.Marshal(k)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, table+" "+string(text))
			}
		}
	}
	return all
}

func (a dynamoAdmin) key(t *testing.T, key string) (table string, k attributes, ours bool) {
	t.Helper()
	table, text, _ := strings.Cut(key, " ")
	var parsed dynamoKey
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		t.Fatal(err)
	}
	return table, parsed.attributes(), parsed.Token == ""
}

func (a dynamoAdmin) get(t *testing.T, key string) (it attributes, ours bool) {
	t.Helper()
	table, k, ours := a.key(t, key)
	out, err := a.client.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: k, ConsistentRead: aws.Bool(true)})
	if err != nil || len(out.Item) == 0 {
		t.Fatalf("there is no item %s: %v", key, err)
	}
	return out.Item, ours
}

func (a dynamoAdmin) ttl(t *testing.T, key string) time.Duration {
	t.Helper()
	it, ours := a.get(t, key)
	name, unit := "expiry", time.Second
	if ours {
		name, unit = "x", time.Millisecond
	}
	n, err := strconv.ParseInt(it[name].(*types.AttributeValueMemberN).Value, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Until(time.Unix(0, 0).Add(time.Duration(n) * unit))
}

func (a dynamoAdmin) expire(t *testing.T, key string, d time.Duration) {
	t.Helper()
	table, k, ours := a.key(t, key)
	end := time.Now().Add(d)
	name, value := "expiry", numberValue(end.Unix())
	if ours {
		name, value = "x", numberValue(end.UnixMilli())
	}
	if _, err := a.client.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: &table, Key: k, UpdateExpression: aws.String("SET " + name + " = :end"),
		ExpressionAttributeValues: attributes{":end": value},
	}); err != nil {
		t.Fatal(err)
	}
}

func (a dynamoAdmin) remove(t *testing.T, key string) {
	t.Helper()
	table, k, _ := a.key(t, key)
	if _, err := a.client.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &table, Key: k}); err != nil {
		t.Fatal(err)
	}
}

func (a dynamoAdmin) size(t *testing.T, key string) int64 {
	t.Helper()
	it, _ := a.get(t, key)
	b, err := bytesOf(it, "p")
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(b))
}
