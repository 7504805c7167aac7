package format

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/coatcheck/coatcheck/internal/formatcheck"
	"github.com/coatcheck/coatcheck/store"
)

// FuzzParseID: an ID has one text, and who knows only the document reads the
// same IDs.
func FuzzParseID(f *testing.F) {
	for _, v := range idCases() {
		f.Add(v.Text)
	}
	for _, text := range badIDCases() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, ok := ParseID(text)
		if ok && id.Encode() != text {
			t.Errorf("%q is an ID whose text is %q", text, id.Encode())
		}
		if !ok && id != (ID{}) {
			t.Errorf("%q is refused with an ID beside", text)
		}
		if other, accepted := formatcheck.ParseID(text); accepted != ok || other != formatcheck.ID(id) {
			t.Errorf("%q: %x, %t; by the document %x, %t", text, id[:], ok, other[:], accepted)
		}
	})
}

// FuzzOpen opens arbitrary data, and the plaintext sealed around it.
func FuzzOpen(f *testing.F) {
	for _, v := range recordCases() {
		f.Add([]byte(v.ID), []byte(v.Handle), string(v.Owner), v.Created, []byte(v.Data))
	}
	for _, v := range refusedCases() {
		f.Add([]byte(v.ID), []byte(v.Handle), string(v.Owner), v.Created, []byte(v.Data))
	}
	kinds := map[error]error{
		nil: nil, ErrNewer: formatcheck.ErrNewer, ErrUnsealed: formatcheck.ErrUnsealed, ErrCorrupt: formatcheck.ErrDamaged,
	}
	f.Fuzz(func(t *testing.T, idBytes, handle []byte, owner string, created int64, data []byte) {
		var id ID
		var h store.Handle
		copy(id[:], idBytes)
		copy(h[:], handle)
		_, rec := record(formatcheck.StoredVector{ID: id[:], Handle: h[:], Owner: []byte(owner), Created: created, Data: data})
		for _, allowPlain := range []bool{false, true} {
			before := bytes.Clone(data)
			plain, err := new(Sealer).Open(id, id.Key(), rec, allowPlain)
			want, wantErr := formatcheck.Open(formatcheck.ID(id), neutralRecord(rec), allowPlain)
			if kind, ok := kinds[err]; !ok || !errors.Is(wantErr, kind) || !bytes.Equal(plain, want) {
				t.Errorf("opens to %x, %v; by the document %x, %v", plain, err, want, wantErr)
			}
			if !bytes.Equal(rec.Data, before) {
				t.Error("opening changed the data")
			}
		}
		rec.Data = new(Sealer).Seal(id, id.Key(), rec, data)
		if got, err := formatcheck.Open(formatcheck.ID(id), neutralRecord(rec), false); err != nil || !bytes.Equal(got, data) {
			t.Errorf("what was sealed here opens, by the document, to %x, %v", got, err)
		}
		rec.Data = formatcheck.Seal(formatcheck.ID(id), neutralRecord(rec), caseNonce, data)
		if got, err := new(Sealer).Open(id, id.Key(), rec, false); err != nil || !bytes.Equal(got, data) {
			t.Errorf("what was sealed by the document opens to %x, %v", got, err)
		}
	})
}

// FuzzParsePayload: what is read and written again is read the same, and written
// the same from then on.
func FuzzParsePayload(f *testing.F) {
	for _, v := range recordCases() {
		f.Add([]byte(v.Plain))
	}
	f.Add([]byte("\x4b\x08\x01\x4c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		p, err := ParsePayload(b)
		if !bytes.Equal(b, before) {
			t.Fatal("reading changed the payload")
		}
		byDocument, docErr := formatcheck.ParsePayload(b)
		switch {
		case err != nil && !errors.Is(err, ErrPayload):
			t.Fatalf("an error that is not ErrPayload: %v", err)
		case err != nil && docErr == nil:
			t.Fatalf("%v, but by the document it is sound", err)
		case err == nil && docErr != nil && !leftToReaders(b):
			t.Fatal("it is read, but by the document it is damaged")
		case err != nil:
			return
		}
		if docErr == nil {
			if got, want := neutral(p).Encode(), byDocument.Encode(); !bytes.Equal(got, want) && !zeroTime(byDocument) {
				t.Fatalf("reads %x, by the document %x", got, want)
			}
		}
		written := p.Append(nil)
		again, err := ParsePayload(written)
		if err != nil || !equal(again, p) {
			t.Fatalf("%+v is read back as %+v, %v", p, again, err)
		}
		if twice := again.Append(nil); !bytes.Equal(twice, written) {
			t.Fatalf("written as %x, then as %x", written, twice)
		}
	})
}

// leftToReaders reports whether a payload holds what docs/format.md lets a reader
// treat as it likes: groups, and field numbers above 2²⁹−1.
func leftToReaders(b []byte) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		if typ == protowire.StartGroupType || num > protowire.MaxValidNumber {
			return true
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return false
		}
		b = b[n+m:]
	}
	return false
}

// zeroTime reports whether p was signed in at the instant that Go's time.Time
// takes for none, in the year 1.
func zeroTime(p formatcheck.Payload) bool { return p.SignedIn && p.SignedInAt == -62135596800000 }
