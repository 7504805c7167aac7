package dynamostore

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/coatcheck/coatcheck/store"
)

type doer func(*http.Request) (*http.Response, error)

func (f doer) Do(r *http.Request) (*http.Response, error) { return f(r) }

// answering is a client to which the server answers that.
func answering(status int, code string) doer {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: status,
			Header:     http.Header{"Content-Type": {"application/x-amz-json-1.0"}},
			Body:       io.NopCloser(strings.NewReader(`{"__type":"com.amazonaws.dynamodb.v20120810#` + code + `","message":"secret"}`)),
		}, nil
	}
}

// TestOutcomes: what the server has refused is not applied, what waiting does not change
// is rejected, and what may have been sent is open, also with an HTTP client that does
// not tell of its connections.
func TestOutcomes(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, c := range []struct {
		name   string
		client dynamodb.HTTPClient
		want   error
	}{
		{"no rights", answering(400, "AccessDeniedException"), store.ErrRejected},
		{"no right to the key", answering(400, "KMSAccessDeniedException"), store.ErrRejected},
		{"no table yet", answering(400, "ResourceNotFoundException"), store.ErrUnapplied},
		{"a request that is wrong", answering(400, "ValidationException"), store.ErrUnapplied},
		{"an error within", answering(500, "InternalServerError"), store.ErrAmbiguous},
		{"an answer that was lost", doer(func(r *http.Request) (*http.Response, error) {
			_, _ = io.Copy(io.Discard, r.Body)
			return nil, io.ErrUnexpectedEOF
		}), store.ErrAmbiguous},
		{"nobody listens", &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, refused }}}, store.ErrUnapplied},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := New(dynamodb.New(dynamodb.Options{
				Region: "eu-west-1", BaseEndpoint: aws.String("http://db.example.com"), HTTPClient: c.client,
				Credentials: credentials.NewStaticCredentialsProvider("id", "secret", ""),
			}), nil)
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			r := store.Record{Version: 1, Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Hour)}
			err = s.Create(t.Context(), store.Key{1}, r)
			for _, is := range []error{store.ErrRejected, store.ErrUnapplied, store.ErrAmbiguous} {
				if errors.Is(err, is) != errors.Is(c.want, is) {
					t.Errorf("%v; want %v, and not %v", err, c.want, is)
				}
			}
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v; want an error without the server's words", err)
			}
		})
	}
}
