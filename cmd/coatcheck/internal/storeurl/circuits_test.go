package storeurl

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/store/breaker"
)

// A cluster has many circuits, and each probe of each changes one: an outage is
// two lines all the same.
func TestOutageOfManyShardsIsToldOnce(t *testing.T) {
	var b bytes.Buffer
	c := &circuits{logger: slog.New(slog.NewTextHandler(&b, nil))}
	change := func(shard int, from, to breaker.State) {
		ch := breaker.Change{Shard: shard, From: from, To: to}
		if to == breaker.Open {
			ch.Err = errors.New("no answer")
		}
		c.change(ch)
	}
	for shard := range 3 {
		change(shard, breaker.Closed, breaker.Open)
		for range 2 {
			change(shard, breaker.Open, breaker.HalfOpen)
			change(shard, breaker.HalfOpen, breaker.Open)
		}
	}
	if opened := strings.Count(b.String(), "the circuit is open"); opened != 1 || strings.Contains(b.String(), "is closed") {
		t.Errorf("the outage was told %d times:\n%s", opened, &b)
	}
	if !strings.Contains(b.String(), "no answer") {
		t.Errorf("nobody learns why:\n%s", &b)
	}
	for shard := range 3 {
		if strings.Contains(b.String(), "is closed") {
			t.Errorf("the end was told while shard %d was open:\n%s", shard, &b)
		}
		change(shard, breaker.Open, breaker.HalfOpen)
		change(shard, breaker.HalfOpen, breaker.Closed)
	}
	if closed := strings.Count(b.String(), "the circuit is closed"); closed != 1 {
		t.Errorf("the end was told %d times:\n%s", closed, &b)
	}
}

// Attempts fail in the same way, but each from a port of its own.
func TestReasonsAreToldOnceEach(t *testing.T) {
	told := make(reasons)
	for _, tt := range []struct {
		text string
		want bool
	}{
		{"read tcp 127.0.0.1:40001->127.0.0.1:6379: connection reset", true},
		{"read tcp 127.0.0.1:40002->127.0.0.1:6379: connection reset", false},
		{"NOAUTH", true},
		{"read tcp 127.0.0.1:40003->127.0.0.1:6379: connection reset", false},
		{"NOAUTH", false},
	} {
		if got := told.add(errors.New(tt.text)); got != tt.want {
			t.Errorf("%s: new %t, want %t", tt.text, got, tt.want)
		}
	}
}
