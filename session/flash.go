package session

import (
	"crypto/rand"

	"google.golang.org/protobuf/encoding/protowire"
)

// Flash is a list of messages in a session that are shown once, on the next
// page that asks for them:
//
//	var notices = session.NewFlash[string]("notices")
type Flash[T any] struct{ attr Attr[T] }

// NewFlash returns the flash with that name. What [NewAttr] says of names and
// types holds for it too.
func NewFlash[T any](name string) Flash[T] { return Flash[T]{NewAttr[T](name)} }

// Add puts v at the end of the list. It returns what [Attr.Set] does.
func (f Flash[T]) Add(s *Session, v T) error {
	b, err := f.attr.encode(v)
	if err != nil {
		return err
	}
	item := flashItem{value: b}
	_, _ = rand.Read(item.id[:])
	return s.record(change{attr: f.attr.name, apply: func(old value) (value, error) {
		var list []byte // what is damaged in the old one would hide the item
		for _, i := range append(parseFlash(old.b), item) {
			list = i.append(list)
		}
		return value{list, true}, nil
	}})
}

// Pop returns the list and removes exactly what it returns: an item that
// another request adds meanwhile stays for the next Pop. Two requests at the
// same time may both show an item. It returns ErrEnded, or a [*DecodeError]
// after it removed what does not decode.
func (f Flash[T]) Pop(s *Session) ([]T, error) {
	s.mu.Lock()
	old := s.read(f.attr.name)
	s.mu.Unlock()
	if !old.ok {
		return nil, nil
	}
	var out []T
	var failed error
	shown := make(map[flashID]bool)
	for _, item := range parseFlash(old.b) {
		shown[item.id] = true
		v, err := f.attr.decode(value{item.value, true})
		if err != nil {
			failed = err
			continue
		}
		out = append(out, v)
	}
	err := s.record(change{attr: f.attr.name, apply: func(old value) (value, error) {
		var left []byte
		for _, item := range parseFlash(old.b) {
			if !shown[item.id] {
				left = item.append(left)
			}
		}
		return value{left, len(left) > 0}, nil
	}})
	if err != nil {
		return nil, err
	}
	return out, failed
}

// flashItem is stored as a field 1 of bytes: the item's random ID, then its
// value. docs/format.md describes it.
type flashItem struct {
	id    flashID
	value []byte
}

type flashID [8]byte

const flashField = 1

func (i flashItem) append(b []byte) []byte {
	b = protowire.AppendTag(b, flashField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(i.id)+len(i.value)))
	b = append(b, i.id[:]...)
	return append(b, i.value...)
}

// parseFlash returns the items that are whole. What is not, is dropped: a
// message that is shown once is worth no more.
func parseFlash(b []byte) []flashItem {
	var items []flashItem
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			break
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			break
		}
		if v, _ := protowire.ConsumeBytes(b[n : n+m]); num == flashField && typ == protowire.BytesType && len(v) >= len(flashID{}) {
			items = append(items, flashItem{flashID(v[:8]), v[8:]})
		}
		b = b[n+m:]
	}
	return items
}
