package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// readError makes an error of a read fit for the caller.
func readError(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if isWrongType(err) {
		err = errWrongType
	}
	return fmt.Errorf("redisstore: %s: %w", op, explain(ctx, err))
}

// writeError makes an error of a write fit for the caller: one whose outcome is
// open becomes an ErrAmbiguous, and one that certainly changed nothing an
// ErrUnapplied.
func (s *Store) writeError(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	half, second := errors.AsType[halfDone](err)
	if second {
		err = half.error
	}
	if isWrongType(err) {
		err = errWrongType
	}
	var outcome error
	answer, known := rueidis.IsRedisErr(err)
	switch {
	case isContract(err):
	case second:
		outcome = store.ErrAmbiguous
	case known:
		outcome = refusal(answer.Error())
	case notSent(err):
		outcome = store.ErrUnapplied
	case s.opts.MinReplicas > 0:
		outcome = store.ErrUnconfirmed
	default:
		outcome = store.ErrAmbiguous
	}
	if outcome == nil {
		return fmt.Errorf("redisstore: %s: %w", op, explain(ctx, err))
	}
	return fmt.Errorf("redisstore: %s: %w: %w", op, outcome, explain(ctx, err))
}

// refusals are the kinds of errors of a server that has not begun.
var refusals = map[string]error{
	"NOAUTH": store.ErrUnapplied, "WRONGPASS": store.ErrUnapplied,
	"OOM": store.ErrRejected, "MISCONF": store.ErrRejected,
	"READONLY": store.ErrUnapplied, "NOREPLICAS": store.ErrUnapplied,
	"LOADING": store.ErrUnapplied, "MASTERDOWN": store.ErrUnapplied, "CLUSTERDOWN": store.ErrUnapplied,
	"MOVED": store.ErrUnapplied, "BUSY": store.ErrUnapplied,
}

// refusal returns what an answer of the server says of the write; nil if it may have
// come from the midst of a script.
func refusal(text string) error {
	if strings.HasPrefix(text, "NOPERM ") { // the script itself was not permitted
		return store.ErrRejected
	}
	k := kind(text)
	if strings.HasPrefix(text, "Error running script") && k != "OOM" { // which only a script's first write meets
		return nil
	}
	return refusals[k]
}

// halfDone is of the second step of a write that has done the first.
type halfDone struct{ error }

var contract = []error{store.ErrNotFound, store.ErrConflict, store.ErrInvalid, store.ErrTooLarge, store.ErrCorrupt, store.ErrAmbiguous}

func isContract(err error) bool {
	for _, c := range contract {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}

// notSent reports whether err says that nothing has reached a server.
func notSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" || is[handshakeError](err) || is[notBegun](err) || errors.Is(err, errPlaintext)
}

var errWrongType = fmt.Errorf("%w: a key is of another type; something else writes under this prefix", store.ErrCorrupt)

func isWrongType(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && strings.Contains(e.Error(), "WRONGTYPE")
}

// replyError is an error that the server answered.
type replyError struct {
	text string // without what the server quotes of our arguments
}

func (e *replyError) Error() string { return e.text }

// advice says what to do about an error of the server, by what kind returns.
var advice = map[string]string{
	"NOAUTH":      "the server wants a password: put it into the URL, redis://user:password@host for an ACL user, redis://:password@host for requirepass",
	"WRONGPASS":   "the user or the password is wrong: see the URL, and ACL GETUSER on the server",
	"NOPERM":      "the ACL user may not do this: the documentation of redisstore lists the commands that it needs",
	"OOM":         "the server is full (maxmemory) and its policy evicts nothing: give it more memory",
	"MISCONF":     "the server cannot save to disk and refuses writes: see its log",
	"READONLY":    "this server is a replica: connect to the primary, or by Sentinel or Cluster, which follow it",
	"LOADING":     "the server is still loading its data",
	"MASTERDOWN":  "this server is a replica that has lost its primary",
	"CLUSTERDOWN": "a part of the cluster has no primary now",
	"NOREPLICAS":  "fewer replicas are connected than the server's min-replicas-to-write asks for",
	"MOVED":       "the server is part of a cluster whose slots are elsewhere: use a URL that begins with redis+cluster:// or rediss+cluster://, and if it does, the slots are moving",
	"BUSY":        "another script holds up the server",

	noSentinel: "this is no Sentinel: name the Sentinels in the URL, whose port usually is 26379, or begin it with redis:// or rediss:// for this server alone",
	noPrimary:  "the Sentinels know no primary of the name that is the path of the URL",
	noCommand:  "if this server is a Sentinel, begin the URL with redis+sentinel:// or rediss+sentinel://",
}

// Kinds of errors that do not begin with a word of their own.
const (
	noSentinel = "unknown SENTINEL"
	noPrimary  = "unknown primary"
	noCommand  = "unknown command"
)

// kind returns what an error of the server is about, for advice.
func kind(text string) string {
	word, _, _ := strings.Cut(text, " ")
	switch {
	case advice[word] != "":
	case strings.Contains(text, "invalid password"): // Redis 6.2 without ACL
		return "WRONGPASS"
	case strings.Contains(text, "user executing the script can't"), strings.Contains(text, "ACL failure in script"):
		return "NOPERM"
	case strings.HasPrefix(text, "unknown command") && strings.Contains(text, "SENTINEL"):
		return noSentinel
	case strings.HasPrefix(text, "unknown command"):
		return noCommand
	case strings.HasPrefix(text, "No such master"):
		return noPrimary
	case strings.HasPrefix(text, "Error running script"):
		// Redis 6.2 puts in front where it was: (call to f_HASH): @user_script:28:
		// @user_script: 28: -OOM command not allowed …
		for w := range strings.FieldsSeq(text) {
			if w, ok := strings.CutPrefix(w, "-"); ok && advice[w] != "" {
				return w
			}
		}
	}
	return word
}

// redisError returns what may be shown of an error of the server, which quotes
// arguments, and so keys, of commands that it does not know.
func redisError(err *rueidis.RedisError) error {
	text := err.Error()
	for _, mark := range []string{", with args beginning", " with args beginning"} {
		text, _, _ = strings.Cut(text, mark)
	}
	if a := advice[kind(text)]; a != "" {
		text += ": " + a
	}
	return &replyError{text}
}

// explain adds to err what can be done about it, and the context's error if that
// is what stopped the command.
func explain(ctx context.Context, err error) error {
	if isContract(err) {
		return err
	}
	if e, ok := rueidis.IsRedisErr(err); ok {
		return redisError(e)
	}
	what := ""
	switch {
	case is[x509.UnknownAuthorityError](err):
		what = "the certificate is not signed by an authority that is trusted here: name the right one with ca=FILE in the URL"
	case is[x509.HostnameError](err):
		what = "the certificate is for another host: connect to a name that it holds, or name one with servername=NAME in the URL"
	case is[x509.CertificateInvalidError](err):
		what = "the server's certificate is not valid: renew it if it has expired, and look at the clocks"
	case is[tls.RecordHeaderError](err):
		what = "the server does not speak TLS on this port"
	case isRemote(err):
		what = refusedTLS
	case is[handshakeError](err) && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		what = "the server has not answered in TLS: it does not speak it on this port, or is stuck"
	}
	if what != "" {
		err = fmt.Errorf("%w: %s", err, what)
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

const (
	refusedTLS      = "the server refused the TLS connection: it may want a client certificate (cert=FILE and key=FILE in the URL), or not accept this one"
	closedPlaintext = "the server closed the connection; if it wants TLS, use a URL that begins with rediss"
)

// connectError is explain for a first connection. A server that closes it at once
// does not like how it is spoken to; what it says of that can be lost with the
// connection.
func connectError(ctx context.Context, err error, encrypted bool) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		what := closedPlaintext
		if encrypted {
			what = refusedTLS
		}
		return fmt.Errorf("%w: %s", err, what)
	}
	return explain(ctx, err)
}

// isRemote reports whether err is an alert that the other side of a TLS
// connection sent.
func isRemote(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}
