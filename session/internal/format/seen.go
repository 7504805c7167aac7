package format

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/coatcheck/coatcheck/store"
)

// EncodedSeenSize is the length of a Seen as text.
const EncodedSeenSize = 16

const seenLabel = "coatcheck seen"

// Seen is the version of a session that its browser has seen written, for
// telling a copy that is older. It is no secret, and what it says is believed
// only as far as reading the store once more. The zero Seen names no session.
type Seen struct {
	Version uint64
	check   [4]byte
}

// NewSeen says that version was written under k.
func NewSeen(k store.Key, version uint64) Seen { return Seen{version, seenCheck(k)} }

// Names reports whether v is about the session under k.
func (v Seen) Names(k store.Key) bool { return v != Seen{} && v.check == seenCheck(k) }

// seenCheck returns the first bytes of SHA-256("coatcheck seen" || k). Of the key
// itself not a byte leaves the servers.
func seenCheck(k store.Key) [4]byte {
	var b [len(seenLabel) + len(k)]byte
	copy(b[:], seenLabel)
	copy(b[len(seenLabel):], k[:])
	sum := sha256.Sum256(b[:])
	return [4]byte(sum[:])
}

// ParseSeen decodes the text form of a Seen. Each has exactly one text.
func ParseSeen(s string) (Seen, bool) {
	var b [12]byte
	if len(s) != EncodedSeenSize {
		return Seen{}, false
	}
	// The decoder skips line breaks; the length of what it made shows them.
	n, err := encoding.Decode(b[:], []byte(s))
	if err != nil || n != len(b) {
		return Seen{}, false
	}
	return Seen{binary.BigEndian.Uint64(b[4:]), [4]byte(b[:])}, true
}

// Encode returns the text form of v: the check, then the version, big-endian.
func (v Seen) Encode() string {
	var b [12]byte
	copy(b[:], v.check[:])
	binary.BigEndian.PutUint64(b[4:], v.Version)
	return encoding.EncodeToString(b[:])
}
