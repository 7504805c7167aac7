package dynamostore

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/coatcheck/coatcheck/store"
)

// maxBatch is how many items one BatchGetItem may ask for.
const maxBatch = 100

// GetMany implements [store.GetMany]. It is a consistent BatchGetItem for every
// hundred keys, and more if what they hold is over 16 MB. A damaged record is left
// out.
func (s *Store) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, readError(ctx, "get many", err)
	}
	items, err := s.batch(ctx, ks)
	if err != nil {
		return nil, readError(ctx, "get many", err)
	}
	now := time.Now()
	found := make(map[store.Key]store.Record, len(items))
	for k, it := range items {
		if r, err := live(it, now); err == nil {
			found[k] = r
		}
	}
	return found, nil
}

// batch returns the items that are under ks.
func (s *Store) batch(ctx context.Context, ks []store.Key) (map[store.Key]item, error) {
	// DynamoDB refuses a batch with a key that is in it twice.
	seen := make(map[store.Key]bool, len(ks))
	keys := make([]item, 0, len(ks))
	for _, k := range ks {
		if !seen[k] {
			seen[k] = true
			keys = append(keys, recordKey(k))
		}
	}
	found := make(map[store.Key]item, len(keys))
	for part := range slices.Chunk(keys, maxBatch) {
		for attempt := 0; len(part) > 0; {
			var read reading
			out, err := s.client.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{
				RequestItems: map[string]types.KeysAndAttributes{s.table: {Keys: part, ConsistentRead: aws.Bool(true)}},
			}, read.option)
			if err != nil {
				return nil, read.outcome(err)
			}
			got := out.Responses[s.table]
			for _, it := range got {
				if k, ok := keyOf(it, attrKey); ok {
					found[k] = it
				}
			}
			part = out.UnprocessedKeys[s.table].Keys
			if len(part) == 0 {
				break
			}
			// Some is an answer that was full; none is one that was refused.
			if len(got) > 0 {
				attempt = 0
				continue
			}
			if err := pause(ctx, attempt); err != nil {
				return nil, errThrottled
			}
			attempt++
		}
	}
	return found, nil
}

// keyOf returns the key that an attribute holds.
func keyOf(it item, name string) (k store.Key, ok bool) {
	b, ok := sized(it, name, len(k))
	copy(k[:], b)
	return k, ok
}

// List implements [store.Lister], by a consistent Scan of the table. A damaged
// record is left out.
func (s *Store) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		err := s.list(ctx, func(k store.Keyed) bool { return yield(k, nil) })
		if err != nil && !errors.Is(err, errEnough) {
			yield(store.Keyed{}, readError(ctx, "list", err))
		}
	}
}

// errEnough ends a list that nobody wants the rest of.
var errEnough = errors.New("enough")

func (s *Store) list(ctx context.Context, yield func(store.Keyed) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	pages := dynamodb.NewScanPaginator(s.client, &dynamodb.ScanInput{
		TableName: &s.table, ConsistentRead: aws.Bool(true),
		FilterExpression: aws.String("attribute_exists(v)"), // no entries
	})
	for pages.HasMorePages() {
		var read reading
		page, err := pages.NextPage(ctx, read.option)
		if err != nil {
			return read.outcome(err)
		}
		for _, it := range page.Items {
			k, ok := keyOf(it, attrKey)
			if !ok {
				continue
			}
			if r, err := live(it, time.Now()); err == nil && !yield(store.Keyed{Key: k, Record: r}) {
				return errEnough
			}
		}
	}
	return nil
}
