package dynamostore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/coatcheck/coatcheck/store"
)

var (
	// errCondition is of a write whose condition does not hold.
	errCondition = errors.New("condition does not hold")

	errThrottled = errors.New("throttled: more requests at once than the table or the account may take; use a table on demand (Migrate makes one), or raise its capacity")
	errBusy      = errors.New("other transactions on the same item have not ended in time")

	// errAnswer is of a condition that failed over an item for which it holds.
	errAnswer = errors.New("the server's answer makes no sense: it is not DynamoDB, or not compatible enough")
)

// notBegun is the error of a context that had ended before anything was sent.
type notBegun struct{ error }

func (e notBegun) Unwrap() error { return e.error }

// readError makes an error of a read fit for the caller.
func readError(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("dynamostore: %s: %w", op, explain(ctx, err))
}

// writeError makes an error of a write fit for the caller: one whose outcome is
// open becomes an ErrAmbiguous, and any other that is not of the contract an
// ErrUnapplied.
func writeError(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if open, ok := errors.AsType[*openError](err); ok {
		return fmt.Errorf("dynamostore: %s: %w: %w", op, store.ErrAmbiguous, explain(ctx, open.error))
	}
	shown := explain(ctx, err)
	if isOurs(err) {
		return fmt.Errorf("dynamostore: %s: %w", op, shown)
	}
	not := store.ErrUnapplied
	if reply, ok := errors.AsType[*replyError](shown); ok && refusals[reply.code] {
		not = store.ErrRejected
	}
	return fmt.Errorf("dynamostore: %s: %w: %w", op, not, shown)
}

// refusals are the codes of what is the same until somebody changes the account, its
// rights or the owner's sessions. A table that is not there may be on its way.
var refusals = map[string]bool{
	"AccessDeniedException":            true,
	"KMSAccessDeniedException":         true,
	"ItemCollectionSizeLimitException": true,
}

// ours are errors that hold what we have put there, and no more.
var ours = []error{
	store.ErrNotFound, store.ErrConflict, store.ErrInvalid, store.ErrTooLarge, store.ErrCorrupt,
	errAnswer,
}

func isOurs(err error) bool {
	return slices.ContainsFunc(ours, func(o error) bool { return errors.Is(err, o) })
}

// explain returns what may be shown of an error, with what can be done about it, and
// the context's error if that is what stopped the call. Errors of the SDK hold items
// and quote values, so none of them is passed on.
func explain(ctx context.Context, err error) error {
	if isOurs(err) {
		return err
	}
	err = reduce(err)
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// reduce returns what may be shown of an error of the SDK.
func reduce(err error) error {
	if errors.Is(err, errThrottled) || errors.Is(err, errBusy) || is[notBegun](err) || is[*replyError](err) {
		return err
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		if throttles[e.ErrorCode()] {
			return errThrottled
		}
		if !unnamed(e.ErrorCode()) {
			return reply(e)
		}
	}
	for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, ended) {
			return ended
		}
	}
	if e, ok := errors.AsType[*url.Error](err); ok { // of package net/http
		return explainNet(e.Err)
	}
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && e.Response != nil {
		return fmt.Errorf("the answer, of HTTP status %d, is not DynamoDB's", e.HTTPStatusCode())
	}
	if is[*smithy.DeserializationError](err) {
		return errors.New("the answer is not DynamoDB's")
	}
	if e, ok := errors.AsType[*smithy.OperationError](err); ok { // before anything was sent: region, credentials
		return errors.New(e.Err.Error())
	}
	return errors.New(err.Error())
}

// explainNet adds to an error of the network what can be done about it.
func explainNet(err error) error {
	what := ""
	switch {
	case is[x509.UnknownAuthorityError](err):
		what = "the certificate is not signed by an authority that is trusted here"
	case is[x509.HostnameError](err):
		what = "the certificate is for another host"
	case is[tls.RecordHeaderError](err):
		what = "the server does not speak TLS on this port"
	case is[*net.DNSError](err):
		what = "is the region the right one?"
	}
	if what != "" {
		return fmt.Errorf("%w: %s", err, what)
	}
	return err
}

// replyError is an error that the server answered.
type replyError struct{ code, advice string }

func (e *replyError) Error() string {
	if e.advice == "" {
		return e.code
	}
	return e.code + ": " + e.advice
}

// throttles are the server's words for a request that it has not done, and would do
// later.
var throttles = map[string]bool{
	"ProvisionedThroughputExceededException": true,
	"RequestLimitExceeded":                   true,
	"ThrottlingException":                    true,
	"Throttling":                             true,
	"TooManyRequestsException":               true,
}

const badCredentials = "the credentials are not valid, or no longer: see how the SDK finds them (environment, profile, role), and the clock of this machine"

// advice says what to do about an error of the server, by its code.
var advice = map[string]string{
	"AccessDeniedException":            "the credentials may not do this: the documentation of dynamostore lists the rights that are needed",
	"ExpiredTokenException":            badCredentials,
	"IncompleteSignature":              badCredentials,
	"InvalidSignatureException":        badCredentials,
	"MissingAuthenticationToken":       badCredentials,
	"UnrecognizedClientException":      badCredentials,
	"KMSAccessDeniedException":         "the table is encrypted with a key that the credentials may not use",
	"LimitExceededException":           "the account has as many tables, or changes of tables at once, as it may",
	"ResourceNotFoundException":        "there is no such table in this region and account: Migrate creates it",
	"UnknownOperationException":        "the server is not DynamoDB, or not compatible enough",
	"ValidationException":              "the server refuses the request: the table may not be as Migrate creates it; see Verify",
	"InternalServerError":              "an error within DynamoDB",
	"TransactionInProgressException":   "the transaction is still in progress",
	"ItemCollectionSizeLimitException": "an owner has too many sessions for the table's index",
}

// reply returns what may be shown of an error of the server: its code. Messages
// quote values.
func reply(e smithy.APIError) error { return &replyError{e.ErrorCode(), advice[e.ErrorCode()]} }

// unnamed reports whether a code is what the SDK puts where the server has none, as
// when something in between answers.
func unnamed(code string) bool { return code == "" || code == "UnknownError" }

// refused reports whether the server says that it has not done what it was asked:
// its own errors, of statuses from 500 on, do not say so.
func refused(err error) bool {
	api, ok1 := errors.AsType[smithy.APIError](err)
	res, ok2 := errors.AsType[*smithyhttp.ResponseError](err)
	return ok1 && ok2 && res.HTTPStatusCode()/100 == 4 &&
		!unnamed(api.ErrorCode()) && api.ErrorCode() != "TransactionInProgressException"
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}
