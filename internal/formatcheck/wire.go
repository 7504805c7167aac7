package formatcheck

import "encoding/binary"

// Wire types of the Protobuf encoding.
const (
	varintType  = 0
	fixed64Type = 1
	bytesType   = 2
	fixed32Type = 5
)

// field is one field of a message.
type field struct {
	number   uint64
	wireType byte
	varint   uint64 // the value of a varintType
	bytes    []byte // the value of a bytesType
	raw      []byte // tag and value as they stand
}

// fields splits a message into its fields; ok is false if it cannot be split
// to the end, and then the fields are those before the damage.
func fields(message []byte) (all []field, ok bool) {
	for len(message) > 0 {
		f, ok := firstField(message)
		if !ok {
			return all, false
		}
		all = append(all, f)
		message = message[len(f.raw):]
	}
	return all, true
}

func firstField(message []byte) (f field, ok bool) {
	tag, size := binary.Uvarint(message)
	if size <= 0 {
		return field{}, false
	}
	f.number, f.wireType = tag>>3, byte(tag&7)
	if f.number == 0 || f.number >= 1<<29 {
		return field{}, false
	}
	rest := message[size:]
	switch f.wireType {
	case varintType:
		f.varint, size = binary.Uvarint(rest)
		if size <= 0 {
			return field{}, false
		}
		rest = rest[size:]
	case bytesType:
		length, size := binary.Uvarint(rest)
		if size <= 0 || length > uint64(len(rest)-size) {
			return field{}, false
		}
		f.bytes = rest[size : size+int(length)]
		rest = rest[size+int(length):]
	case fixed64Type, fixed32Type:
		size := 8
		if f.wireType == fixed32Type {
			size = 4
		}
		if len(rest) < size {
			return field{}, false
		}
		rest = rest[size:]
	default:
		return field{}, false
	}
	f.raw = message[:len(message)-len(rest)]
	return f, true
}

func appendBytes(b []byte, number uint64, value []byte) []byte {
	b = binary.AppendUvarint(b, number<<3|bytesType)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func appendVarint(b []byte, number, value uint64) []byte {
	b = binary.AppendUvarint(b, number<<3|varintType)
	return binary.AppendUvarint(b, value)
}
