package formatcheck

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// The three ways in which a record does not open.
var (
	ErrNewer    = errors.New("the record is of a newer program")
	ErrUnsealed = errors.New("the record is not sealed")
	ErrDamaged  = errors.New("the record is damaged")
)

// Record is what a store keeps of a session and what its data depends on.
type Record struct {
	Handle  [16]byte
	Owner   []byte
	Created int64 // milliseconds since 1970
	Data    []byte
}

// AdditionalData returns what is authenticated with the data of r under id.
func AdditionalData(id ID, r Record) []byte {
	key := id.Key()
	b := []byte{1, 0}
	b = append(b, key[:]...)
	b = append(b, r.Handle[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Created))
	return append(b, r.Owner...)
}

// Open returns the plaintext of r.
func Open(id ID, r Record, acceptUnsealed bool) ([]byte, error) {
	if len(r.Data) == 0 {
		return nil, ErrDamaged
	}
	if r.Data[0] != 1 {
		return nil, ErrNewer
	}
	var value [5][]byte // by field number
	var present [5]bool
	all, whole := fields(r.Data[1:])
	for _, f := range all {
		if f.wireType != bytesType || f.number > 4 {
			return nil, ErrDamaged
		}
		if f.number == 1 && len(f.bytes) > 0 {
			return nil, ErrNewer
		}
		value[f.number], present[f.number] = f.bytes, true
	}
	sealed, plain := value[2], value[3]
	switch {
	case !whole, present[2] == present[3]:
		return nil, ErrDamaged
	case present[3] && !acceptUnsealed:
		return nil, ErrUnsealed
	case present[3]:
		return plain, nil
	case len(sealed) < 12+16:
		return nil, ErrDamaged
	}
	opened, err := gcm(id).Open(nil, sealed[:12], sealed[12:], AdditionalData(id, r))
	if err != nil {
		return nil, ErrDamaged
	}
	return opened, nil
}

// Seal returns the data of r that holds plain under id.
func Seal(id ID, r Record, nonce [12]byte, plain []byte) []byte {
	sealed := gcm(id).Seal(nonce[:], nonce[:], plain, AdditionalData(id, r))
	return appendBytes([]byte{1}, 2, sealed)
}

// Unsealed returns the data of a record that holds plain readably.
func Unsealed(nonce [12]byte, plain []byte) []byte {
	return appendBytes(appendBytes([]byte{1}, 4, nonce[:]), 3, plain)
}

func gcm(id ID) cipher.AEAD {
	block, err := aes.NewCipher(id.SealingKey())
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has GCM's block size
	}
	return aead
}
