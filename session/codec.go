package session

import (
	"encoding/json"
	"reflect"
	"strconv"

	"google.golang.org/protobuf/proto"
)

// Codec turns values into bytes and back. Its methods must be safe for
// concurrent use, must not retain their arguments, and Decode must return a
// value that shares no memory with any other.
type Codec[T any] interface {
	Encode(v T) ([]byte, error)
	Decode(b []byte) (T, error)
}

// defaultCodec returns Protobuf for messages and JSON for everything else.
func defaultCodec[T any]() Codec[T] {
	if reflect.TypeFor[T]().Implements(reflect.TypeFor[proto.Message]()) && reflect.TypeFor[T]().Kind() == reflect.Pointer {
		return protoCodec[T]{}
	}
	return jsonCodec[T]{}
}

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Encode(v T) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec[T]) Decode(b []byte) (v T, err error) {
	switch p := any(&v).(type) { // what is most common needs no decoder
	case *int: // 0.2 µs and an allocation less
		if i, err := strconv.Atoi(string(b)); err == nil {
			*p = i
			return v, nil
		}
	case *string: // 0.4 µs and two allocations less
		if text, ok := plainText(b); ok {
			*p = string(text)
			return v, nil
		}
	}
	err = json.Unmarshal(b, &v)
	return v, err
}

// plainText returns what is between the quotes of a JSON string that is ASCII and
// has no escapes.
func plainText(b []byte) ([]byte, bool) {
	if len(b) < 2 || b[0] != '"' || b[len(b)-1] != '"' {
		return nil, false
	}
	b = b[1 : len(b)-1]
	for _, c := range b {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return nil, false
		}
	}
	return b, true
}

// protoCodec is for T a pointer to a generated message.
type protoCodec[T any] struct{}

// Encode is deterministic, so that setting an equal value writes nothing.
func (protoCodec[T]) Encode(v T) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(any(v).(proto.Message))
}

func (protoCodec[T]) Decode(b []byte) (T, error) {
	var zero T
	// A nil pointer to a generated message knows its type.
	m := any(zero).(proto.Message).ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, m); err != nil {
		return zero, err
	}
	return m.(T), nil
}
