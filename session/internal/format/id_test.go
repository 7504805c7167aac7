package format

import (
	"crypto/hkdf"
	"crypto/sha256"
	"strings"
	"testing"
)

func TestSealingKeyIsHKDF(t *testing.T) {
	for range 100 {
		id := NewID()
		want, err := hkdf.Expand(sha256.New, id[:], sealLabel, 32)
		if err != nil {
			t.Fatal(err)
		}
		if got := id.sealingKey(); string(got[:]) != string(want) {
			t.Fatalf("%x has the sealing key %x, want %x", id[:], got[:], want)
		}
	}
}

func TestNewIDs(t *testing.T) {
	seen := make(map[ID]bool)
	for range 1000 {
		id := NewID()
		if id == (ID{}) || seen[id] {
			t.Fatal("an ID came twice or is zero")
		}
		seen[id] = true
	}
}

func TestKeysAreApart(t *testing.T) {
	id := NewID()
	key, seal := id.Key(), id.sealingKey()
	if [32]byte(key) == seal || [32]byte(key) == id || seal == id || [32]byte(key) == sha256.Sum256(id[:]) {
		t.Error("the store key tells the ID or the sealing key")
	}
}

func TestParseIDWantsEveryLengthButOneGone(t *testing.T) {
	for n := range 200 {
		if _, ok := ParseID(strings.Repeat("A", n)); ok != (n == EncodedIDSize) {
			t.Errorf("a text of %d characters is an ID: %t", n, ok)
		}
	}
}

// TestParseIDByCharacter puts every byte at every place: an ID has only those
// of the alphabet, and at the last place only those with the spare bits zero.
func TestParseIDByCharacter(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	good := NewID().Encode()
	for at := range good {
		for c := range 256 {
			text := good[:at] + string([]byte{byte(c)}) + good[at+1:]
			digit := strings.IndexByte(alphabet, byte(c))
			want := digit >= 0 && (at < len(good)-1 || digit%4 == 0)
			id, ok := ParseID(text)
			if ok != want {
				t.Fatalf("%q is an ID: %t, want %t", text, ok, want)
			}
			if ok && id.Encode() != text {
				t.Fatalf("%q has another text too, %q", text, id.Encode())
			}
			if !ok && id != (ID{}) {
				t.Fatalf("%q is refused with an ID beside", text)
			}
		}
	}
}

// TestParseIDRefusesLineBreaks: encoding/base64 skips them, so a text with some
// inside could pass for a shorter one.
func TestParseIDRefusesLineBreaks(t *testing.T) {
	good := NewID().Encode()
	for _, breaks := range []string{"\n", "\r", "\r\n", "\n\n\n\n"} {
		for at := range len(good) + 1 {
			longer := good[:at] + breaks + good[at:]
			if _, ok := ParseID(longer); ok {
				t.Errorf("%q is an ID", longer)
			}
			if cut := longer[:EncodedIDSize]; strings.ContainsAny(cut, breaks) {
				if _, ok := ParseID(cut); ok {
					t.Errorf("%q is an ID", cut)
				}
			}
		}
	}
}
