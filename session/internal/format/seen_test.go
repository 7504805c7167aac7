package format

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/coatcheck/coatcheck/internal/formatcheck"
	"github.com/coatcheck/coatcheck/store"
)

func seenCases() (cases []formatcheck.SeenVector) {
	for i, version := range []uint64{0, 1, 1<<32 | 0xdeadbeef, 0x0102030405060708, 0xfbefbefffbefbeff, 1<<64 - 1} {
		key := caseID(byte(i)).Key()
		if i == 0 {
			key = [32]byte{}
		}
		s := formatcheck.Seen{Check: formatcheck.SeenCheck(key), Version: version}
		cases = append(cases, formatcheck.SeenVector{
			Key: key[:], Version: binary.BigEndian.AppendUint64(nil, version), Text: s.Text(),
		})
	}
	return cases
}

func badSeenCases() []string {
	text := formatcheck.Seen{Version: 1 << 32}.Text()
	return []string{"", text[:15], text + "A", text + "=", text[:15] + "=", "+" + text[1:], "/" + text[1:], " " + text[1:], text[:15] + "\n", text + "\n", text[:15] + "%"}
}

func TestVectorsOfSeen(t *testing.T) {
	vectors, _ := readVectors(t)
	for _, v := range vectors.Seen {
		k, version := store.Key(v.Key), binary.BigEndian.Uint64(v.Version)
		if got := NewSeen(k, version).Encode(); got != v.Text {
			t.Errorf("version %#x has the text %s, want %s", version, got, v.Text)
		}
		s, ok := ParseSeen(v.Text)
		if !ok || s.Version != version || !s.Names(k) {
			t.Errorf("%s parses as %+v, %t; names its key: %t", v.Text, s, ok, s.Names(k))
		}
		k[0] ^= 1
		if s.Names(k) {
			t.Errorf("%s names another key", v.Text)
		}
		if bytes.Contains(v.Key, s.check[:]) && version != 0 {
			t.Errorf("%s shows bytes of the key", v.Text)
		}
	}
	for _, text := range vectors.BadSeen {
		if s, ok := ParseSeen(text); ok {
			t.Errorf("%q parses as %+v", text, s)
		}
	}
	if (Seen{}).Names(store.Key{}) {
		t.Error("the zero Seen names a session")
	}
}

// FuzzParseSeen: each has one text, and who knows only the document reads the
// same.
func FuzzParseSeen(f *testing.F) {
	for _, v := range seenCases() {
		f.Add(v.Text)
	}
	for _, text := range badSeenCases() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := ParseSeen(text)
		if ok && s.Encode() != text {
			t.Errorf("%q is read and written as %q", text, s.Encode())
		}
		if !ok && s != (Seen{}) {
			t.Errorf("%q is refused with something beside", text)
		}
		other, accepted := formatcheck.ParseSeen(text)
		if accepted != ok || ok && (other.Version != s.Version || other.Check != s.check) {
			t.Errorf("%q: %+v, %t; by the document %+v, %t", text, s, ok, other, accepted)
		}
	})
}
