package formatcheck

import (
	"bytes"
	"math"
)

// Payload is the plaintext of a record, decoded.
type Payload struct {
	Attrs       []Attr
	SignedIn    bool
	SignedInAt  int64 // milliseconds since 1970
	Methods     [][]byte
	IdleTimeout int64 // milliseconds
	Unknown     []byte
}

// Attr is one value of a session.
type Attr struct{ Name, Value []byte }

// ParsePayload decodes the plaintext of a record.
func ParsePayload(plain []byte) (Payload, error) {
	all, ok := fields(plain)
	if !ok {
		return Payload{}, ErrDamaged
	}
	var p Payload
	for _, f := range all {
		switch {
		case f.number == 1 && f.wireType == bytesType:
			a, err := parseAttr(f.bytes)
			if err != nil {
				return Payload{}, err
			}
			p.set(a)
		case f.number == 2 && f.wireType == varintType:
			p.SignedIn, p.SignedInAt = true, int64(f.varint)
		case f.number == 3 && f.wireType == bytesType:
			p.Methods = append(p.Methods, f.bytes)
		case f.number == 4 && f.wireType == varintType:
			if f.varint > math.MaxInt64/1_000_000 {
				return Payload{}, ErrDamaged
			}
			p.IdleTimeout = int64(f.varint)
		default:
			p.Unknown = append(p.Unknown, f.raw...)
		}
	}
	return p, nil
}

func parseAttr(entry []byte) (a Attr, err error) {
	all, ok := fields(entry)
	if !ok {
		return Attr{}, ErrDamaged
	}
	for _, f := range all {
		switch {
		case f.number == 1 && f.wireType == bytesType:
			a.Name = f.bytes
		case f.number == 2 && f.wireType == bytesType:
			a.Value = f.bytes
		default:
			return Attr{}, ErrDamaged
		}
	}
	return a, nil
}

func (p *Payload) set(a Attr) {
	for i, old := range p.Attrs {
		if bytes.Equal(old.Name, a.Name) {
			p.Attrs[i] = a
			return
		}
	}
	p.Attrs = append(p.Attrs, a)
}

// Encode returns p as a writer writes it.
func (p Payload) Encode() []byte {
	var b []byte
	for _, a := range p.Attrs {
		b = appendBytes(b, 1, appendBytes(appendBytes(nil, 1, a.Name), 2, a.Value))
	}
	if p.SignedIn {
		b = appendVarint(b, 2, uint64(p.SignedInAt))
	}
	for _, m := range p.Methods {
		b = appendBytes(b, 3, m)
	}
	if p.IdleTimeout != 0 {
		b = appendVarint(b, 4, uint64(p.IdleTimeout))
	}
	return append(b, p.Unknown...)
}

// FlashItem is one message of a flash attribute.
type FlashItem struct {
	ID    [8]byte
	Value []byte
}

// ParseFlash returns the whole items in the value of a flash attribute.
func ParseFlash(value []byte) (items []FlashItem) {
	all, _ := fields(value)
	for _, f := range all {
		if f.number == 1 && f.wireType == bytesType && len(f.bytes) >= 8 {
			items = append(items, FlashItem{[8]byte(f.bytes), f.bytes[8:]})
		}
	}
	return items
}

// EncodeFlash returns the value of a flash attribute.
func EncodeFlash(items []FlashItem) []byte {
	var b []byte
	for _, i := range items {
		b = appendBytes(b, 1, append(i.ID[:], i.Value...))
	}
	return b
}
