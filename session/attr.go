package session

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// Attr is a typed value of a session, declared once per package:
//
//	var cart = session.NewAttr[Cart]("cart")
//
// Values are stored as JSON, or as Protobuf if T is a pointer to a generated
// message. Programs of different versions may share sessions: a program keeps
// the attributes that it does not know byte for byte.
type Attr[T any] struct {
	name  string
	codec Codec[T]
}

// NewAttr returns the attribute with that name, which must be unique among the
// attributes of an app, must not change once in use, and is stored with every
// session: keep it short. It panics if name is empty or not UTF-8.
func NewAttr[T any](name string) Attr[T] {
	return NewAttrCodec(name, defaultCodec[T]())
}

// NewAttrCodec is [NewAttr] with a codec of the app's choice. It panics if name
// is empty or codec is nil.
func NewAttrCodec[T any](name string, codec Codec[T]) Attr[T] {
	if name == "" || !utf8.ValidString(name) {
		panic("session: an attribute needs a name, in UTF-8")
	}
	if codec == nil {
		panic("session: attribute " + name + " needs a codec")
	}
	return Attr[T]{name, codec}
}

// Name returns the name of the attribute.
func (a Attr[T]) Name() string { return a.name }

// Get returns the value in s, or the zero value if there is none. Each call
// returns a value of its own: changing it in place changes nothing in s. It
// returns a [*DecodeError] if what is stored does not decode into T.
func (a Attr[T]) Get(s *Session) (T, error) {
	s.mu.Lock()
	v := s.read(a.name)
	s.mu.Unlock()
	return a.decode(v)
}

// Set puts v into s. It is encoded at once, so later changes to v are not
// seen. The later of two parallel requests wins; use Update to build on the
// old value. It returns the codec's error, ErrEnded if the session is known to
// have ended, or the error that left an earlier commit undecided.
func (a Attr[T]) Set(s *Session, v T) error {
	b, err := a.encode(v)
	if err != nil {
		return err
	}
	return s.record(change{attr: a.name, blind: true, apply: func(value) (value, error) {
		return value{b, true}, nil
	}})
}

// Delete removes the value from s. If the session has ended, or takes no more
// changes, so has the value, and Commit tells.
func (a Attr[T]) Delete(s *Session) {
	_ = s.record(change{attr: a.name, blind: true, apply: func(value) (value, error) {
		return value{}, nil
	}})
}

// Update replaces the value in s by what f makes of it; f gets the zero value
// if there is none. No update is lost: if another request changes the session
// before this one commits, f runs again on the newer value. So f must depend
// on its argument alone and have no effect but its result. It must not use s,
// which waits for it: that would hang for ever.
//
// An error of f on this first run is returned as it is and changes nothing. On
// a later run it makes the commit fail with ErrRefused. A value that does not
// decode is a [*DecodeError] here; Set and Delete get rid of it.
func (a Attr[T]) Update(s *Session, f func(T) (T, error)) error {
	return s.record(change{attr: a.name, apply: func(old value) (value, error) {
		v, err := a.decode(old)
		if err != nil {
			return value{}, err
		}
		if v, err = f(v); err != nil {
			return value{}, err
		}
		b, err := a.encode(v)
		return value{b, true}, err
	}})
}

func (a Attr[T]) encode(v T) ([]byte, error) {
	b, err := a.codec.Encode(v)
	if err != nil {
		return nil, &encodeError{a.name, err}
	}
	return slices.Clone(b), nil // the codec may use its buffer again
}

// encodeError leaves the codec's error, which may quote the value, out of its
// text.
type encodeError struct {
	attr string
	err  error
}

func (e *encodeError) Error() string {
	return fmt.Sprintf("session: the value given to attribute %q does not encode", e.attr)
}
func (e *encodeError) Unwrap() error { return e.err }

func (a Attr[T]) decode(v value) (T, error) {
	if !v.ok {
		var zero T
		return zero, nil
	}
	t, err := a.codec.Decode(v.b)
	if err != nil {
		var zero T
		return zero, &DecodeError{Attr: a.name, Err: err}
	}
	return t, nil
}
