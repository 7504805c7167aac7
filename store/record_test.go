package store_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.UTC)

func valid() store.Record {
	return store.Record{Version: 7, Owner: "alice", Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(time.Minute)}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name  string
		alter func(*store.Record)
		ok    bool
	}{
		{"a session", func(*store.Record) {}, true},
		{"expiry at the deadline", func(r *store.Record) { r.Expires = r.Deadline }, true},
		{"expiry after the deadline by less than a millisecond", func(r *store.Record) {
			r.Deadline = now.Truncate(time.Millisecond).Add(time.Hour)
			r.Expires = r.Deadline.Add(time.Millisecond - 1)
		}, true},
		{"expiry after the deadline by a millisecond", func(r *store.Record) { r.Expires = r.Deadline.Add(time.Millisecond) }, false},
		{"expiry a millisecond from now", func(r *store.Record) { r.Expires = now.Add(time.Millisecond) }, true},
		{"expiry that is now once it is cut", func(r *store.Record) { r.Expires = now.Add(100) }, false},
		{"expiry now", func(r *store.Record) { r.Expires = now }, false},
		{"past expiry", func(r *store.Record) { r.Expires = now.Add(-time.Hour) }, false},
		{"no creation time", func(r *store.Record) { r.Created = time.Time{} }, false},
		{"no deadline", func(r *store.Record) { r.Deadline = time.Time{} }, false},
		{"no expiry", func(r *store.Record) { r.Expires = time.Time{} }, false},
		{"an owner at the limit", func(r *store.Record) { r.Owner = strings.Repeat("o", store.MaxOwner) }, true},
		{"an owner over the limit", func(r *store.Record) { r.Owner = strings.Repeat("o", store.MaxOwner+1) }, false},
		{"an owner over the limit in bytes, not in characters", func(r *store.Record) { r.Owner = strings.Repeat("é", 128) }, false},
		{"a label at the limit", func(r *store.Record) { r.Label = make([]byte, store.MaxLabel) }, true},
		{"a label over the limit", func(r *store.Record) { r.Label = make([]byte, store.MaxLabel+1) }, false},
		{"much data, whose limit is the store's", func(r *store.Record) { r.Data = make([]byte, 4*store.MinData) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := valid()
			tt.alter(&r)
			err := r.Validate(now)
			if (err == nil) != tt.ok {
				t.Errorf("Validate = %v; want ok %v", err, tt.ok)
			}
			if err != nil && !errors.Is(err, store.ErrInvalid) {
				t.Errorf("Validate = %v; want ErrInvalid", err)
			}
		})
	}
}

func TestTruncate(t *testing.T) {
	zone := time.FixedZone("test", -5*3600)
	r := store.Record{Created: now.In(zone), Deadline: now.Add(time.Hour)}.Truncate()
	if want := time.Date(2026, 3, 1, 12, 0, 0, 123_000_000, time.UTC); r.Created != want {
		t.Errorf("Created = %v; want %v: cut, not rounded, and in UTC", r.Created, want)
	}
	if !r.Expires.IsZero() {
		t.Errorf("Expires = %v; want zero to stay zero, or a missing expiry would pass for one", r.Expires)
	}
	if again := r.Truncate(); again.Created != r.Created || again.Deadline != r.Deadline {
		t.Error("Truncate of a truncated record changes it")
	}
	withClock := store.Record{Created: time.Now()}.Truncate().Created
	if strings.Contains(withClock.String(), "m=") {
		t.Errorf("Created = %v; want no monotonic reading, or equal times compare unequal", withClock)
	}
}

func TestLive(t *testing.T) {
	r := store.Record{Expires: now}
	for d, want := range map[time.Duration]bool{-1: true, 0: false, 1: false} {
		if got := r.Live(now.Add(d)); got != want {
			t.Errorf("Live %v after its expiry = %v; want %v", d, got, want)
		}
	}
}

func TestIsMarker(t *testing.T) {
	if (store.Record{}).IsMarker() {
		t.Error("a record without Next is a marker")
	}
	if !(store.Record{Next: store.Key{31: 1}}).IsMarker() {
		t.Error("a record with Next is no marker")
	}
}

// No way to print or encode a key or a record shows what is in it.
func TestNothingIsShown(t *testing.T) {
	key := store.Key([]byte("needle-key-0123456789-0123456789"))
	next := store.Key([]byte("needle-next-123456789-0123456789"))
	r := valid()
	r.Owner, r.Label, r.Data, r.Next = "needle-owner", []byte("needle-label"), []byte("needle-data"), next
	type nested struct {
		K  store.Key
		P  *store.Key
		R  store.Record
		L  []store.Record
		KR store.Keyed
		M  map[store.Key]store.Record
	}
	values := map[string]any{
		"a key":               key,
		"a pointer to a key":  &key,
		"keys":                []store.Key{key},
		"a record":            r,
		"a record's pointer":  &r,
		"records":             []store.Record{r},
		"a keyed record":      store.Keyed{Key: key, Record: r},
		"its pointer":         &store.Keyed{Key: key, Record: r},
		"a map":               map[store.Key]store.Record{key: r},
		"what nests them":     nested{key, &key, r, []store.Record{r}, store.Keyed{Key: key, Record: r}, map[store.Key]store.Record{key: r}},
		"a pointer to nested": &nested{K: key, P: &key, R: r},
	}
	secrets := [][]byte{key[:], next[:], []byte(r.Owner), r.Label, r.Data}
	for name, v := range values {
		for _, verb := range []string{
			"%v", "%+v", "%#v", "%s", "%q", "%#q", "%+q", "%x", "%X", "%#x", "% x", "%d", "%b", "%o", "%O", "%c", "%U", "%e", "%g", "%t", "%T", "%200v", "%-.5s", "%z",
		} {
			check(t, name+" by "+verb, fmt.Sprintf(verb, v), secrets)
		}
		check(t, name+" by Sprint", fmt.Sprint(v), secrets)
		check(t, name+" in an error", fmt.Errorf("%w: %v", store.ErrInvalid, v).Error(), secrets)
		var text bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", "v", v, slog.Group("g", "v", v))
		check(t, name+" by slog's text handler", text.String(), secrets)
	}
	for name, v := range map[string]any{
		"a key": key, "a pointer to a key": &key, "keys": []store.Key{key}, "a map's key": map[store.Key]int{key: 1},
	} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s in JSON: %v", name, err)
		}
		check(t, name+" in JSON", string(text), secrets)
	}
	type document struct{ K store.Key }
	text, err := xml.Marshal(document{key})
	if err != nil {
		t.Errorf("a key in XML: %v", err)
	}
	check(t, "a key in XML", string(text), secrets)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "key", key, "record", r)
	check(t, "slog's JSON handler", log.String(), secrets)
}

// check reports any six bytes of a secret in text, in the ways that bytes are
// printed.
func check(t *testing.T, how, text string, secrets [][]byte) {
	t.Helper()
	lower := strings.ToLower(text)
	for _, s := range secrets {
		part := s[:6]
		for _, form := range []string{
			string(part),
			hex.EncodeToString(part),
			fmt.Sprintf("% x", part),
			base64.StdEncoding.EncodeToString(part),
			strings.Trim(fmt.Sprint(part), "[]"),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", part), "[]byte{"), "}"),
			strings.Trim(fmt.Sprintf("%b", part), "[]"),
			strings.Trim(fmt.Sprintf("%o", part), "[]"),
		} {
			if strings.Contains(text, form) || strings.Contains(lower, strings.ToLower(form)) {
				t.Errorf("%s shows a secret: %s", how, text)
				return
			}
		}
	}
}
