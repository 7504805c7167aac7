package mongostore

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/coatcheck/coatcheck/store"
)

const (
	// limit bounds a call whose context has no deadline. It is no promise, but a
	// server that hangs is to hold nobody for ever.
	limit = time.Minute

	// patience bounds the repetitions of a write for which there was no primary.
	patience = 10 * time.Second
)

// bounded returns the context of one call. It has a deadline, and no transaction of
// the app's in it: a session that ends is not to live again because that was given
// up.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if mongo.SessionFromContext(ctx) != nil {
		ctx = mongo.NewSessionContext(ctx, nil)
	}
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// write sends a command that writes, and returns the answer when a majority of the
// servers has what was written. The driver's own methods for writes would send it
// again when its answer was lost, if the client is set so, as it is by default. A
// server that knows such repetitions answers the second time what it would have
// answered the first time; others do not, FerretDB among them, and there a
// conditional write fails because of itself. RunCommand repeats nothing. What is
// repeated here is only what was not done, as there was no primary.
//
// The error is errDuplicate if a document has the same key; an ErrAmbiguous if it is
// open whether the write was done; and any other means that it was not.
func (s *Store) write(ctx context.Context, command bson.D) (bson.Raw, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	command = append(command, e("writeConcern", bson.D{e("w", "majority")}))
	end := time.Now().Add(patience)
	for attempt := 0; ; attempt++ {
		reply, err := s.db.RunCommand(ctx, command).Raw()
		if err == nil {
			return reply, nil
		}
		if err = judge(err); !errors.Is(err, errElsewhere) || time.Now().After(end) || pause(ctx, attempt) != nil {
			return nil, err
		}
	}
}

// count returns how many documents a command has matched.
func count(reply bson.Raw) (int64, error) {
	n, ok := reply.Lookup("n").AsInt64OK()
	if !ok {
		return 0, &openError{errAnswer}
	}
	return n, nil
}

// judge returns what the error of one attempt at a write says.
func judge(err error) error {
	if notSent(err) {
		if isCleared(err) {
			return &elsewhereError{err}
		}
		return err
	}
	var we mongo.WriteException
	if errors.As(err, &we) {
		switch {
		case we.WriteConcernError != nil:
			return &openError{err} // the primary has it
		case len(we.WriteErrors) == 0:
			return &openError{err}
		}
		switch code := we.WriteErrors[0].Code; {
		case mongo.IsDuplicateKeyError(err):
			return errDuplicate
		case notPrimary[code]:
			return &elsewhereError{err}
		case undecided[code]:
			return &openError{err}
		}
		return err
	}
	if code, ok := reply(err); ok {
		switch {
		case notPrimary[code]:
			return &elsewhereError{err}
		case !undecided[code]:
			return err
		}
	}
	return &openError{err}
}

// reply returns the code of an error that the server answered.
func reply(err error) (code int, ok bool) {
	var ce mongo.CommandError
	if !errors.As(err, &ce) {
		return 0, false
	}
	return int(ce.Code), ce.Code != 0
}

// notPrimary are the codes by which a server refuses a write before it begins.
var notPrimary = map[int]bool{
	10107: true, // NotWritablePrimary
	13435: true, // NotPrimaryNoSecondaryOk
	10058: true, // LegacyNotPrimary
}

// undecided are the codes of a write that was interrupted, or of which the server
// that answers has lost sight: of the one that it has passed it on to.
var undecided = map[int]bool{
	1:     true, // InternalError
	6:     true, // HostUnreachable
	7:     true, // HostNotFound
	8:     true, // UnknownError
	24:    true, // LockTimeout
	50:    true, // MaxTimeMSExpired
	64:    true, // WriteConcernFailed
	89:    true, // NetworkTimeout
	90:    true, // CallbackCanceled
	91:    true, // ShutdownInProgress
	189:   true, // PrimarySteppedDown
	202:   true, // NetworkInterfaceExceededTimeLimit
	262:   true, // ExceededTimeLimit
	279:   true, // ClientDisconnect
	355:   true, // InterruptedDueToStorageChange
	8000:  true, // AtlasError: anything that the proxies of Atlas meet with
	9001:  true, // SocketException
	11600: true, // InterruptedAtShutdown
	11601: true, // Interrupted
	11602: true, // InterruptedDueToReplStateChange
	13436: true, // NotPrimaryOrSecondary
	46841: true, // ClientMarkedKilled
}

// unsent are the beginnings of the driver's errors of calls that had no connection to
// be sent on. It exports no types for them. One that it words otherwise is taken for a
// write that may have been done.
var unsent = []string{
	"server selection error",
	"timed out while checking out a connection",
	"canceled while checking out a connection",
	"attempted to check out a connection",
	cleared,
}

const (
	cleared   = "connection pool for "
	handshake = "error occurred during connection handshake"
)

// notSent reports whether err says that nothing was sent.
func notSent(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	if errors.Is(err, mongo.ErrClientDisconnected) {
		return true
	}
	// Of a call that was sent the context's error comes in one of the driver's.
	if !is[mongo.CommandError](err) && !is[mongo.WriteException](err) && ended(err) != nil {
		return true
	}
	text := strings.TrimSpace(err.Error())
	for _, begin := range unsent {
		if strings.HasPrefix(text, begin) {
			return true
		}
	}
	return strings.HasPrefix(text, "connection(") && strings.Contains(text, handshake)
}

// isCleared reports whether err is of a call that lost its connection to the failure
// of another one, before it was sent.
func isCleared(err error) bool {
	return strings.HasPrefix(strings.TrimSpace(err.Error()), cleared) && ended(err) == nil
}

// ended returns the error of a context that has ended and caused err.
func ended(err error) error {
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, cause) {
			return cause
		}
	}
	return nil
}

// openError is of a write that may have been done.
type openError struct{ error }

func (e *openError) Unwrap() error { return e.error }

func (*openError) Is(target error) bool { return target == store.ErrAmbiguous }

// elsewhereError is of a write that was not done, as the server is not, or no longer,
// the primary.
type elsewhereError struct{ error }

func (e *elsewhereError) Unwrap() error { return e.error }

func (*elsewhereError) Is(target error) bool { return target == errElsewhere }

var errElsewhere = errors.New("no primary")

// Between attempts there are up to these times, twice as much after each.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// pause waits before the next attempt. It returns the context's error if that ends
// first.
func pause(ctx context.Context, attempt int) error {
	most := lastPause
	if attempt < 7 {
		most = min(firstPause<<attempt, lastPause)
	}
	t := time.NewTimer(rand.N(most))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
