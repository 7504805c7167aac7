package mongostore

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/coatcheck/coatcheck/store"
)

// ListOwner implements [store.OwnerIndex]. It is one find along the index by owner. A
// damaged record is left out.
func (s *Store) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	if ctx.Err() != nil {
		return nil, readError(ctx, "list owner", ctx.Err())
	}
	if owner == "" {
		return nil, readError(ctx, "list owner", errNoOwner)
	}
	now := time.Now()
	var list []store.Keyed
	filter := append(bson.D{e(fieldOwner, bytesValue([]byte(owner)))}, sessions(now)...)
	err := s.each(ctx, filter, options.Find().SetBatchSize(batch), func(raw bson.Raw) {
		if kr, ok := keyed(raw, now); ok {
			list = append(list, kr)
		}
	})
	if err != nil {
		return nil, readError(ctx, "list owner", err)
	}
	return list, nil
}

// sessions matches what is alive at now and no marker.
func sessions(now time.Time) bson.D {
	return bson.D{e(fieldExpires, bson.D{e("$gt", dateValue(now))}), e(fieldNext, absent)}
}

// DeleteOwner implements [store.OwnerIndex]. It is two deletes along the index by
// owner: of live sessions, which are counted, and of what else is the owner's.
func (s *Store) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	if ctx.Err() != nil {
		return 0, writeError(ctx, "delete owner", ctx.Err())
	}
	if owner == "" {
		return 0, writeError(ctx, "delete owner", errNoOwner)
	}
	filter := bson.D{e(fieldOwner, bytesValue([]byte(owner)))}
	if len(keep) > 0 {
		kept := make(bson.A, len(keep))
		for i, h := range keep {
			kept[i] = bytesValue(h[:])
		}
		filter = append(filter, e(fieldHandle, bson.D{e("$nin", kept)}))
	}
	ended, err := s.deleteMany(ctx, append(sessions(time.Now()), filter...))
	if err == nil {
		if _, err = s.deleteMany(ctx, filter); err != nil {
			err = &openError{err} // the first is done
		}
	}
	return int(ended), writeError(ctx, "delete owner", err)
}

// deleteMany deletes what filter matches, and returns how many documents that was.
func (s *Store) deleteMany(ctx context.Context, filter bson.D) (int64, error) {
	reply, err := s.write(ctx, bson.D{
		e("delete", s.Collection()),
		e("deletes", bson.A{bson.D{e("q", filter), e("limit", 0)}}),
	})
	if is[mongo.WriteException](err) {
		err = &openError{err} // it may have deleted some
	}
	if err != nil {
		return 0, err
	}
	return count(reply)
}

var errNoOwner = fmt.Errorf("%w: owner is empty; anonymous sessions have no index", store.ErrInvalid)
