package mongostore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/coatcheck/coatcheck/store"
)

var (
	errDuplicate = errors.New("a document has the same key")

	// errAnswer is of an answer that does not fit what was asked.
	errAnswer = errors.New("the server's answer makes no sense: it is not MongoDB, or not compatible enough")
)

// readError makes an error of a read, and of a write that was refused, fit for the
// caller.
func readError(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mongostore: %s: %w", op, explain(ctx, err))
}

// writeError makes an error of a write fit for the caller: one whose outcome is
// open becomes an ErrAmbiguous, and any other that is not of the contract an
// ErrUnapplied.
func writeError(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if open, ok := errors.AsType[*openError](err); ok {
		return fmt.Errorf("mongostore: %s: %w: %w", op, store.ErrAmbiguous, explain(ctx, open.error))
	}
	shown := explain(ctx, err)
	if isOwn(err) {
		return fmt.Errorf("mongostore: %s: %w", op, shown)
	}
	not := store.ErrUnapplied
	if reply, ok := errors.AsType[*replyError](shown); ok && refusals[reply.code] {
		not = store.ErrRejected
	}
	return fmt.Errorf("mongostore: %s: %w: %w", op, not, shown)
}

// refusals are the codes of what is the same until somebody changes the server.
var refusals = map[int]bool{
	13:    true, // Unauthorized
	121:   true, // DocumentValidationFailure
	14031: true, // OutOfDiskSpace
}

// own are errors that hold what we have put there, and no more.
var own = []error{
	store.ErrNotFound, store.ErrConflict, store.ErrInvalid, store.ErrTooLarge, store.ErrCorrupt,
	errAnswer,
}

func isOwn(err error) bool {
	return slices.ContainsFunc(own, func(o error) bool { return errors.Is(err, o) })
}

// explain returns what may be shown of an error, with what can be done about it, and
// the context's error if that is what stopped the call. Errors of the driver quote
// what the server says, which quotes keys and values, so none of them is passed on.
func explain(ctx context.Context, err error) error {
	if isOwn(err) {
		return err
	}
	cause := ctx.Err()
	if cause == nil && !isSelection(err) { // which has a limit of its own
		cause = ended(err)
	}
	shown := reduce(err)
	switch {
	case cause == nil:
		return shown
	case shown.Error() == cause.Error():
		return cause
	}
	return fmt.Errorf("%w: %w", cause, shown)
}

func isSelection(err error) bool { return strings.HasPrefix(err.Error(), "server selection error") }

// reduce returns what may be shown of an error of the driver.
func reduce(err error) error {
	if is[*replyError](err) || is[*schemaError](err) {
		return err
	}
	var we mongo.WriteException
	if errors.As(err, &we) {
		switch {
		case we.WriteConcernError != nil && unmet[we.WriteConcernError.Code]:
			return &replyError{we.WriteConcernError.Name, we.WriteConcernError.Code, unconfirmed}
		case we.WriteConcernError != nil:
			return newReply(we.WriteConcernError.Name, we.WriteConcernError.Code)
		case len(we.WriteErrors) > 0:
			return newReply("", we.WriteErrors[0].Code)
		}
		return errAnswer
	}
	var ce mongo.CommandError
	if errors.As(err, &ce) && (ce.Code != 0 || !ofNetwork(ce)) {
		return newReply(ce.Name, int(ce.Code))
	}
	text := err.Error()
	for _, known := range networkAdvice {
		if strings.Contains(text, known.part) {
			return fmt.Errorf("%s: %s", text, known.advice)
		}
	}
	return errors.New(text)
}

// ofNetwork reports whether an error without a code is the driver's own, and not a
// server's.
func ofNetwork(ce mongo.CommandError) bool {
	return ce.HasErrorLabel("NetworkError") || notSent(ce)
}

// networkAdvice says what to do about an error of the network, by what is in its text:
// those of attempts to connect are known by it alone.
var networkAdvice = []struct{ part, advice string }{
	{"not encrypted", "see the documentation of OpenURL"},
	{"signed by unknown authority", "the certificate is not signed by an authority that is trusted here: name the right one with ca=FILE in the URL"},
	{"x509: certificate is valid for", badName},
	{"x509: certificate is not valid for", badName},
	{"x509: cannot validate certificate for", badName},
	{"certificate has expired or is not yet valid", "the server's certificate is not valid: renew it if it has expired, and look at the clocks"},
	{"does not look like a TLS handshake", "the server does not speak TLS on this port"},
	{"remote error: tls:", refusedTLS},
	{"no such host", "is the host the right one?"},
	{"no reachable servers", "is the host the right one?"},
}

const (
	badName         = "the certificate is for another host: connect to a name that it holds, or name one with servername=NAME in the URL"
	refusedTLS      = "the server refused the TLS connection: it may want a client certificate (cert=FILE and key=FILE in the URL), or not accept this one"
	closedTLS       = "the server closed the connection: it may not speak TLS on this port, want a client certificate (cert=FILE and key=FILE in the URL), or not accept this one"
	closedPlaintext = "the server closed the connection; if it wants TLS, add tls=true to the URL"
	unconfirmed     = "the primary has the write, and too few other servers: see their state (rs.status)"
)

// connectError is explain for a first connection. A server that closes it at once
// does not like how it is spoken to.
func connectError(ctx context.Context, err error, encrypted bool) error {
	shown := explain(ctx, err)
	text := err.Error()
	for _, known := range networkAdvice {
		if strings.Contains(text, known.part) {
			return shown
		}
	}
	for _, closed := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if strings.Contains(text, ": "+closed.Error()) {
			if encrypted {
				return fmt.Errorf("%w: %s", shown, closedTLS)
			}
			return fmt.Errorf("%w: %s", shown, closedPlaintext)
		}
	}
	return shown
}

// replyError is an error that the server answered. Its message quotes values; so only
// its name, or its code, is shown.
type replyError struct {
	name   string
	code   int
	advice string
}

func newReply(name string, code int) *replyError { return &replyError{name, code, advice[code]} }

func (e *replyError) Error() string {
	text := fmt.Sprintf("error %d of the server", e.code)
	switch {
	case e.name != "":
		text = fmt.Sprintf("%s (%d)", e.name, e.code)
	case e.code == 0:
		text = "an error of the server that has no code"
	}
	if e.advice != "" {
		text += ": " + e.advice
	}
	return text
}

const (
	badLogin = "the user or the password is wrong: see the URL; a user that was made in another database than the URL's is named with authSource=admin"
	elsewise = "this server is not the primary: name all servers of the replica set in the URL, without directConnection, so that the client follows the primary"
	badIndex = "an index of the collection is not as it must be: drop it, or name another collection, and let Migrate create it"
	tooOld   = "the server is not MongoDB 5.0 or newer, or not compatible enough"
)

// unmet are the codes of a write that the primary has and a majority not.
var unmet = map[int]bool{64: true, 79: true, 100: true}

// advice says what to do about an error of the server, by its code.
var advice = map[int]string{
	1:     "an error within the server: see its log",
	11:    badLogin,
	13:    "the user may not do this: the documentation of mongostore lists the rights that are needed",
	18:    badLogin,
	26:    "there is no such collection: Migrate creates it",
	50:    "the server has not done it in the time that the caller gave it",
	59:    tooOld,
	85:    badIndex,
	86:    badIndex,
	115:   tooOld,
	121:   "the collection has a validator that refuses sessions: name another collection",
	238:   tooOld,
	334:   "the server does not know this way to sign in: name another one with authMechanism in the URL, such as SCRAM-SHA-256",
	352:   tooOld,
	8000:  "MongoDB Atlas refuses it: see the cluster's page for its limits",
	10058: elsewise,
	10107: elsewise,
	13435: elsewise,
	13436: elsewise,
	14031: "the server has no space left on its disk",
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}
