package dynamostore

import (
	"strings"
	"testing"
)

func TestURL(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"dynamodb://sessions?region=eu-central-1", ""},
		{"dynamodb://?region=eu-central-1&profile=shop", ""},
		{"dynamodb://sessions?endpoint=http://127.0.0.1:8000", ""},
		{"dynamodb://sessions?endpoint=https://vpce.example.com", ""},
		{"dynamodb://sessions?endpoint=http://10.0.0.1:8000&insecure-plaintext=true", ""},
		{"hunter2", "does not begin with dynamodb://"},
		{"dynamodb://AKIA:hunter2@sessions", "has credentials in it"},
		{"dynamodb://hunter2/x", "not of the form"},
		{"dynamodb://ab", "3 to 255"},
		{"dynamodb://sessions?hunter2=x", "known are region"},
		{"dynamodb://sessions?region=a&region=b", "region twice"},
		{"dynamodb://sessions?region=", "region without a value"},
		{"dynamodb://sessions?region=hunter2!", "not the name of one"},
		{"dynamodb://sessions?insecure-plaintext=yes", "can only be true"},
		{"dynamodb://sessions?endpoint=hunter2", "endpoint in the URL is not"},
		{"dynamodb://sessions?endpoint=http://a:hunter2@localhost", "endpoint in the URL is not"},
		{"dynamodb://sessions?endpoint=http://10.0.0.1:8000", "10.0.0.1:8000 is not on this machine"},
		{"dynamodb://sessions?endpoint=http://localhost.example.com", "not encrypted"},
	} {
		err := CheckURL(c.url, nil)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v; want no error", c.url, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want it to say %q", c.url, err, c.want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("the error holds a secret: %v", err)
		}
	}
}

// TestPlaintextByTheEnvironment: an endpoint that the SDK's own configuration names
// is looked at as one in the URL.
func TestPlaintextByTheEnvironment(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://10.0.0.1:8000")
	if _, err := OpenURL(t.Context(), "dynamodb://sessions?region=eu-central-1", nil); err == nil || !strings.Contains(err.Error(), "not encrypted") {
		t.Errorf("OpenURL: %v; want a refusal", err)
	}
}
