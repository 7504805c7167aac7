package format

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/coatcheck/coatcheck/store"
)

// Version is the envelope version that this package writes, the first byte of
// a record's data.
const Version = 1

const (
	nonceSize = 12
	tagSize   = 16
)

// Errors of Open. ErrNewer is not damage: a newer program wrote the record, or
// one with keys that this one does not have. It must be left alone.
var (
	ErrNewer    = errors.New("session record was written in a format or with a key that this program does not know")
	ErrUnsealed = errors.New("session record is not sealed")
	ErrCorrupt  = errors.New("session record is damaged or was altered")
)

// Field numbers of the Envelope message.
const (
	envelopeKeyID  = 1
	envelopeSealed = 2
	envelopePlain  = 3
	envelopeNonce  = 4
)

// A Sealer seals and opens records, and remembers the key of the last ID, whose
// derivation is half of the work. The zero value is ready. It is not safe for
// concurrent use. The store key that its methods take is that of the ID.
type Sealer struct {
	// Keys, if not nil, is where it looks for the keys of other IDs.
	Keys *Keys

	id   ID
	aead cipher.AEAD
}

func (c *Sealer) of(id ID, k store.Key) cipher.AEAD {
	switch {
	case c.aead != nil && c.id == id:
	case c.Keys != nil:
		c.id, c.aead = id, c.Keys.of(id, k)
	default:
		c.id, c.aead = id, newAEAD(id)
	}
	return c.aead
}

// Seal returns the data of a record: plain encrypted under a key derived from
// id, bound to the fields of r that are fixed for the life of its key. It
// begins with a fresh nonce, so that no two calls return equal data.
func (c *Sealer) Seal(id ID, k store.Key, r store.Record, plain []byte) []byte {
	size := nonceSize + len(plain) + tagSize
	// One allocation holds the data and, behind it, the additional data.
	total := 2 + protowire.SizeBytes(size)
	b := make([]byte, 0, total+additionalSize(r))
	additional := appendAdditional(b[:total], k, r)[total:]
	b = b[:0:total]
	b = append(b, Version)
	b = protowire.AppendTag(b, envelopeSealed, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	nonce := b[len(b) : len(b)+nonceSize]
	_, _ = rand.Read(nonce)
	b = b[:len(b)+nonceSize]
	return c.of(id, k).Seal(b, nonce, plain, additional)
}

// Plain returns the data of a record that is not sealed: anyone who reads the
// store can read plain. It carries a fresh nonce too, for the reason at Seal.
func Plain(plain []byte) []byte {
	b := make([]byte, 0, 3+nonceSize+protowire.SizeBytes(len(plain)))
	b = append(b, Version)
	b = protowire.AppendTag(b, envelopeNonce, protowire.BytesType)
	b = protowire.AppendVarint(b, nonceSize)
	nonce := b[len(b) : len(b)+nonceSize]
	_, _ = rand.Read(nonce)
	b = b[:len(b)+nonceSize]
	b = protowire.AppendTag(b, envelopePlain, protowire.BytesType)
	return protowire.AppendBytes(b, plain)
}

// Open returns the plaintext of r.Data. It returns ErrNewer, ErrUnsealed (if
// the record is not sealed and allowPlain is false) or ErrCorrupt. The result
// may share memory with r.Data.
func (c *Sealer) Open(id ID, k store.Key, r store.Record, allowPlain bool) ([]byte, error) {
	if len(r.Data) == 0 {
		return nil, ErrCorrupt
	}
	if r.Data[0] != Version {
		return nil, ErrNewer
	}
	var sealed, plain []byte
	var hasSealed, hasPlain bool
	for b := r.Data[1:]; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, ErrCorrupt
		}
		b = b[n:]
		if typ != protowire.BytesType {
			return nil, ErrCorrupt
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return nil, ErrCorrupt
		}
		b = b[n:]
		switch num {
		case envelopeKeyID:
			if len(v) > 0 {
				return nil, ErrNewer
			}
		case envelopeSealed:
			sealed, hasSealed = v, true
		case envelopePlain:
			plain, hasPlain = v, true
		case envelopeNonce:
		default:
			return nil, ErrCorrupt
		}
	}
	switch {
	case hasSealed == hasPlain:
		return nil, ErrCorrupt
	case hasPlain && !allowPlain:
		return nil, ErrUnsealed
	case hasPlain:
		return plain, nil
	case len(sealed) < nonceSize+tagSize:
		return nil, ErrCorrupt
	}
	// One allocation holds the plaintext and, behind it, the additional data.
	size := len(sealed) - nonceSize - tagSize
	buf := make([]byte, size, size+additionalSize(r))
	out, err := c.of(id, k).Open(buf[:0:size], sealed[:nonceSize], sealed[nonceSize:], appendAdditional(buf, k, r)[size:])
	if err != nil {
		return nil, ErrCorrupt
	}
	return out, nil
}

// Same reports whether two records hold the same write, by the nonce that every
// write begins with. A marker has none; there it counts where it leads.
func Same(a, b store.Record) bool {
	return a.Version == b.Version && a.Next == b.Next && bytes.Equal(a.Data, b.Data)
}

func newAEAD(id ID) cipher.AEAD {
	key := id.sealingKey()
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has GCM's block size
	}
	return aead
}

// appendAdditional appends the additional data, which bind the ciphertext to
// the envelope version, the key ID (none), the store key and the fields of the
// record that never change. All parts but the last have a fixed length, so no
// two inputs give equal bytes.
func appendAdditional(b []byte, k store.Key, r store.Record) []byte {
	b = append(b, Version, 0)
	b = append(b, k[:]...)
	b = append(b, r.Handle[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Created.UnixMilli()))
	return append(b, r.Owner...)
}

func additionalSize(r store.Record) int {
	return 2 + len(store.Key{}) + len(store.Handle{}) + 8 + len(r.Owner)
}
