package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/formatcheck"
	"github.com/coatcheck/coatcheck/store"
)

// The vectors are made from cases_test.go by package formatcheck, which knows
// docs/format.md and nothing of this package. To add one, add its case and run
//
//	go test ./session/internal/format -run TestVectors -update
//
// which writes the file in testdata and its copy in the document. What is there
// already never changes: -update refuses to.
var update = flag.Bool("update", false, "add the new vectors to testdata and docs/format.md")

const (
	vectorsFile  = "testdata/vectors.json"
	documentFile = "../../../docs/format.md"
)

func readVectors(t *testing.T) (formatcheck.Vectors, []byte) {
	t.Helper()
	b, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	v, err := formatcheck.ParseVectors(b)
	if err != nil {
		t.Fatal(err)
	}
	return v, b
}

func encodeVectors(t *testing.T, v formatcheck.Vectors) []byte {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// TestVectorsNeverChange holds the vectors to the cases, and the document to the
// vectors.
func TestVectorsNeverChange(t *testing.T) {
	released, file := readVectors(t)
	document, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	before, copied, after, err := formatcheck.Cut(document)
	if err != nil {
		t.Fatal(err)
	}
	printed, err := formatcheck.ParseVectors(copied)
	if err != nil {
		t.Fatal(err)
	}
	cases := vectorCases()
	for where, old := range map[string]formatcheck.Vectors{vectorsFile: released, documentFile: printed} {
		for _, c := range changes(old, cases) {
			t.Errorf("%s in %s is not what its case makes: vectors never change once released; a format that differs is a new version beside the old", c, where)
		}
	}
	want := encodeVectors(t, cases)
	if *update && !t.Failed() {
		if err := os.WriteFile(vectorsFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(documentFile, slices.Concat(before, want, after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(file, want) {
		t.Errorf("%s is not what the cases make: run with -update to add new ones", vectorsFile)
	}
	if !bytes.Equal(file, copied) {
		t.Errorf("the vectors in %s are not those in %s: run with -update", documentFile, vectorsFile)
	}
}

// changes lists the vectors of old that are missing or different in next.
func changes(old, next formatcheck.Vectors) []string {
	return slices.Concat(
		changed(old.IDs, next.IDs, func(v formatcheck.IDVector) string { return "ID " + v.Text }),
		changed(old.BadIDs, next.BadIDs, func(s string) string { return fmt.Sprintf("bad ID %q", s) }),
		changed(old.Seen, next.Seen, func(v formatcheck.SeenVector) string { return "seen " + v.Text }),
		changed(old.BadSeen, next.BadSeen, func(s string) string { return fmt.Sprintf("bad seen %q", s) }),
		changed(old.Records, next.Records, func(v formatcheck.RecordVector) string { return "record " + v.Name }),
		changed(old.Refused, next.Refused, func(v formatcheck.RefusedVector) string { return "refused " + v.Name }),
		changed(old.Flashes, next.Flashes, func(v formatcheck.FlashVector) string { return "flash " + v.Name }),
	)
}

func changed[V any](old, next []V, name func(V) string) (found []string) {
	byName := make(map[string]V)
	for _, v := range next {
		byName[name(v)] = v
	}
	for _, v := range old {
		now, ok := byName[name(v)]
		if !ok || fmt.Sprintf("%+v", now) != fmt.Sprintf("%+v", v) {
			found = append(found, name(v))
		}
	}
	return found
}

func TestChangesAreSeen(t *testing.T) {
	for want, change := range map[string]func(*formatcheck.Vectors){
		"":                       func(v *formatcheck.Vectors) { v.BadIDs = append([]string{"new"}, v.BadIDs...) },
		"an ID is gone":          func(v *formatcheck.Vectors) { v.IDs = v.IDs[1:] },
		"an ID has another key":  func(v *formatcheck.Vectors) { v.IDs[0].Key[0] ^= 1 },
		"a bad ID is gone":       func(v *formatcheck.Vectors) { v.BadIDs = v.BadIDs[1:] },
		"a seen is gone":         func(v *formatcheck.Vectors) { v.Seen = v.Seen[1:] },
		"a bad seen is gone":     func(v *formatcheck.Vectors) { v.BadSeen = v.BadSeen[1:] },
		"a record is renamed":    func(v *formatcheck.Vectors) { v.Records[0].Name = "new" },
		"a record reads another": func(v *formatcheck.Vectors) { v.Records[1].Payload.Unknown = []byte{1} },
		"a record opens":         func(v *formatcheck.Vectors) { v.Refused[0].Want = "newer or not" },
		"a flash has more":       func(v *formatcheck.Vectors) { v.Flashes[0].Items = append(v.Flashes[0].Items, v.Flashes[0].Items...) },
	} {
		next := vectorCases()
		change(&next)
		if got := len(changes(vectorCases(), next)); (got == 1) != (want != "") {
			t.Errorf("%d changes seen when %q", got, want)
		}
	}
}

// record returns a vector as this package sees it.
func record(v formatcheck.StoredVector) (ID, store.Record) {
	return ID(v.ID), store.Record{
		Handle: store.Handle(v.Handle), Owner: string(v.Owner), Created: time.UnixMilli(v.Created), Data: v.Data,
	}
}

func TestVectorsOfIDs(t *testing.T) {
	vectors, _ := readVectors(t)
	for _, v := range vectors.IDs {
		id, ok := ParseID(v.Text)
		if !ok || !bytes.Equal(id[:], v.ID) {
			t.Errorf("%s parses as %x, %t; want %x", v.Text, id[:], ok, []byte(v.ID))
		}
		if got := ID(v.ID).Encode(); got != v.Text {
			t.Errorf("%x has the text %s, want %s", []byte(v.ID), got, v.Text)
		}
		if key := ID(v.ID).Key(); !bytes.Equal(key[:], v.Key) {
			t.Errorf("%s: key %x, want %x", v.Text, key[:], []byte(v.Key))
		}
		if key := ID(v.ID).sealingKey(); !bytes.Equal(key[:], v.SealingKey) {
			t.Errorf("%s: sealing key %x, want %x", v.Text, key[:], []byte(v.SealingKey))
		}
	}
	for _, text := range vectors.BadIDs {
		if id, ok := ParseID(text); ok {
			t.Errorf("%q parses as %x", text, id[:])
		}
	}
}

func TestVectorsOfRecords(t *testing.T) {
	vectors, _ := readVectors(t)
	for _, v := range vectors.Records {
		t.Run(v.Name, func(t *testing.T) {
			id, rec := record(v.StoredVector)
			if got := appendAdditional(nil, id.Key(), rec); !bytes.Equal(got, v.AdditionalData) {
				t.Errorf("additional data %x, want %x", got, []byte(v.AdditionalData))
			}
			plain, err := new(Sealer).Open(id, id.Key(), rec, v.Unsealed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(plain, v.Plain) {
				t.Errorf("plaintext %x, want %x", plain, []byte(v.Plain))
			}
			p, err := ParsePayload(plain)
			if err != nil {
				t.Fatal(err)
			}
			if got := formatcheck.Describe(neutral(p)); got.String() != v.Payload.String() {
				t.Errorf("payload %s, want %s", got, v.Payload)
			}
			want := v.Rewritten
			if want == nil {
				want = v.Plain
			}
			if got := p.Append(nil); !bytes.Equal(got, want) {
				t.Errorf("it is written back as %x, want %x", got, []byte(want))
			}
			testWriting(t, id, rec, v.Unsealed, v.Plain)
		})
	}
}

// testWriting holds what this package writes, but for the nonce that it drew, to
// what formatcheck writes, and so to the vectors.
func testWriting(t *testing.T, id ID, rec store.Record, unsealed bool, plain []byte) {
	t.Helper()
	head := 2 + len(appendUvarint(nonceSize+len(plain)+tagSize))
	var got, want []byte
	if unsealed {
		head = 3
		got = Plain(plain)
		want = formatcheck.Unsealed([nonceSize]byte(got[head:]), plain)
	} else {
		got = new(Sealer).Seal(id, id.Key(), rec, plain)
		want = formatcheck.Seal(formatcheck.ID(id), neutralRecord(rec), [nonceSize]byte(got[head:]), plain)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("with the nonce %x it is written as %x, want %x", got[head:head+nonceSize], got, want)
	}
}

func TestVectorsThatAreRefused(t *testing.T) {
	vectors, _ := readVectors(t)
	for _, v := range vectors.Refused {
		id, rec := record(v.StoredVector)
		plain, err := new(Sealer).Open(id, id.Key(), rec, false)
		if err == nil {
			_, err = ParsePayload(plain)
		}
		if want := kinds[v.Want]; err == nil || !slices.ContainsFunc(want, func(e error) bool { return errors.Is(err, e) }) {
			t.Errorf("%s: %v, want one of %v", v.Name, err, want)
		}
	}
}

// kinds are the words of the vectors for errors.
var kinds = map[string][]error{
	"newer":    {ErrNewer},
	"unsealed": {ErrUnsealed},
	"damaged":  {ErrCorrupt, ErrPayload},
}

// neutral returns p as formatcheck sees it.
func neutral(p Payload) formatcheck.Payload {
	out := formatcheck.Payload{Methods: p.Methods, IdleTimeout: p.IdleTimeout.Milliseconds(), Unknown: p.unknown}
	for _, a := range p.Attrs {
		out.Attrs = append(out.Attrs, formatcheck.Attr{Name: a.Name, Value: a.Value})
	}
	if !p.SignedInAt.IsZero() {
		out.SignedIn, out.SignedInAt = true, p.SignedInAt.UnixMilli()
	}
	return out
}

func neutralRecord(r store.Record) formatcheck.Record {
	return formatcheck.Record{Handle: r.Handle, Owner: []byte(r.Owner), Created: r.Created.UnixMilli(), Data: r.Data}
}
