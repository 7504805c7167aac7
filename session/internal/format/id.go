// Package format is the wire format of sessions: the ID in the cookie, the
// store key and the sealing key derived from it, and the envelope that a store
// keeps. docs/format.md describes it for other implementations; the vectors in
// testdata are the ones printed there, and never change once released.
package format

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/coatcheck/coatcheck/store"
)

// IDSize is the length of an ID in bytes: 256 bits from the operating system's
// generator, twice what ASVS 7.2.3 asks for.
const IDSize = 32

// EncodedIDSize is the length of an ID as text.
const EncodedIDSize = 43

// ID is a session ID, the one secret of a session.
type ID [IDSize]byte

// NewID returns a fresh ID.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	return id
}

var encoding = base64.RawURLEncoding.Strict()

// ParseID decodes the text form of an ID. It accepts exactly one text for each
// ID: unpadded base64url with the two spare bits zero.
func ParseID(s string) (ID, bool) {
	var id ID
	if len(s) != EncodedIDSize {
		return ID{}, false
	}
	// The decoder skips line breaks; the length of what it made shows them.
	n, err := encoding.Decode(id[:], []byte(s))
	if err != nil || n != IDSize {
		return ID{}, false
	}
	return id, true
}

// Format implements [fmt.Formatter]: no verb shows the ID.
func (ID) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[hidden]")) }

// Encode returns the text form of id.
func (id ID) Encode() string { return encoding.EncodeToString(id[:]) }

const (
	keyLabel  = "coatcheck key"
	sealLabel = "coatcheck seal"
)

// Key returns the key under which a store keeps the session:
// SHA-256("coatcheck key" || id).
func (id ID) Key() store.Key {
	var b [len(keyLabel) + IDSize]byte
	copy(b[:], keyLabel)
	copy(b[len(keyLabel):], id[:])
	return sha256.Sum256(b[:])
}

// sealingKey returns the AES-256 key of the session:
// HKDF-Expand-SHA256(PRK = id, info = "coatcheck seal", L = 32). The ID is
// uniformly random, so HKDF's extraction is not needed (RFC 5869 §3.3). The
// output is one block, HMAC-SHA256(id, info || 0x01), written out here because
// crypto/hkdf costs three times as much and allocates; a test holds both equal.
func (id ID) sealingKey() [32]byte {
	const blockSize = 64
	var inner [blockSize + len(sealLabel) + 1]byte
	var outer [blockSize + sha256.Size]byte
	for i := range blockSize {
		inner[i], outer[i] = 0x36, 0x5c
	}
	for i, b := range id {
		inner[i] ^= b
		outer[i] ^= b
	}
	copy(inner[blockSize:], sealLabel)
	inner[len(inner)-1] = 1
	sum := sha256.Sum256(inner[:])
	copy(outer[blockSize:], sum[:])
	return sha256.Sum256(outer[:])
}
