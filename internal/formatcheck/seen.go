package formatcheck

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// Seen is the value of the second cookie.
type Seen struct {
	Check   [4]byte
	Version uint64
}

// SeenCheck returns what stands for a key in the second cookie.
func SeenCheck(key [32]byte) [4]byte {
	sum := sha256.Sum256(append([]byte("coatcheck seen"), key[:]...))
	return [4]byte(sum[:4])
}

// Text returns the value of the second cookie. Its 12 bytes make 16 characters
// without a spare bit.
func (s Seen) Text() string {
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(s.Check[:], s.Version))
}

// ParseSeen reads the value of a second cookie.
func ParseSeen(text string) (Seen, bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != 12 {
		return Seen{}, false
	}
	s := Seen{[4]byte(b[:4]), binary.BigEndian.Uint64(b[4:])}
	return s, s.Text() == text // the decoder skips line breaks
}
