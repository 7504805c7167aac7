package formatcheck_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/formatcheck"
)

// readDocument returns the vectors as they stand in the document.
func readDocument(t *testing.T) formatcheck.Vectors {
	t.Helper()
	document, err := os.ReadFile("../../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, b, _, err := formatcheck.Cut(document)
	if err != nil {
		t.Fatal(err)
	}
	v, err := formatcheck.ParseVectors(b)
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{
		"ids": len(v.IDs), "bad_ids": len(v.BadIDs), "seen": len(v.Seen), "bad_seen": len(v.BadSeen), "records": len(v.Records), "refused": len(v.Refused), "flashes": len(v.Flashes),
	} {
		if n < 5 {
			t.Errorf("only %d %s in the document", n, name)
		}
	}
	return v
}

func TestIDs(t *testing.T) {
	v := readDocument(t)
	for _, v := range v.IDs {
		id, ok := formatcheck.ParseID(v.Text)
		key := id.Key()
		switch {
		case !ok:
			t.Errorf("%s is refused", v.Text)
		case !bytes.Equal(id[:], v.ID):
			t.Errorf("%s is read as %x", v.Text, id[:])
		case id.Text() != v.Text:
			t.Errorf("%s is written as %s", v.Text, id.Text())
		case !bytes.Equal(key[:], v.Key):
			t.Errorf("%s: key %x, want %x", v.Text, key[:], []byte(v.Key))
		case !bytes.Equal(id.SealingKey(), v.SealingKey):
			t.Errorf("%s: sealing key %x, want %x", v.Text, id.SealingKey(), []byte(v.SealingKey))
		}
	}
	for _, text := range v.BadIDs {
		if _, ok := formatcheck.ParseID(text); ok {
			t.Errorf("%q is read as an ID", text)
		}
	}
}

func TestSeen(t *testing.T) {
	v := readDocument(t)
	for _, v := range v.Seen {
		want := formatcheck.Seen{
			Check:   formatcheck.SeenCheck([32]byte(v.Key)),
			Version: binary.BigEndian.Uint64(v.Version),
		}
		if got, ok := formatcheck.ParseSeen(v.Text); !ok || got != want || want.Text() != v.Text {
			t.Errorf("%s is read as %x, %t and written as %s", v.Text, got, ok, want.Text())
		}
	}
	for _, text := range v.BadSeen {
		if _, ok := formatcheck.ParseSeen(text); ok {
			t.Errorf("%q is read as a version", text)
		}
	}
}

func TestRecords(t *testing.T) {
	for _, v := range readDocument(t).Records {
		t.Run(v.Name, func(t *testing.T) {
			id, rec := v.Decode()
			if got := formatcheck.AdditionalData(id, rec); !bytes.Equal(got, v.AdditionalData) {
				t.Errorf("additional data %x, want %x", got, []byte(v.AdditionalData))
			}
			plain, err := formatcheck.Open(id, rec, v.Unsealed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(plain, v.Plain) {
				t.Errorf("plaintext %x, want %x", plain, []byte(v.Plain))
			}
			p, err := formatcheck.ParsePayload(plain)
			if err != nil {
				t.Fatal(err)
			}
			if got := formatcheck.Describe(p); got.String() != v.Payload.String() {
				t.Errorf("payload %s, want %s", got, v.Payload)
			}
			want := v.Rewritten
			if want == nil {
				want = v.Plain
			}
			if got := p.Encode(); !bytes.Equal(got, want) {
				t.Errorf("it is written back as %x, want %x", got, []byte(want))
			}
			if v.Nonce != nil {
				written := formatcheck.Seal(id, rec, [12]byte(v.Nonce), plain)
				if v.Unsealed {
					written = formatcheck.Unsealed([12]byte(v.Nonce), plain)
				}
				if !bytes.Equal(written, v.Data) {
					t.Errorf("it is written as %x, want %x", written, []byte(v.Data))
				}
			}
			if _, err := formatcheck.Open(id, rec, false); v.Unsealed && !errors.Is(err, formatcheck.ErrUnsealed) {
				t.Errorf("where unsealed records are not accepted: %v", err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	kinds := map[string]error{
		"newer": formatcheck.ErrNewer, "unsealed": formatcheck.ErrUnsealed, "damaged": formatcheck.ErrDamaged,
	}
	for _, v := range readDocument(t).Refused {
		id, rec := v.Decode()
		plain, err := formatcheck.Open(id, rec, false)
		if err == nil {
			_, err = formatcheck.ParsePayload(plain)
		}
		if want := kinds[v.Want]; want == nil || !errors.Is(err, want) {
			t.Errorf("%s: %v, want %q", v.Name, err, v.Want)
		}
	}
}

func TestFlashes(t *testing.T) {
	for _, v := range readDocument(t).Flashes {
		var want []formatcheck.FlashItem
		for _, i := range v.Items {
			want = append(want, formatcheck.FlashItem{ID: [8]byte(i.ID), Value: i.Value})
		}
		got := formatcheck.ParseFlash(v.Value)
		if fmt.Sprintf("%x", got) != fmt.Sprintf("%x", want) {
			t.Errorf("%s: items %x, want %x", v.Name, got, want)
		}
		if again := formatcheck.ParseFlash(formatcheck.EncodeFlash(got)); fmt.Sprintf("%x", again) != fmt.Sprintf("%x", want) {
			t.Errorf("%s: items %x once written back, want %x", v.Name, again, want)
		}
	}
}

// TestEveryBitCounts changes each bit of the sealed records in turn.
func TestEveryBitCounts(t *testing.T) {
	for _, v := range readDocument(t).Records {
		if v.Unsealed || !bytes.HasPrefix(v.Data, []byte{1, 2<<3 | 2}) {
			continue // what is beside the sealed bytes need not count
		}
		for bit := range 8 * len(v.Data) {
			id, rec := v.Decode()
			rec.Data = bytes.Clone(rec.Data)
			rec.Data[bit/8] ^= 1 << (bit % 8)
			if _, err := formatcheck.Open(id, rec, false); err == nil {
				t.Errorf("%s: opens with bit %d of its data changed", v.Name, bit)
			}
		}
	}
}

// TestImportsNothingOfOurs holds the package to being independent.
func TestImportsNothingOfOurs(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 5 {
		t.Fatalf("files %q, error %v", files, err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !allowed(path, name) {
				t.Errorf("%s imports %s: the decoder is made from the document and the standard library alone", name, path)
			}
		}
	}
}

// allowed reports whether a file may import a package: those of the standard
// library have no dot in the first element of their path.
func allowed(path, file string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") ||
		strings.HasSuffix(file, "_test.go") && path == "github.com/coatcheck/coatcheck/internal/formatcheck"
}

func TestImportsCanFail(t *testing.T) {
	for path, want := range map[string]bool{
		"crypto/aes": true,
		"github.com/coatcheck/coatcheck/session/internal/format": false,
		"github.com/coatcheck/coatcheck/internal/formatcheck":    false,
		"google.golang.org/protobuf/encoding/protowire":          false,
	} {
		if allowed(path, "wire.go") != want {
			t.Errorf("%s is allowed: %t, want %t", path, !want, want)
		}
	}
}
