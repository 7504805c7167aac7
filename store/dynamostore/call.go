package dynamostore

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"

	"github.com/coatcheck/coatcheck/store"
)

// patience bounds the repetitions of a write without a deadline.
const patience = 10 * time.Second

// write sends a write. The SDK would repeat one whose answer was lost, and the
// second attempt of a conditional write fails because the first has succeeded: so it
// is told not to. What is repeated here is only what DynamoDB says that it has not
// done: requests over a limit, and those that met a transaction on the same item.
//
// The error is errCondition, with what is there, if the write's condition does not
// hold; an ErrAmbiguous if it is open whether it was done; and any other means that
// it was not.
func (s *Store) write(ctx context.Context, call func(context.Context, ...func(*dynamodb.Options)) error) (there item, err error) {
	end := time.Now().Add(patience)
	for attempt := 0; ; attempt++ {
		var sent atomic.Bool
		there, err = judge(call(ctx, once(&sent)), sent.Load)
		if !errors.Is(err, errThrottled) && !errors.Is(err, errBusy) {
			return there, err
		}
		if time.Now().After(end) || pause(ctx, attempt) != nil {
			return nil, err
		}
	}
}

// once sets up a call that is attempted once. sent is set when the request may have been
// sent: when it is handed to the HTTP client, unless that tells that it waits for a
// connection and has none.
func once(sent *atomic.Bool) func(*dynamodb.Options) {
	var connected atomic.Bool
	trace := &httptrace.ClientTrace{
		GetConn: func(string) { sent.Store(connected.Load()) },
		GotConn: func(httptrace.GotConnInfo) {
			connected.Store(true)
			sent.Store(true)
		},
	}
	// Here, and not around the whole call, so that what fetches credentials is not
	// taken for it.
	watch := middleware.DeserializeMiddlewareFunc("CoatcheckSent", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		sent.Store(true)
		return next.HandleDeserialize(httptrace.WithClientTrace(ctx, trace), in)
	})
	return func(o *dynamodb.Options) {
		o.Retryer = aws.NopRetryer{}
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Deserialize.Add(watch, middleware.After)
		})
	}
}

// judge returns what the error of one attempt at a write says.
func judge(err error, sent func() bool) (there item, _ error) {
	if err == nil {
		return nil, nil
	}
	if e, ok := errors.AsType[*types.ConditionalCheckFailedException](err); ok {
		return e.Item, errCondition
	}
	if e, ok := errors.AsType[*types.TransactionCanceledException](err); ok {
		return judgeReasons(e.CancellationReasons)
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		switch code := e.ErrorCode(); {
		case code == "TransactionConflictException":
			return nil, errBusy
		case throttles[code]:
			return nil, errThrottled
		case refused(err):
			return nil, err
		}
	}
	if !sent() {
		return nil, err
	}
	return nil, &openError{err}
}

// judgeReasons returns why a transaction was given up. It has changed nothing.
func judgeReasons(reasons []types.CancellationReason) (item, error) {
	var err error = &replyError{"TransactionCanceledException", ""}
	for _, r := range reasons {
		switch code := aws.ToString(r.Code); code {
		case "ConditionalCheckFailed":
			return r.Item, errCondition
		case "TransactionConflict":
			err = errBusy
		case "ThrottlingError", "ProvisionedThroughputExceeded":
			err = errThrottled
		}
	}
	return nil, err
}

// openError is of a write that may have been done.
type openError struct{ error }

func (e *openError) Unwrap() error { return e.error }

func (*openError) Is(target error) bool { return target == store.ErrAmbiguous }

// Between attempts there are up to these times, twice as much after each.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// pause waits before the next attempt. It returns the context's error if that ends
// first.
func pause(ctx context.Context, attempt int) error {
	limit := lastPause
	if attempt < 7 {
		limit = min(firstPause<<attempt, lastPause)
	}
	t := time.NewTimer(rand.N(limit))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// reading notes what the SDK, which repeats reads by itself, repeats them for: when the
// context ends meanwhile, its error is all that the SDK tells.
type reading struct {
	aws.Retryer
	throttled bool
}

// option sets up a call.
func (r *reading) option(o *dynamodb.Options) { r.Retryer, o.Retryer = o.Retryer, r }

// IsErrorRetryable implements [aws.Retryer].
func (r *reading) IsErrorRetryable(err error) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	r.throttled = ok && throttles[e.ErrorCode()]
	return r.Retryer.IsErrorRetryable(err)
}

// GetAttemptToken implements [aws.RetryerV2].
func (r *reading) GetAttemptToken(ctx context.Context) (func(error) error, error) {
	if v2, ok := r.Retryer.(aws.RetryerV2); ok {
		return v2.GetAttemptToken(ctx)
	}
	return r.GetInitialToken(), nil
}

// outcome returns the error of the call, which is errThrottled if the context ended
// while that was so.
func (r *reading) outcome(err error) error {
	if r.throttled && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return errThrottled
	}
	return err
}
