package dynamostore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/coatcheck/coatcheck/store"
)

// Options configures a [Store]. The zero value is a good choice.
type Options struct {
	// Table is the name of the table. Give each app one of its own. If zero,
	// "coatcheck". It has 3 to 255 letters, digits and .-_ in it.
	Table string
}

const (
	defaultTable = "coatcheck"

	// grace is how long an item outlives what it holds, at least. The clock of the
	// caller decides what has expired, and may be behind DynamoDB's, which only
	// collects garbage.
	grace = 5 * time.Minute

	// maxItem is DynamoDB's limit on an item with all of its names and values, and
	// maxData what of it is left for data: beside the data a record takes less than
	// 2 KB.
	maxItem = 400 << 10
	maxData = 384 << 10
)

// lastTime is later than every deadline that anybody means, and fits wherever
// milliseconds do.
var lastTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// Store is a [store.Store] in a table of DynamoDB. All of its methods are safe for
// concurrent use. Give their contexts deadlines, as package session does: reads are
// repeated by the SDK, and what DynamoDB refuses because it is too much at once is
// sent again for as long as they last.
type Store struct {
	client *dynamodb.Client
	table  string
	close  func() // of connections of our own
}

var (
	_ store.Store      = (*Store)(nil)
	_ store.OwnerIndex = (*Store)(nil)
	_ store.Lister     = (*Store)(nil)
	_ store.GetMany    = (*Store)(nil)
	_ store.Pinger     = (*Store)(nil)
	_ store.Inspector  = (*Store)(nil)
)

// New returns a store over client, which stays the caller's. Whatever the client
// repeats by itself, the store's writes it does not: see the package's
// documentation. opts may be nil. New asks no server; see [Store.Verify] and
// [Store.Migrate]. It returns an error that says what to change if the options make
// no sense.
func New(client *dynamodb.Client, opts *Options) (*Store, error) {
	if client == nil {
		return nil, errors.New("dynamostore: New needs a client; see OpenURL for one by URL")
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &Store{client: client, table: o.Table, close: func() {}}, nil
}

// complete sets what is zero, and returns what makes no sense.
func (o *Options) complete() error {
	if o.Table == "" {
		o.Table = defaultTable
	}
	if !validTable(o.Table) {
		return errors.New("dynamostore: the name of a table has 3 to 255 letters, digits and .-_ in it")
	}
	return nil
}

const tableBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"

func validTable(name string) bool {
	return len(name) >= 3 && len(name) <= 255 && strings.Trim(name, tableBytes) == ""
}

// Close closes the idle connections of a store that [OpenURL] has made. A client
// given to [New] is left alone.
func (s *Store) Close() error {
	s.close()
	return nil
}

// Table returns the name of the table.
func (s *Store) Table() string { return s.table }

// endpoint returns where the client connects to, and nil if that is AWS's own
// choice for its region.
func (s *Store) endpoint() *url.URL {
	base := s.client.Options().BaseEndpoint
	if base == nil {
		return nil
	}
	u, err := url.Parse(*base)
	if err != nil {
		return nil
	}
	return u
}

// Get implements [store.Store]. It is one consistent GetItem.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, readError(ctx, "get", err)
	}
	var read reading
	out, err := s.client.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &s.table, Key: recordKey(k), ConsistentRead: aws.Bool(true),
	}, read.option)
	if err != nil {
		return store.Record{}, readError(ctx, "get", read.outcome(err))
	}
	r, err := live(out.Item, time.Now())
	return r, readError(ctx, "get", err)
}

// live returns the record of an item if there is one and it has not expired.
func live(it item, now time.Time) (store.Record, error) {
	if len(it) == 0 {
		return store.Record{}, store.ErrNotFound
	}
	r, ok := decode(it)
	switch {
	case !ok:
		return store.Record{}, store.ErrCorrupt
	case !r.Live(now):
		return store.Record{}, errExpired
	}
	return r, nil
}

// errExpired is of a record that is there and expired, by the clock of this process.
// By that of another it may not be.
var errExpired = fmt.Errorf("%w: it has expired", store.ErrNotFound)

// check returns why r may not be sent.
func check(ctx context.Context, r store.Record, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return notBegun{err}
	}
	if err := r.Validate(now); err != nil {
		return err
	}
	if len(r.Data) > maxData {
		return fmt.Errorf("%w: DynamoDB's limit on an item leaves %d bytes for data", store.ErrTooLarge, maxData)
	}
	if r.Deadline.After(lastTime) {
		return fmt.Errorf("%w: deadline is after the year 9999", store.ErrInvalid)
	}
	return nil
}

// Create implements [store.Store]. It is one conditional PutItem, and for a record
// with an owner one TransactWriteItems of the record and the entry that leads to it.
func (s *Store) Create(ctx context.Context, k store.Key, r store.Record) error {
	now := time.Now()
	r = r.Truncate()
	if err := check(ctx, r, now); err != nil {
		return writeError(ctx, "create", err)
	}
	const absent = "attribute_not_exists(k) OR x <= :now"
	values := item{":now": millisValue(now)}
	var old item
	var err error
	if r.Owner == "" {
		old, err = s.write(ctx, func(ctx context.Context, o ...func(*dynamodb.Options)) error {
			_, err := s.client.PutItem(ctx, &dynamodb.PutItemInput{
				TableName: &s.table, Item: encode(k, r, nil),
				ConditionExpression: aws.String(absent), ExpressionAttributeValues: values,
				ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
			}, o...)
			return err
		})
	} else {
		nonce := make([]byte, nonceSize)
		_, _ = rand.Read(nonce) // never fails
		puts := []types.TransactWriteItem{
			{Put: &types.Put{
				TableName: &s.table, Item: encode(k, r, nonce),
				ConditionExpression: aws.String(absent), ExpressionAttributeValues: values,
				ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
			}},
			{Put: &types.Put{TableName: &s.table, Item: encodeEntry(k, r, nonce)}},
		}
		old, err = s.write(ctx, func(ctx context.Context, o ...func(*dynamodb.Options)) error {
			_, err := s.client.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: puts}, o...)
			return err
		})
	}
	if errors.Is(err, errCondition) {
		err = store.ErrConflict
		if _, ok := decode(old); !ok {
			err = store.ErrCorrupt
		}
	}
	return writeError(ctx, "create", err)
}

// Replace implements [store.Store]. It is one conditional UpdateItem, and another
// one if r's deadline is later than the stored one: DynamoDB has no minimum of two
// values, so a clamped write is one that names the deadline that is there.
func (s *Store) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	now := time.Now()
	r = r.Truncate()
	if err := check(ctx, r, now); err != nil {
		return writeError(ctx, "replace", err)
	}
	for {
		err := s.replace(ctx, k, old, r, now)
		var later *laterError
		if !errors.As(err, &later) {
			return writeError(ctx, "replace", err)
		}
		r.Deadline = later.deadline
		if r.Expires.After(r.Deadline) {
			r.Expires = r.Deadline
		}
	}
}

// laterError is the answer to a write that would have moved a record's end past its
// stored deadline. The deadline can have been lowered again when the next attempt
// arrives, but by a Replace: so Replace then ends in a conflict.
type laterError struct{ deadline time.Time }

func (*laterError) Error() string { return "dynamostore: past the deadline" }

// replace returns a laterError if the stored deadline is earlier than r's.
func (s *Store) replace(ctx context.Context, k store.Key, old uint64, r store.Record, now time.Time) error {
	set := "SET v = :v, x = :x, d = :d, t = :t"
	values := item{
		":now": millisValue(now),
		":old": versionValue(old),
		":v":   versionValue(r.Version),
		":x":   millisValue(r.Expires),
		":d":   millisValue(r.Deadline),
		":t":   ttlValue(r.Expires),
	}
	remove := ""
	for _, a := range []struct {
		name  string
		value []byte
	}{{attrNext, next(r)}, {attrLabel, r.Label}, {attrData, r.Data}} {
		if len(a.value) > 0 {
			set += ", " + a.name + " = :" + a.name
			values[":"+a.name] = bytesValue(a.value)
		} else {
			if remove == "" {
				remove = " REMOVE " + a.name
			} else {
				remove += ", " + a.name
			}
		}
	}
	there, err := s.update(ctx, k, set+remove, "v = :old AND x > :now AND d >= :d", values)
	if !errors.Is(err, errCondition) {
		return err
	}
	stored, err := live(there, now)
	switch {
	case err != nil:
		return err
	case stored.Version != old:
		return store.ErrConflict
	case stored.Deadline.Before(r.Deadline):
		return &laterError{stored.Deadline}
	}
	return errAnswer
}

func next(r store.Record) []byte {
	if !r.IsMarker() {
		return nil
	}
	return r.Next[:]
}

// update changes k's record if the condition holds; else it returns errCondition
// and what is there.
func (s *Store) update(ctx context.Context, k store.Key, change, condition string, values item) (there item, err error) {
	return s.write(ctx, func(ctx context.Context, o ...func(*dynamodb.Options)) error {
		_, err := s.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
			TableName: &s.table, Key: recordKey(k),
			UpdateExpression: &change, ConditionExpression: &condition, ExpressionAttributeValues: values,
			ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
		}, o...)
		return err
	})
}

// Touch implements [store.Store]. It is one conditional UpdateItem, and another one
// if expires is later than the stored deadline, see Replace.
func (s *Store) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	now := time.Now()
	expires = store.Record{Expires: expires}.Truncate().Expires
	switch {
	case ctx.Err() != nil:
		return writeError(ctx, "touch", notBegun{ctx.Err()})
	case expires.IsZero():
		return writeError(ctx, "touch", fmt.Errorf("%w: no expiry", store.ErrInvalid))
	case expires.Before(now):
		expires = now // which extends nothing, and tells whether there is a session
	case expires.After(lastTime):
		expires = lastTime // which is past every deadline
	}
	for {
		err := s.touch(ctx, k, expires, now)
		var later *laterError
		if !errors.As(err, &later) {
			return writeError(ctx, "touch", err)
		}
		expires = later.deadline
	}
}

// touch returns a laterError if the stored deadline is earlier than expires.
func (s *Store) touch(ctx context.Context, k store.Key, expires, now time.Time) error {
	there, err := s.update(ctx, k, "SET x = :x, t = :t",
		"x > :now AND x < :x AND d >= :x AND attribute_exists(v) AND attribute_not_exists(n)",
		item{":now": millisValue(now), ":x": millisValue(expires), ":t": ttlValue(expires)})
	if !errors.Is(err, errCondition) {
		return err
	}
	r, err := live(there, now)
	switch {
	case err != nil:
		return err
	case r.IsMarker():
		return store.ErrNotFound
	case !r.Expires.Before(expires), !r.Expires.Before(r.Deadline):
		return nil // it lasts as long already
	case r.Deadline.Before(expires):
		return &laterError{r.Deadline}
	}
	return errAnswer
}

// Delete implements [store.Store]. It is one DeleteItem, and for a record with an
// owner another one of the entry.
func (s *Store) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	if ctx.Err() != nil {
		return false, writeError(ctx, "delete", notBegun{ctx.Err()})
	}
	there, err := s.remove(ctx, recordKey(k), nil)
	if err != nil {
		return false, writeError(ctx, "delete", err)
	}
	if owner, ok := binary(there, attrOwner); ok {
		if nonce, ok := sized(there, attrNonce, nonceSize); ok {
			// The record is gone: an entry that stays is pruned when somebody looks.
			_, _ = s.remove(ctx, entryKey(string(owner), k), nonce)
		}
	}
	_, err = live(there, time.Now())
	return err == nil, nil
}

// remove deletes an item and returns what it was. With a nonce it deletes only
// that, and else returns errCondition.
func (s *Store) remove(ctx context.Context, key item, nonce []byte) (was item, err error) {
	in := &dynamodb.DeleteItemInput{TableName: &s.table, Key: key, ReturnValues: types.ReturnValueAllOld}
	if nonce != nil {
		in.ConditionExpression = aws.String("e = :e")
		in.ExpressionAttributeValues = item{":e": bytesValue(nonce)}
	}
	_, err = s.write(ctx, func(ctx context.Context, o ...func(*dynamodb.Options)) error {
		out, err := s.client.DeleteItem(ctx, in, o...)
		if err == nil {
			was = out.Attributes
		}
		return err
	})
	return was, err
}

// Ping implements [store.Pinger]. It is a GetItem of what is not there, so it tells
// whether the table can be read.
func (s *Store) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return readError(ctx, "ping", err)
	}
	_, err := s.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: &s.table, Key: recordKey(store.Key{})})
	return readError(ctx, "ping", err)
}
