package format

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

func list(namesAndValues ...string) (out []Attr) {
	for pair := range slices.Chunk(namesAndValues, 2) {
		out = append(out, Attr{Name: []byte(pair[0]), Value: []byte(pair[1])})
	}
	return out
}

// equal compares all that is stored of two payloads.
func equal(a, b Payload) bool {
	return EqualAttrs(a.Attrs, b.Attrs) && slices.EqualFunc(a.Methods, b.Methods, bytes.Equal) &&
		a.SignedInAt.Equal(b.SignedInAt) && a.IdleTimeout == b.IdleTimeout && bytes.Equal(a.unknown, b.unknown)
}

func TestPayloadRoundTrip(t *testing.T) {
	for name, p := range map[string]Payload{
		"empty":            {},
		"attributes":       {Attrs: list("b", "2", "a", "1", "empty", "", "", "nameless")},
		"binary":           {Attrs: list("\xff\x00", "\x00\x80")},
		"long":             {Attrs: []Attr{{Name: []byte("n"), Value: make([]byte, 1<<20)}}},
		"signed in":        {SignedInAt: time.UnixMilli(1767225600123).UTC(), Methods: [][]byte{[]byte("password"), {}, []byte("otp")}},
		"signed in at 0":   {SignedInAt: time.UnixMilli(0).UTC()},
		"before 1970":      {SignedInAt: time.UnixMilli(-1).UTC()},
		"a millisecond":    {IdleTimeout: time.Millisecond},
		"the longest":      {IdleTimeout: math.MaxInt64 / time.Millisecond * time.Millisecond},
		"unknown":          {unknown: []byte("\x4a\x03new\x50\x96\x01")},
		"unknown and more": {Attrs: list("a", "1"), IdleTimeout: time.Hour, unknown: []byte("\x4a\x00")},
	} {
		got, err := ParsePayload(p.Append(nil))
		if err != nil || !equal(got, p) {
			t.Errorf("%s: %+v and %v come back", name, got, err)
		}
		if b := p.Append([]byte("before")); !bytes.Equal(b, append([]byte("before"), p.Append(nil)...)) {
			t.Errorf("%s: Append does not append", name)
		}
	}
}

func tag(n protowire.Number, typ protowire.Type) []byte { return protowire.AppendTag(nil, n, typ) }

// TestUnknownFieldsAreKept: old and new versions of a program share sessions in
// a rolling deployment, and neither may lose what is the other's.
func TestUnknownFieldsAreKept(t *testing.T) {
	unknown := [][]byte{
		append(tag(9, protowire.BytesType), "\x03new"...),
		append(tag(9, protowire.BytesType), "\x00"...),
		append(tag(10, protowire.VarintType), "\x96\x80\x00"...), // not the shortest
		append(tag(protowire.MaxValidNumber, protowire.Fixed64Type), "01234567"...),
		append(tag(12, protowire.Fixed32Type), "0123"...),
		append(append(tag(13, protowire.StartGroupType), "\x08\x01"...), tag(13, protowire.EndGroupType)...),
		append(tag(payloadAttrs, protowire.VarintType), 1), // known numbers as something else
		append(tag(payloadSignedInAt, protowire.Fixed64Type), "01234567"...),
		append(tag(payloadMethods, protowire.Fixed32Type), "0123"...),
		append(tag(payloadIdleTimeout, protowire.BytesType), 0),
	}
	known := Payload{Attrs: list("a", "1"), SignedInAt: time.UnixMilli(1), Methods: [][]byte{[]byte("otp")}, IdleTimeout: time.Hour}
	var b, want []byte
	for _, u := range unknown { // one after each known field, in turn
		b = append(b, u...)
		want = append(want, u...)
		b = known.Append(b)
	}
	p, err := ParsePayload(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.unknown, want) {
		t.Errorf("the unknown fields %x are kept as %x", want, p.unknown)
	}
	p.Attrs = Set(p.Attrs, Attr{Name: []byte("b"), Value: []byte("2")})
	again, err := ParsePayload(p.Append(nil))
	if err != nil || !bytes.Equal(again.unknown, want) {
		t.Errorf("after a change and another reading they are %x (%v), want %x", again.unknown, err, want)
	}
	if len(again.Attrs) != 2 {
		t.Errorf("attributes %+v, want a and b", again.Attrs)
	}
}

func TestLastWins(t *testing.T) {
	b := Payload{Attrs: list("a", "1", "b", "2", "a", "3", "b", ""), SignedInAt: time.UnixMilli(1), IdleTimeout: time.Second}.Append(nil)
	b = Payload{SignedInAt: time.UnixMilli(2), IdleTimeout: time.Minute}.Append(b)
	p, err := ParsePayload(b)
	if err != nil {
		t.Fatal(err)
	}
	want := Payload{Attrs: list("a", "3", "b", ""), SignedInAt: time.UnixMilli(2), IdleTimeout: time.Minute}
	if !equal(p, want) {
		t.Errorf("got %+v, want %+v", p, want)
	}
}

// TestIdleTimeoutOverflow: a duration that wrapped around would be a timeout that
// nobody chose.
func TestIdleTimeoutOverflow(t *testing.T) {
	const most = uint64(math.MaxInt64 / time.Millisecond)
	for ms, want := range map[uint64]error{
		0: nil, 1: nil, most: nil,
		most + 1: ErrPayload, most * 2: ErrPayload, 1 << 63: ErrPayload, math.MaxUint64: ErrPayload,
	} {
		p, err := ParsePayload(protowire.AppendVarint(tag(payloadIdleTimeout, protowire.VarintType), ms))
		if !errors.Is(err, want) {
			t.Errorf("%d ms: %v, want %v", ms, err, want)
		}
		if err == nil && (p.IdleTimeout < 0 || uint64(p.IdleTimeout.Milliseconds()) != ms) {
			t.Errorf("%d ms are read as %v", ms, p.IdleTimeout)
		}
	}
}

// TestDamagedPayloads cuts a payload at every byte: it is whole between fields
// and nowhere else.
func TestDamagedPayloads(t *testing.T) {
	fields := []Payload{
		{Attrs: list("name", "value")},
		{SignedInAt: time.UnixMilli(1767225600123)},
		{Methods: [][]byte{[]byte("otp")}},
		{IdleTimeout: time.Hour},
		{unknown: []byte("\x4a\x03new")},
	}
	var b []byte
	whole := map[int]bool{0: true}
	for _, f := range fields {
		b = f.Append(b)
		whole[len(b)] = true
	}
	for n := range len(b) + 1 {
		p, err := ParsePayload(b[:n])
		if whole[n] != (err == nil) || err != nil && !errors.Is(err, ErrPayload) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
		if err != nil && !equal(p, Payload{}) {
			t.Errorf("cut to %d bytes: an error and a payload", n)
		}
	}
}

func TestFindAndSet(t *testing.T) {
	attrs := list("a", "1", "b", "2")
	for name, want := range map[string]int{"a": 0, "b": 1, "": -1, "A": -1, "ab": -1} {
		if got := Find(attrs, name); got != want {
			t.Errorf("%q is found at %d, want %d", name, got, want)
		}
	}
	attrs = Set(attrs, Attr{Name: []byte("a"), Value: []byte("3")})
	attrs = Set(attrs, Attr{Name: []byte("c"), Value: []byte("4")})
	if want := list("a", "3", "b", "2", "c", "4"); !EqualAttrs(attrs, want) {
		t.Errorf("got %q, want %q", show(attrs), show(want))
	}
}

func TestEqualAttrs(t *testing.T) {
	a := list("a", "1", "b", "2")
	for _, tc := range []struct {
		b    []Attr
		want bool
	}{
		{list("a", "1", "b", "2"), true},
		{[]Attr{{Name: []byte("a"), Value: []byte("1"), Read: true}, a[1]}, true},
		{list("b", "2", "a", "1"), false},
		{list("a", "1"), false},
		{list("a", "1", "b", "3"), false},
		{list("a", "1", "c", "2"), false},
		{nil, false},
	} {
		if EqualAttrs(a, tc.b) != tc.want {
			t.Errorf("%q equal %q: %t, want %t", show(a), show(tc.b), !tc.want, tc.want)
		}
	}
	if !EqualAttrs(nil, []Attr{}) {
		t.Error("no attributes differ from none")
	}
}

// show returns attributes for a message, names and values in turn.
func show(attrs []Attr) (out []string) {
	for _, a := range attrs {
		out = append(out, string(a.Name), string(a.Value))
	}
	return out
}
