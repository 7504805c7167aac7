package mongostore

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/coatcheck/coatcheck/store"
)

// batch is how many records one find asks for, where there can be any number.
const batch = 200

// each calls f with the documents that filter matches. They are f's for as long as it
// runs.
func (s *Store) each(ctx context.Context, filter bson.D, find *options.FindOptionsBuilder, f func(bson.Raw)) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	cursor, err := s.confirmed.Find(ctx, filter, find)
	if err != nil {
		return err
	}
	defer cursor.Close(ctx)
	for cursor.Next(ctx) {
		f(cursor.Current)
	}
	return cursor.Err()
}

// keyed returns the record of a document, with bytes of its own: else who keeps one
// record keeps the whole answer.
func keyed(raw bson.Raw, now time.Time) (store.Keyed, bool) {
	k, r, ok := decode(raw)
	if !ok || !r.Live(now) {
		return store.Keyed{}, false
	}
	r.Label, r.Data = bytes.Clone(r.Label), bytes.Clone(r.Data)
	return store.Keyed{Key: k, Record: r}, true
}

// GetMany implements [store.GetMany]. It is one find for every two hundred keys, and
// more if what they hold is over 16 MiB. A damaged record is left out.
func (s *Store) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, readError(ctx, "get many", err)
	}
	now := time.Now()
	found := make(map[store.Key]store.Record, len(ks))
	for part := range slices.Chunk(ks, batch) {
		in := make(bson.A, len(part))
		for i := range part {
			in[i] = bytesValue(part[i][:])
		}
		filter := bson.D{e(fieldKey, bson.D{e("$in", in)})}
		err := s.each(ctx, filter, options.Find().SetBatchSize(batch+1), func(raw bson.Raw) {
			if kr, ok := keyed(raw, now); ok {
				found[kr.Key] = kr.Record
			}
		})
		if err != nil {
			return nil, readError(ctx, "get many", err)
		}
	}
	return found, nil
}

// List implements [store.Lister], by finds of two hundred records in the order of
// their keys. No cursor stays open between them, so the caller may take any time. A
// damaged record is left out.
func (s *Store) List(ctx context.Context) iter.Seq2[store.Keyed, error] {
	return func(yield func(store.Keyed, error) bool) {
		var after any = bson.Binary{} // the least one: keys of other types are none of ours
		for more := true; more; {
			var page []store.Keyed
			var err error
			page, after, more, err = s.page(ctx, after)
			if err != nil {
				yield(store.Keyed{}, readError(ctx, "list", err))
				return
			}
			for _, kr := range page {
				if !yield(kr, nil) {
					return
				}
			}
		}
	}
}

// page returns the live records of the first documents whose keys come after that
// one, the last of these keys, and whether there may be more.
func (s *Store) page(ctx context.Context, after any) (page []store.Keyed, last any, more bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, false, err
	}
	now := time.Now()
	filter := bson.D{
		e(fieldKey, bson.D{e("$gt", after)}),
		e(fieldExpires, bson.D{e("$gt", dateValue(now))}),
	}
	n := 0
	err = s.each(ctx, filter, options.Find().SetSort(bson.D{e(fieldKey, 1)}).SetLimit(batch).SetBatchSize(batch+1), func(raw bson.Raw) {
		n++
		if n == batch {
			kind, b, ok := raw.Lookup(fieldKey).BinaryOK()
			last, more = bson.Binary{Subtype: kind, Data: bytes.Clone(b)}, ok
		}
		if kr, ok := keyed(raw, now); ok {
			page = append(page, kr)
		}
	})
	return page, last, more, err
}
