package mongostore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Names of the indexes. One of another name with the same keys will do.
const (
	expiryIndex = "expires"
	ownerIndex  = "owner"
)

// attempts is how often Migrate tries to create what is missing.
const attempts = 6

// leastGrace is the least time, in seconds, that an index by expiry may leave to the
// clocks of web servers.
const leastGrace = 60

// Migrate creates the collection and its indexes: one that has the server delete what
// has expired, some minutes later, and one by owner. It leaves alone what is there
// already, and any number of servers may call it at once. In a collection that is
// large already an index takes its time; ctx bounds that.
func (s *Store) Migrate(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return readError(ctx, "migrate", err)
	}
	return readError(ctx, "migrate", s.migrate(ctx))
}

func (s *Store) migrate(ctx context.Context) error {
	var failed error
	for attempt := range attempts {
		there, err := s.indexes(ctx)
		if err != nil {
			return err
		}
		missing := bson.A{}
		if there.expiry == nil {
			missing = append(missing, bson.D{
				e("name", expiryIndex), e("key", bson.D{e(fieldExpires, 1)}),
				e("expireAfterSeconds", int32(grace.Seconds())),
			})
		}
		if there.owner == nil {
			missing = append(missing, bson.D{
				e("name", ownerIndex), e("key", bson.D{e(fieldOwner, 1)}),
				e("partialFilterExpression", bson.D{e(fieldOwner, bson.D{e("$exists", true)})}),
			})
		}
		if len(missing) == 0 {
			return there.check()
		}
		// Not bounded: it is the one command that may take minutes.
		_, failed = s.db.RunCommand(ctx, bson.D{
			e("createIndexes", s.Collection()), e("indexes", missing),
			e("writeConcern", bson.D{e("w", "majority")}),
		}).Raw()
		// Another server may have been at it at the same time.
		if failed != nil && pause(ctx, attempt+4) != nil {
			return failed
		}
	}
	if failed == nil {
		failed = errAnswer // they were made, and are not there
	}
	return failed
}

// Verify returns what is wrong with the collection: that an index is missing or other
// than Migrate makes it; and whether the server is one that takes writes. It changes
// nothing.
func (s *Store) Verify(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return readError(ctx, "verify", err)
	}
	return readError(ctx, "verify", s.verify(ctx))
}

func (s *Store) verify(ctx context.Context) error {
	hello, err := s.hello(ctx)
	if err != nil {
		return err
	}
	if !hello.primary {
		return newReply("NotWritablePrimary", 10107)
	}
	there, err := s.indexes(ctx)
	if err != nil {
		return err
	}
	return there.check()
}

// indexed is what there is of our indexes.
type indexed struct{ expiry, owner bson.Raw }

// indexes returns those of the collection.
func (s *Store) indexes(ctx context.Context) (x indexed, err error) {
	cursor, err := s.latest.Indexes().List(ctx)
	if err != nil {
		return x, err
	}
	defer cursor.Close(ctx)
	for cursor.Next(ctx) {
		spec := append(bson.Raw(nil), cursor.Current...)
		keys, ok := spec.Lookup("key").DocumentOK()
		if !ok {
			continue
		}
		fields, err := keys.Elements()
		if err != nil || len(fields) != 1 {
			continue
		}
		if order, ok := fields[0].Value().AsInt64OK(); !ok || order != 1 && order != -1 {
			continue
		}
		switch fields[0].Key() {
		case fieldExpires:
			x.expiry = spec
		case fieldOwner:
			x.owner = spec
		}
	}
	return x, cursor.Err()
}

// check returns what is wrong with the indexes.
func (x indexed) check() error {
	for _, err := range []error{x.checkExpiry(), x.checkOwner()} {
		if err != nil {
			return err
		}
	}
	return nil
}

// schemaError is of indexes that are not as they must be.
type schemaError struct{ text string }

func (e *schemaError) Error() string { return e.text }

func (x indexed) checkExpiry() error {
	if x.expiry == nil {
		return &schemaError{"the collection has no index by expiry, so sessions that have expired stay for ever: Migrate creates it"}
	}
	seconds, ok := x.expiry.Lookup("expireAfterSeconds").AsFloat64OK()
	switch {
	case !ok:
		return &schemaError{"the collection's index by expiry has the server delete nothing (it has no expireAfterSeconds), so sessions that have expired stay for ever: drop it, and let Migrate create it"}
	case seconds < leastGrace:
		return &schemaError{fmt.Sprintf("the collection's index by expiry has the server delete sessions after %.0f seconds (expireAfterSeconds), which is less than clocks may differ by: let Migrate create it, with %.0f", seconds, grace.Seconds())}
	}
	return nil
}

func (x indexed) checkOwner() error {
	if x.owner == nil {
		return &schemaError{"the collection has no index by owner, so to sign out everywhere is to read all sessions: Migrate creates it"}
	}
	filter, ok := x.owner.Lookup("partialFilterExpression").DocumentOK()
	if !ok {
		return nil // it has the anonymous sessions too, and only costs more
	}
	fields, err := filter.Elements()
	if err == nil && len(fields) == 1 && fields[0].Key() == fieldOwner {
		return nil
	}
	return &schemaError{"the collection's index by owner leaves out sessions (its partialFilterExpression is another one): drop it, and let Migrate create it"}
}

// helloReply is how a server introduces itself.
type helloReply struct {
	primary bool
	set     string // the name of the replica set
	hosts   int    // of it
	sharded bool   // it is a mongos
	at      time.Time
}

func (s *Store) hello(ctx context.Context) (h helloReply, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	raw, err := s.ask(ctx, bson.D{e("hello", 1)})
	if err != nil {
		return h, err
	}
	var ok bool
	if h.primary, ok = raw.Lookup("isWritablePrimary").BooleanOK(); !ok {
		return h, errAnswer
	}
	h.set, _ = raw.Lookup("setName").StringValueOK()
	if hosts, ok := raw.Lookup("hosts").ArrayOK(); ok {
		values, _ := hosts.Values()
		h.hosts = len(values)
	}
	if ms, ok := raw.Lookup("localTime").DateTimeOK(); ok {
		h.at = time.UnixMilli(ms)
	}
	msg, _ := raw.Lookup("msg").StringValueOK()
	h.sharded = msg == "isdbgrid"
	return h, nil
}

// ask sends a command that changes nothing to the database admin.
func (s *Store) ask(ctx context.Context, command bson.D) (bson.Raw, error) {
	raw, err := s.client.Database("admin").RunCommand(ctx, command).Raw()
	if err == nil && raw == nil {
		err = errors.New("no answer")
	}
	return raw, err
}
