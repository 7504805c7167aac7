package format

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrPayload is returned by ParsePayload for bytes that are no payload.
var ErrPayload = errors.New("session values are damaged")

// Payload is the plaintext of a record: the values of a session and what must
// not be readable or forgeable in the store.
type Payload struct {
	Attrs       []Attr
	SignedInAt  time.Time     // zero before sign-in; milliseconds
	Methods     [][]byte      // how the owner signed in
	IdleTimeout time.Duration // the policy at the last write; milliseconds
	unknown     []byte        // fields of a newer version, kept byte for byte
}

// Attr is one value of a session. Name and Value share memory with what was
// parsed and are never modified.
type Attr struct {
	Name  []byte
	Value []byte
	Read  bool // the holder has looked at it; not part of the format
}

// Field numbers of the Payload message and of its map entries.
const (
	payloadAttrs       = 1
	payloadSignedInAt  = 2
	payloadMethods     = 3
	payloadIdleTimeout = 4

	attrName  = 1
	attrValue = 2
)

// fewAttrs is what most sessions have at most, room for which is made at once.
const fewAttrs = 4

// ParsePayload decodes a payload. The result shares memory with b.
func ParsePayload(b []byte) (Payload, error) {
	var p Payload
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return Payload{}, ErrPayload
		}
		field, b2 := b, b[n:]
		n = protowire.ConsumeFieldValue(num, typ, b2)
		if n < 0 {
			return Payload{}, ErrPayload
		}
		value, rest := b2[:n], b2[n:]
		field = field[:len(field)-len(rest)]
		switch {
		case num == payloadAttrs && typ == protowire.BytesType:
			entry, _ := protowire.ConsumeBytes(value)
			a, ok := parseAttr(entry)
			if !ok {
				return Payload{}, ErrPayload
			}
			if p.Attrs == nil {
				p.Attrs = make([]Attr, 0, fewAttrs)
			}
			p.Attrs = Set(p.Attrs, a)
		case num == payloadMethods && typ == protowire.BytesType:
			m, _ := protowire.ConsumeBytes(value)
			p.Methods = append(p.Methods, m)
		case num == payloadSignedInAt && typ == protowire.VarintType:
			ms, _ := protowire.ConsumeVarint(value)
			p.SignedInAt = time.UnixMilli(int64(ms)).UTC()
		case num == payloadIdleTimeout && typ == protowire.VarintType:
			ms, _ := protowire.ConsumeVarint(value)
			if ms > uint64(math.MaxInt64/time.Millisecond) {
				return Payload{}, ErrPayload
			}
			p.IdleTimeout = time.Duration(ms) * time.Millisecond
		default:
			p.unknown = append(p.unknown, field...)
		}
		b = rest
	}
	return p, nil
}

func parseAttr(b []byte) (a Attr, ok bool) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			return Attr{}, false
		}
		b = b[n:]
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return Attr{}, false
		}
		b = b[n:]
		switch num {
		case attrName:
			a.Name = v
		case attrValue:
			a.Value = v
		default:
			return Attr{}, false
		}
	}
	return a, true
}

// Append appends the encoding of p to b.
func (p Payload) Append(b []byte) []byte {
	b = slices.Grow(b, p.maxSize())
	for _, a := range p.Attrs {
		b = protowire.AppendTag(b, payloadAttrs, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(attrSize(a)))
		b = protowire.AppendTag(b, attrName, protowire.BytesType)
		b = protowire.AppendBytes(b, a.Name)
		b = protowire.AppendTag(b, attrValue, protowire.BytesType)
		b = protowire.AppendBytes(b, a.Value)
	}
	if !p.SignedInAt.IsZero() {
		b = protowire.AppendTag(b, payloadSignedInAt, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(p.SignedInAt.UnixMilli()))
	}
	for _, m := range p.Methods {
		b = protowire.AppendTag(b, payloadMethods, protowire.BytesType)
		b = protowire.AppendBytes(b, m)
	}
	if p.IdleTimeout != 0 {
		b = protowire.AppendTag(b, payloadIdleTimeout, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(p.IdleTimeout.Milliseconds()))
	}
	return append(b, p.unknown...)
}

// maxSize is at least the length of p's encoding, and at most some bytes more.
func (p Payload) maxSize() int {
	const tag, varint = 1, 10
	size := 2*(tag+varint) + len(p.unknown)
	for _, a := range p.Attrs {
		size += tag + protowire.SizeBytes(attrSize(a))
	}
	for _, m := range p.Methods {
		size += tag + protowire.SizeBytes(len(m))
	}
	return size
}

func attrSize(a Attr) int {
	return protowire.SizeTag(attrName) + protowire.SizeBytes(len(a.Name)) +
		protowire.SizeTag(attrValue) + protowire.SizeBytes(len(a.Value))
}

// Find returns the index of the attribute with that name, or -1.
func Find(attrs []Attr, name string) int {
	for i := range attrs {
		if string(attrs[i].Name) == name {
			return i
		}
	}
	return -1
}

// Set returns attrs with a added, or in the place of the one with its name.
func Set(attrs []Attr, a Attr) []Attr {
	for i := range attrs {
		if string(attrs[i].Name) == string(a.Name) {
			attrs[i] = a
			return attrs
		}
	}
	return append(attrs, a)
}

// EqualAttrs reports whether a and b hold the same attributes in the same order.
func EqualAttrs(a, b []Attr) bool {
	return slices.EqualFunc(a, b, func(x, y Attr) bool {
		return bytes.Equal(x.Name, y.Name) && bytes.Equal(x.Value, y.Value)
	})
}
