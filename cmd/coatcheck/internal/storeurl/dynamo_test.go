package storeurl_test

import (
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/storeurl"
)

func TestDynamoURL(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"dynamodb://", "dynamodb:"},
		{"dynamodb://shop?region=eu-central-1&profile=hunter2", "dynamodb://shop"},
		{"dynamodb://shop?endpoint=http%3A%2F%2F127.0.0.1%3A8000", "dynamodb://shop"},
	} {
		u, err := storeurl.Parse(tt.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if u.String() != tt.want || u.Kind() != "dynamodb" || !u.Shared() || u.CheckSchema() != nil {
			t.Errorf("Parse(%q) = %v, kind %s, shared %t, %v; want %s, dynamodb, true, a schema", tt.in, u, u.Kind(), u.Shared(), u.CheckSchema(), tt.want)
		}
		if again, err := storeurl.Parse(u.Raw()); err != nil || again != u {
			t.Errorf("a worker that is given %v opens another store: %v", u, err)
		}
		if _, err := u.Schema(""); err == nil || !strings.Contains(err.Error(), "has no SQL") {
			t.Errorf("the SQL of DynamoDB: %v; want that there is none", err)
		}
	}
	for in, want := range map[string]string{
		"dynamodb://hunter2@shop":                           "credentials",
		"dynamodb://shop?hunter2=x":                         "not known",
		"dynamodb://shop?endpoint=http%3A%2F%2Fexample.com": "begin the endpoint with https",
		"dynamodb:shop":                                     "begin with dynamodb://",
	} {
		_, err := storeurl.Parse(in)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "dynamostore") {
			t.Errorf("Parse(%q): %v; want an error that says %q, and nothing of the URL", in, err, want)
		}
	}
}
