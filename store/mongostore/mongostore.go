package mongostore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"

	"github.com/coatcheck/coatcheck/store"
)

// Options configures a [Store]. The zero value is a good choice.
type Options struct {
	// Database is the name of the database. If zero, "coatcheck". It has 1 to 63
	// letters, digits and -_ in it.
	Database string

	// Collection is the name of the collection. Give each app one of its own. If
	// zero, "sessions". It has 1 to 120 letters, digits and .-_ in it.
	Collection string

	encrypted encryption // as OpenURL knows
}

const (
	defaultDatabase   = "coatcheck"
	defaultCollection = "sessions"

	// grace is how long a document outlives what it holds, at least. The clock of
	// the caller decides what has expired, and may be behind the server's, which
	// only collects garbage.
	grace = 5 * time.Minute

	// maxDocument is MongoDB's limit on a document, and maxData what of it is left
	// for data: a command has some more around it, and beside the data a record takes
	// less than 2 KiB.
	maxDocument = 16 << 20
	maxData     = maxDocument - 16<<10
)

// lastTime is later than every deadline that anybody means, and the last one that
// MongoDB's tools can show.
var lastTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// Store is a [store.Store] in a collection of MongoDB. All of its methods are safe
// for concurrent use. Give their contexts deadlines, as package session does: while
// there is no primary, or no majority, calls wait for as long as they last.
type Store struct {
	client    *mongo.Client
	db        *mongo.Database
	confirmed *mongo.Collection // read from what a majority has
	latest    *mongo.Collection // read from what the primary has
	encrypted encryption
	close     func() error // of a client of our own
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
// is set to, the store reads from the primary what a majority of the servers has,
// waits until a majority has what it writes, and repeats no write that may have been
// done: see the package's documentation. opts may be nil. New asks no server; see
// [Store.Verify] and [Store.Migrate]. It returns an error that says what to change if
// the options make no sense.
func New(client *mongo.Client, opts *Options) (*Store, error) {
	if client == nil {
		return nil, errors.New("mongostore: New needs a client; see OpenURL for one by URL")
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	// Values are stored as this package means them, and not as the client's own
	// settings would have them.
	db := client.Database(o.Database, options.Database().
		SetRegistry(bson.NewRegistry()).SetBSONOptions(&options.BSONOptions{}))
	primary := options.Collection().SetReadPreference(readpref.Primary())
	return &Store{
		client:    client,
		db:        db,
		confirmed: db.Collection(o.Collection, primary, options.Collection().SetReadConcern(readconcern.Majority())),
		latest:    db.Collection(o.Collection, primary, options.Collection().SetReadConcern(readconcern.Local())),
		encrypted: o.encrypted,
		close:     func() error { return nil },
	}, nil
}

// complete sets what is zero, and returns what makes no sense.
func (o *Options) complete() error {
	if o.Database == "" {
		o.Database = defaultDatabase
	}
	if o.Collection == "" {
		o.Collection = defaultCollection
	}
	if len(o.Database) > 63 || strings.Trim(o.Database, nameBytes) != "" {
		return errors.New("mongostore: the name of a database has 1 to 63 letters, digits and -_ in it")
	}
	if len(o.Collection) > 120 || strings.Trim(o.Collection, nameBytes+".") != "" ||
		strings.HasPrefix(o.Collection, "system.") || strings.HasPrefix(o.Collection, ".") || strings.HasSuffix(o.Collection, ".") {
		return errors.New("mongostore: the name of a collection has 1 to 120 letters, digits and .-_ in it, no dot at its ends, and does not begin with system")
	}
	return nil
}

const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// Close closes the connections of a store that [OpenURL] has made. A client given to
// [New] is left alone.
func (s *Store) Close() error { return s.close() }

// Database returns the name of the database.
func (s *Store) Database() string { return s.db.Name() }

// Collection returns the name of the collection.
func (s *Store) Collection() string { return s.confirmed.Name() }

// Get implements [store.Store]. It is one find.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	r, err := s.find(ctx, s.confirmed, k, nil)
	return r, readError(ctx, "get", err)
}

// find returns the live record under k, without the fields of omit.
func (s *Store) find(ctx context.Context, from *mongo.Collection, k store.Key, omit bson.D) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	one := options.FindOne()
	if omit != nil {
		one.SetProjection(omit)
	}
	raw, err := from.FindOne(ctx, bson.D{e(fieldKey, bytesValue(k[:]))}, one).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return store.Record{}, errAbsent
	}
	if err != nil {
		return store.Record{}, err
	}
	return live(raw, time.Now())
}

// errAbsent is of a key under which there is not even what has expired.
var errAbsent = fmt.Errorf("%w", store.ErrNotFound)

// there returns what the primary has under k, but for its data: what a write that
// has matched nothing wants to know.
func (s *Store) there(ctx context.Context, k store.Key) (store.Record, error) {
	return s.find(ctx, s.latest, k, bson.D{e(fieldData, 0)})
}

// live returns the record of a document if it has not expired.
func live(raw bson.Raw, now time.Time) (store.Record, error) {
	_, r, ok := decode(raw)
	switch {
	case !ok:
		return store.Record{}, store.ErrCorrupt
	case !r.Live(now):
		return store.Record{}, store.ErrNotFound
	}
	return r, nil
}

// check returns why r may not be sent.
func check(ctx context.Context, r store.Record, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.Validate(now); err != nil {
		return err
	}
	if len(r.Data) > maxData {
		return fmt.Errorf("%w: MongoDB's limit on a document leaves %d bytes for data", store.ErrTooLarge, maxData)
	}
	if r.Deadline.After(lastTime) {
		return fmt.Errorf("%w: deadline is after the year 9999", store.ErrInvalid)
	}
	return nil
}

// A write that matches nothing, though what is there afterwards says that it should,
// has met another one, and is tried again. MongoDB does that by itself, so that there it
// happens only where a record comes or goes meanwhile. FerretDB does not always, see
// Delete.

// Create implements [store.Store]. It is one insert, and if there is something under
// k, one update that replaces what has expired.
func (s *Store) Create(ctx context.Context, k store.Key, r store.Record) error {
	now := time.Now()
	r = r.Truncate()
	if err := check(ctx, r, now); err != nil {
		return writeError(ctx, "create", err)
	}
	return writeError(ctx, "create", s.create(ctx, k, encode(k, r), now))
}

func (s *Store) create(ctx context.Context, k store.Key, document bson.D, now time.Time) error {
	expired := bson.D{e(fieldKey, bytesValue(k[:])), e(fieldExpires, bson.D{e("$lte", dateValue(now))})}
	ctx, cancel := bounded(ctx)
	defer cancel()
	for attempt := 0; ; attempt++ {
		_, err := s.write(ctx, bson.D{e("insert", s.Collection()), e("documents", bson.A{document})})
		if !errors.Is(err, errDuplicate) {
			return err
		}
		n, err := s.update(ctx, expired, document)
		if n > 0 || err != nil {
			return err
		}
		switch _, err = s.there(ctx, k); {
		case err == nil:
			return store.ErrConflict
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// update changes the document that filter matches, and returns how many that is.
func (s *Store) update(ctx context.Context, filter bson.D, change any) (int64, error) {
	reply, err := s.write(ctx, bson.D{
		e("update", s.Collection()),
		e("updates", bson.A{bson.D{e("q", filter), e("u", change)}}),
	})
	if err != nil {
		return 0, err
	}
	return count(reply)
}

// ours matches the record under k if it has not expired.
func ours(k store.Key, now time.Time) bson.D {
	after := bson.D{e("$gt", dateValue(now))}
	return bson.D{
		e(fieldKey, bytesValue(k[:])),
		e(fieldExpires, after),
		e(fieldDeadline, after), // which it is, unless it is no time at all
	}
}

// Replace implements [store.Store]. It is one update; one that matches nothing takes
// a find to tell why.
func (s *Store) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	now := time.Now()
	r = r.Truncate()
	if err := check(ctx, r, now); err != nil {
		return writeError(ctx, "replace", err)
	}
	n, err := s.update(ctx, append(ours(k, now), e(fieldVersion, versionValue(old))), replacement(r))
	if n > 0 || err != nil {
		return writeError(ctx, "replace", err)
	}
	if _, err = s.there(ctx, k); err == nil {
		err = store.ErrConflict
	}
	return writeError(ctx, "replace", err) // which has matched nothing
}

// replacement returns the pipeline that makes a stored record r. The second stage
// sees the deadline that the first one has left.
func replacement(r store.Record) bson.A {
	set := bson.D{
		e(fieldVersion, versionValue(r.Version)),
		e(fieldDeadline, bson.D{e("$min", bson.A{"$" + fieldDeadline, dateValue(r.Deadline)})}),
	}
	unset := bson.A{}
	for _, f := range optionals(r) {
		if len(f.bytes) > 0 {
			set = append(set, e(f.name, bytesValue(f.bytes)))
		} else {
			unset = append(unset, f.name)
		}
	}
	stages := bson.A{
		bson.D{e("$set", set)},
		bson.D{e("$set", bson.D{e(fieldExpires, bson.D{e("$min", bson.A{dateValue(r.Expires), "$" + fieldDeadline})})})},
	}
	if len(unset) > 0 {
		stages = append(stages, bson.D{e("$unset", unset)})
	}
	return stages
}

// Touch implements [store.Store]. It is one update; one that matches nothing takes a
// find to tell why.
func (s *Store) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	now := time.Now()
	expires = store.Record{Expires: expires}.Truncate().Expires
	switch {
	case ctx.Err() != nil:
		return writeError(ctx, "touch", ctx.Err())
	case expires.IsZero():
		return writeError(ctx, "touch", fmt.Errorf("%w: no expiry", store.ErrInvalid))
	case expires.After(lastTime):
		expires = lastTime // which is past every deadline
	}
	session := append(ours(k, now), e(fieldNext, absent))
	later := bson.A{bson.D{e("$set", bson.D{e(fieldExpires, bson.D{e("$max", bson.A{
		"$" + fieldExpires,
		bson.D{e("$min", bson.A{dateValue(expires), "$" + fieldDeadline})},
	})})})}}
	ctx, cancel := bounded(ctx)
	defer cancel()
	for attempt := 0; ; attempt++ {
		n, err := s.update(ctx, session, later)
		if n > 0 || err != nil {
			return writeError(ctx, "touch", err)
		}
		r, err := s.there(ctx, k)
		if err == nil && r.IsMarker() {
			err = store.ErrNotFound
		}
		if err == nil {
			err = pause(ctx, attempt)
		}
		if err != nil {
			return readError(ctx, "touch", err)
		}
	}
}

// Delete implements [store.Store]. It is one findAndModify; one that finds nothing
// takes a find to make sure: FerretDB misses a record that somebody changes at the same
// time, and a session that was signed out would live on.
func (s *Store) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	if ctx.Err() != nil {
		return false, writeError(ctx, "delete", ctx.Err())
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	for attempt := 0; ; attempt++ {
		reply, err := s.write(ctx, bson.D{
			e("findAndModify", s.Collection()),
			e("query", bson.D{e(fieldKey, bytesValue(k[:]))}),
			e("remove", true),
			e("fields", bson.D{e(fieldExpires, 1)}),
		})
		if err != nil {
			return false, writeError(ctx, "delete", err)
		}
		if was, ok := reply.Lookup("value").DocumentOK(); ok {
			expires, ok := was.Lookup(fieldExpires).DateTimeOK()
			return ok && store.Record{Expires: time.UnixMilli(expires)}.Live(time.Now()), nil
		}
		_, err = s.there(ctx, k)
		if err == errAbsent {
			return false, nil
		}
		if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
			err = pause(ctx, attempt)
		}
		if err != nil {
			return false, readError(ctx, "delete", err)
		}
	}
}

// Ping implements [store.Pinger]. It is a find of what is not there, so it tells
// whether the collection can be read, on the primary.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.find(ctx, s.latest, store.Key{}, nil)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		return nil
	}
	return readError(ctx, "ping", err)
}
