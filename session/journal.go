package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/coatcheck/coatcheck/session/internal/format"
)

// value is the stored form of an attribute; !ok means that it is absent.
type value struct {
	b  []byte
	ok bool
}

func (v value) equal(o value) bool { return v.ok == o.ok && bytes.Equal(v.b, o.b) }

// change is one entry of the journal.
type change struct {
	attr  string
	apply func(value) (value, error)
	// blind is set for a change that does not look at the old value. If the
	// request had read that, seen is what it saw, for telling a stale Set.
	blind bool
	seen  *value
	stale bool // the value that it replaces is newer
}

// read returns the value of an attribute as this request sees it.
func (s *Session) read(attr string) value {
	s.markRead(attr)
	i := format.Find(s.attrs, attr)
	if i < 0 {
		return value{}
	}
	return value{s.attrs[i].Value, true}
}

// markRead notes that the request looked at the stored value of an attribute,
// unless a value of its own hides that.
func (s *Session) markRead(attr string) {
	delete(s.earlier, attr)
	if slices.ContainsFunc(s.journal, func(c change) bool { return c.blind && c.attr == attr }) {
		return
	}
	if i := format.Find(s.payload.Attrs, attr); i >= 0 {
		s.payload.Attrs[i].Read = true
	} else if !slices.Contains(s.absent, attr) {
		s.absent = append(s.absent, attr)
	}
}

// seen returns what the request read of a stored attribute before it changed
// it, or nil.
func (s *Session) seen(attr string) *value {
	if v, ok := s.earlier[attr]; ok {
		return &v
	}
	i := format.Find(s.payload.Attrs, attr)
	switch {
	case i < 0 && slices.Contains(s.absent, attr):
		return &value{}
	case i >= 0 && s.payload.Attrs[i].Read:
		return &value{s.payload.Attrs[i].Value, true}
	}
	return nil
}

// rememberReads keeps what the request had read of the values that p, the newer
// payload, replaces: a later Set may be stale because of it. What the request
// itself has just set is known to it.
func (s *Session) rememberReads(p format.Payload) {
	remember := func(attr string, old value) {
		own := slices.ContainsFunc(s.journal, func(c change) bool { return c.attr == attr })
		if own || newest(p, attr).equal(old) {
			return
		}
		if s.earlier == nil {
			s.earlier = make(map[string]value)
		}
		if _, ok := s.earlier[attr]; !ok {
			s.earlier[attr] = old
		}
	}
	for _, a := range s.payload.Attrs {
		if a.Read {
			remember(string(a.Name), value{a.Value, true})
		}
	}
	for _, attr := range s.absent {
		remember(attr, value{})
	}
	for _, c := range s.journal {
		delete(s.earlier, c.attr)
	}
}

func newest(p format.Payload, attr string) value {
	if i := format.Find(p.Attrs, attr); i >= 0 {
		return value{p.Attrs[i].Value, true}
	}
	return value{}
}

// record applies a change to the values that this request sees and enters it
// into the journal. If the change refuses, neither happens.
func (s *Session) record(c change) error {
	s.lock()
	defer s.unlock()
	if err := s.closed(); err != nil {
		s.refused = true
		return err
	}
	if c.blind {
		c.seen = s.seen(c.attr)
		c.stale = c.seen != nil && !newest(s.payload, c.attr).equal(*c.seen)
	}
	attrs := s.attrs
	if !s.changed {
		attrs = slices.Clone(attrs)
	}
	attrs, err := applyChange(attrs, c)
	if err != nil {
		return err
	}
	s.attrs, s.changed = attrs, true
	if c.blind { // what came before it on this attribute has no effect any more
		s.journal = slices.DeleteFunc(s.journal, func(old change) bool { return old.attr == c.attr })
	}
	s.journal = append(s.journal, c)
	return nil
}

func applyChange(attrs []format.Attr, c change) ([]format.Attr, error) {
	var old value
	i := format.Find(attrs, c.attr)
	if i >= 0 {
		old = value{attrs[i].Value, true}
	}
	v, err := c.apply(old)
	switch {
	case err != nil:
		return nil, err
	case v.ok:
		return format.Set(attrs, format.Attr{Name: []byte(c.attr), Value: v.b}), nil
	case i >= 0:
		return slices.Delete(attrs, i, i+1), nil
	}
	return attrs, nil
}

// replay applies the journal to newer values, p's, and returns the result.
func (s *Session) replay(p format.Payload) ([]format.Attr, error) {
	attrs := slices.Clone(p.Attrs)
	for i := range s.journal {
		c := &s.journal[i]
		c.stale = c.seen != nil && !newest(p, c.attr).equal(*c.seen)
		var err error
		if attrs, err = applyChange(attrs, *c); err != nil {
			var decode *DecodeError
			if errors.As(err, &decode) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: attribute %q: %w", ErrRefused, c.attr, err)
		}
	}
	return attrs, nil
}

// rejectStale returns an ErrConflict if the journal sets what has changed since
// the request read it, and the app wants that refused.
func (s *Session) rejectStale() error {
	if !s.m.opts.RejectStaleSet {
		return nil
	}
	for _, c := range s.journal {
		if c.stale {
			s.resetChanges()
			return fmt.Errorf("session: attribute %q was changed by another request after this one read it: %w", c.attr, ErrConflict)
		}
	}
	return nil
}

// committed tells of what the journal did, which is stored now.
func (s *Session) committed(ctx context.Context) {
	for _, c := range s.journal {
		if c.stale {
			s.warn(ctx, "a Set replaced a newer value than the one its request had read; use Update to build on the old value", "attr", c.attr)
			s.observe(ctx, Event{Kind: EventStaleSet, Attr: c.attr})
		}
	}
}
