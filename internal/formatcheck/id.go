package formatcheck

import (
	"crypto/hkdf"
	"crypto/sha256"
	"strings"
)

// ID is a session ID.
type ID [32]byte

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// ParseID reads the text form of an ID, bit by bit.
func ParseID(text string) (id ID, ok bool) {
	if len(text) != 43 {
		return ID{}, false
	}
	for i := range 43 {
		digit := strings.IndexByte(alphabet, text[i])
		if digit < 0 {
			return ID{}, false
		}
		for j := range 6 {
			bit := digit >> (5 - j) & 1
			switch at := 6*i + j; {
			case at < 256:
				id[at/8] |= byte(bit << (7 - at%8))
			case bit != 0: // a spare bit
				return ID{}, false
			}
		}
	}
	return id, true
}

// Text returns the text form of id.
func (id ID) Text() string {
	var text strings.Builder
	for i := range 43 {
		digit := 0
		for j := range 6 {
			digit <<= 1
			if at := 6*i + j; at < 256 {
				digit |= int(id[at/8] >> (7 - at%8) & 1)
			}
		}
		text.WriteByte(alphabet[digit])
	}
	return text.String()
}

// Key returns the key that a store keeps the session under.
func (id ID) Key() [32]byte {
	return sha256.Sum256(append([]byte("coatcheck key"), id[:]...))
}

// SealingKey returns the AES-256 key of the session.
func (id ID) SealingKey() []byte {
	key, err := hkdf.Expand(sha256.New, id[:], "coatcheck seal", 32)
	if err != nil {
		panic(err) // it is only ever asked for too much
	}
	return key
}
