package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/coatcheck/coatcheck/store"
)

// The index of owners is one item per record that has an owner, an entry: its
// partition is the hash of the owner and its sort key that of the record. It is
// read consistently, which a secondary index of DynamoDB cannot be.
//
// A record and its entry are created in one transaction, with the same random
// nonce. An entry is deleted on the condition that it still has the nonce that was
// read, and only by who has deleted the record of that nonce or seen that it is
// gone; and gone it stays, for nothing brings a record back, and another one under
// the same key has a nonce and an entry of its own. So there is never a record
// without its entry. An entry without a record, as a crash leaves, and as DynamoDB
// does that collects the record first, is harmless; ListOwner and DeleteOwner
// delete it, and DynamoDB does at the absolute timeout, which no record outlives.
type entry struct {
	key    store.Key
	handle store.Handle
	nonce  []byte
}

// entries returns the index of owner.
func (s *Store) entries(ctx context.Context, owner string) ([]entry, error) {
	pages := dynamodb.NewQueryPaginator(s.client, &dynamodb.QueryInput{
		TableName: &s.table, ConsistentRead: aws.Bool(true),
		KeyConditionExpression:    aws.String("k = :k"),
		ExpressionAttributeValues: item{":k": bytesValue(ownerHash(owner))},
	})
	var list []entry
	for pages.HasMorePages() {
		var read reading
		page, err := pages.NextPage(ctx, read.option)
		if err != nil {
			return nil, read.outcome(err)
		}
		for _, it := range page.Items {
			k, ok1 := keyOf(it, attrSort)
			h, ok2 := sized(it, attrHandle, len(store.Handle{}))
			n, ok3 := sized(it, attrNonce, nonceSize)
			if ok1 && ok2 && ok3 {
				list = append(list, entry{k, store.Handle(h), n})
			}
		}
	}
	return list, nil
}

// ListOwner implements [store.OwnerIndex]. It is a consistent Query of the owner's
// entries and a GetMany of what they lead to. It prunes the index as it goes.
func (s *Store) ListOwner(ctx context.Context, owner string) ([]store.Keyed, error) {
	if ctx.Err() != nil {
		return nil, readError(ctx, "list owner", ctx.Err())
	}
	if owner == "" {
		return nil, readError(ctx, "list owner", errNoOwner)
	}
	entries, err := s.entries(ctx, owner)
	if err != nil {
		return nil, readError(ctx, "list owner", err)
	}
	keys := make([]store.Key, len(entries))
	for i, e := range entries {
		keys[i] = e.key
	}
	items, err := s.batch(ctx, keys)
	if err != nil {
		return nil, readError(ctx, "list owner", err)
	}
	now := time.Now()
	var list []store.Keyed
	var dead []entry
	for _, e := range entries {
		it := items[e.key]
		if nonce, ok := binary(it, attrNonce); it == nil || ok && string(nonce) != string(e.nonce) {
			dead = append(dead, e)
			continue
		}
		if r, err := live(it, now); err == nil && r.Owner == owner && !r.IsMarker() {
			list = append(list, store.Keyed{Key: e.key, Record: r})
		}
	}
	_, _ = s.each(ctx, dead, func(e entry) (bool, error) { // else the next one does
		return false, s.forget(ctx, owner, e)
	})
	return list, nil
}

// forget takes e out of the index of owner, unless it has been made anew.
func (s *Store) forget(ctx context.Context, owner string, e entry) error {
	_, err := s.remove(ctx, entryKey(owner, e.key), e.nonce)
	if errors.Is(err, errCondition) {
		return nil
	}
	return err
}

// DeleteOwner implements [store.OwnerIndex]. It is a consistent Query of the
// owner's entries and, for each, a DeleteItem of the record and one of the entry.
func (s *Store) DeleteOwner(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
	if ctx.Err() != nil {
		return 0, writeError(ctx, "delete owner", notBegun{ctx.Err()})
	}
	if owner == "" {
		return 0, writeError(ctx, "delete owner", errNoOwner)
	}
	entries, err := s.entries(ctx, owner)
	if err != nil {
		return 0, readError(ctx, "delete owner", err)
	}
	entries = slices.DeleteFunc(entries, func(e entry) bool { return slices.Contains(keep, e.handle) })
	ended, err := s.each(ctx, entries, func(e entry) (bool, error) {
		was, err := s.remove(ctx, recordKey(e.key), e.nonce)
		if err != nil && !errors.Is(err, errCondition) {
			return false, err
		}
		// It was the record that goes, or is another one by now: see above.
		r, err := live(was, time.Now())
		return err == nil && !r.IsMarker(), s.forget(ctx, owner, e)
	})
	if err != nil && ended > 0 {
		err = &openError{err} // some have gone
	}
	return ended, writeError(ctx, "delete owner", err)
}

// parallel is how many entries are worked on at a time.
const parallel = 16

// each calls f for every entry, some at a time, and returns how many it was true
// for and the first error. After an error it begins no more.
func (s *Store) each(ctx context.Context, entries []entry, f func(entry) (bool, error)) (int, error) {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		at     int
		count  int
		failed error
	)
	take := func() (e entry, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if failed != nil || at == len(entries) {
			return entry{}, false
		}
		at++
		return entries[at-1], true
	}
	for range min(parallel, len(entries)) {
		wg.Go(func() {
			for {
				e, ok := take()
				if !ok {
					return
				}
				yes, err := f(e)
				mu.Lock()
				if yes {
					count++
				}
				if err != nil && failed == nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return count, failed
}

var errNoOwner = fmt.Errorf("%w: owner is empty; anonymous sessions have no index", store.ErrInvalid)
