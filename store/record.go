package store

import (
	"fmt"
	"log/slog"
	"time"
)

const hidden = "[hidden]"

// Format implements [fmt.Formatter]: no verb shows the key.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// LogValue implements [slog.LogValuer]: no log shows the key.
func (Key) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText implements [encoding.TextMarshaler]: no encoding shows the key by
// accident.
func (Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// IsZero reports whether k is the zero Key, which names no record.
func (k Key) IsZero() bool { return k == Key{} }

// IsMarker reports whether r is a marker left under an old key.
func (r Record) IsMarker() bool { return !r.Next.IsZero() }

// Live reports whether r has not expired at now.
func (r Record) Live(now time.Time) bool { return now.Before(r.Expires) }

// Format implements [fmt.Formatter]: no verb shows owner, label or data.
func (r Record) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "record{version %#x, expires %s, %d bytes}",
		r.Version, r.Expires.UTC().Format(time.RFC3339Nano), len(r.Data))
}

// LogValue implements [slog.LogValuer]: no log shows owner, label or data.
func (r Record) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(r)) }

// Truncate returns r with its times in UTC, cut to the millisecond, which is
// what every store keeps.
func (r Record) Truncate() Record {
	r.Created = truncate(r.Created)
	r.Deadline = truncate(r.Deadline)
	r.Expires = truncate(r.Expires)
	return r
}

func truncate(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return time.UnixMilli(t.UnixMilli()).UTC()
}

// Validate reports, as an ErrInvalid, what no store accepts at the time now: an
// expiry that is zero, past or after the deadline, a creation time of zero, an
// owner or label that is too long. It judges the record as truncated. Stores
// call it first in Create and Replace.
func (r Record) Validate(now time.Time) error {
	r = r.Truncate()
	switch {
	case r.Created.IsZero():
		return fmt.Errorf("%w: no creation time", ErrInvalid)
	case r.Deadline.IsZero():
		return fmt.Errorf("%w: no deadline", ErrInvalid)
	case r.Expires.IsZero():
		return fmt.Errorf("%w: no expiry", ErrInvalid)
	case r.Expires.After(r.Deadline):
		return fmt.Errorf("%w: expiry is after the deadline", ErrInvalid)
	case !r.Live(now):
		return fmt.Errorf("%w: expiry is not in the future", ErrInvalid)
	case len(r.Owner) > MaxOwner:
		return fmt.Errorf("%w: owner is longer than %d bytes", ErrInvalid, MaxOwner)
	case len(r.Label) > MaxLabel:
		return fmt.Errorf("%w: label is longer than %d bytes", ErrInvalid, MaxLabel)
	}
	return nil
}
