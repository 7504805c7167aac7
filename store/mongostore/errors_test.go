package mongostore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"github.com/coatcheck/coatcheck/store"
)

// wrapped is the driver's way to show an error of its own within one of a command.
func wrapped(text string, labels ...string) error {
	return mongo.CommandError{Message: text, Labels: labels, Wrapped: errors.New(text)}
}

// TestJudge: of each error of a write it is known whether the write may have been
// done, and none shows what the server says of keys. The servers of integration do not
// have a replica set, so what such a one answers is only tested here.
func TestJudge(t *testing.T) {
	const secret = "dup key: { _id: BinData(0, 5EC4E7) }"
	reply := func(code int32, name string) error {
		return mongo.CommandError{Code: code, Name: name, Message: secret}
	}
	write := func(code int) error {
		return mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: code, Message: secret}}}
	}
	concern := func(code int, name string) error {
		return mongo.WriteException{WriteConcernError: &mongo.WriteConcernError{Code: code, Name: name, Message: secret}}
	}
	const (
		refused   = "refused"
		open      = "open"
		elsewhere = "elsewhere"
		duplicate = "duplicate"
	)
	for _, c := range []struct {
		name string
		err  error
		want string
		says string
	}{
		{"another document has the key", write(11000), duplicate, ""},
		{"no rights", reply(13, "Unauthorized"), refused, "Unauthorized (13): the user may not do this"},
		{"a validator", write(121), refused, "error 121 of the server: the collection has a validator"},
		{"an unknown code", reply(99999, ""), refused, "error 99999 of the server"},
		{"no code", reply(0, ""), open, "an error of the server that has no code"},
		{"not the primary", reply(10107, "NotWritablePrimary"), elsewhere, "this server is not the primary"},
		{"a write to what is not the primary", write(10107), elsewhere, "this server is not the primary"},
		{"a secondary", reply(13435, "NotPrimaryNoSecondaryOk"), elsewhere, "this server is not the primary"},
		{"stepped down meanwhile", reply(189, "PrimarySteppedDown"), open, "PrimarySteppedDown (189)"},
		{"shut down meanwhile", reply(11600, "InterruptedAtShutdown"), open, "InterruptedAtShutdown (11600)"},
		{"interrupted", write(11602), open, "error 11602 of the server"},
		{"an error within", reply(1, "InternalError"), open, "see its log"},
		{"too late", reply(50, "MaxTimeMSExpired"), open, "in the time"},
		{"no majority in time", concern(64, "WriteConcernFailed"), open, "too few other servers"},
		{"no majority at all", concern(100, "UnsatisfiableWriteConcern"), open, "too few other servers"},
		{"stepped down while waiting for a majority", concern(189, "PrimarySteppedDown"), open, "PrimarySteppedDown (189)"},
		{"an answer that was lost", wrapped("connection(h:1[-3]) incomplete read of message header: EOF", "NetworkError"), open, "incomplete read"},
		{"a connection that broke while sending", wrapped("connection(h:1[-3]) unable to write wire message to network: broken pipe", "NetworkError"), open, "broken pipe"},
		{"an answer that is none", errors.New("malformed wire message: insufficient bytes"), open, "malformed"},
		{"a deadline that had passed", fmt.Errorf("operation not sent to server: %w", context.DeadlineExceeded), refused, "not sent"},
		{"a caller who had gone", context.Canceled, refused, context.Canceled.Error()},
		{"a deadline while waiting for the answer", mongo.CommandError{Labels: []string{"NetworkError"}, Wrapped: context.DeadlineExceeded}, open, context.DeadlineExceeded.Error()},
		{"nobody listens", &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}, refused, "connection refused"},
		{"no server", errors.New("server selection error: server selection timeout, current topology: { … }"), refused, "server selection"},
		{"no sign-in", fmt.Errorf("connection() error occurred during connection handshake: %w", reply(18, "AuthenticationFailed")), refused, "the user or the password is wrong"},
		{"an error within while signing in", fmt.Errorf("connection() error occurred during connection handshake: %w", reply(1, "InternalError")), refused, "see its log"},
		{"no connection is free", errors.New("timed out while checking out a connection from connection pool"), refused, "checking out"},
		{"another one's connection broke", wrapped("connection pool for h:1 was cleared because another operation failed with: EOF"), elsewhere, "was cleared"},
		{"a closed client", mongo.ErrClientDisconnected, refused, "disconnected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := judge(c.err)
			got := refused
			switch {
			case errors.Is(err, errDuplicate):
				got = duplicate
			case errors.Is(err, errElsewhere):
				got = elsewhere
			case errors.Is(err, store.ErrAmbiguous):
				got = open
			}
			if got != c.want {
				t.Errorf("%v is taken for %s; want %s", c.err, got, c.want)
			}
			if got == duplicate {
				return // nobody sees it
			}
			shown := writeError(t.Context(), "create", err)
			if errors.Is(shown, store.ErrAmbiguous) != (c.want == open) || !strings.Contains(shown.Error(), c.says) {
				t.Errorf("shown as %v; want something about %q", shown, c.says)
			}
			if errors.Is(shown, store.ErrUnapplied) == (c.want == open) {
				t.Errorf("shown as %v; want ErrUnapplied unless it is open", shown)
			}
			for _, text := range []string{shown.Error(), fmt.Sprintf("%+v", shown), fmt.Sprintf("%#v", shown)} {
				if strings.Contains(text, "5EC4E7") {
					t.Errorf("the key is shown: %s", text)
				}
			}
		})
	}
}

// TestRefusals: what waiting does not change is refused.
func TestRefusals(t *testing.T) {
	for code, want := range map[int]bool{13: true, 121: true, 14031: true, 10107: false, 18: false, 112: false} {
		for _, err := range []error{
			mongo.CommandError{Code: int32(code)},
			mongo.WriteException{WriteErrors: mongo.WriteErrors{{Code: code}}},
		} {
			if got := writeError(t.Context(), "create", judge(err)); errors.Is(got, store.ErrRejected) != want || !errors.Is(got, store.ErrUnapplied) {
				t.Errorf("error %d of the server is %v; want ErrUnapplied, and refused: %v", code, got, want)
			}
		}
	}
}

// TestContextIsVisible: who has ended a call sees that in its error, and who has not
// does not.
func TestContextIsVisible(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	lost := wrapped("connection(h:1[-3]) incomplete read of message header: EOF", "NetworkError")
	if err := writeError(ended, "create", judge(lost)); !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrAmbiguous) {
		t.Errorf("%v; want the context's error, and ErrAmbiguous", err)
	}
	if err := writeError(t.Context(), "create", judge(lost)); errors.Is(err, context.Canceled) {
		t.Errorf("%v; want no error of the context, which goes on", err)
	}
	selection := fmt.Errorf("server selection error: %w", context.DeadlineExceeded)
	if err := readError(t.Context(), "get", selection); errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v: that is the driver's own limit, and not the caller's", err)
	}
}
