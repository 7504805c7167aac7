package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// defect is one way to break the contract.
type defect struct {
	name   string
	rules  []string // those that must catch it
	wide   bool     // it breaks what most rules begin with, so that many catch it
	breaks func(*broken)
}

func one(rule string) []string { return []string{rule} }

// defects break every rule at least once.
var defects = []defect{
	// create
	{
		name: "Create loses the label", rules: one("create/stored-as-given"), wide: true,
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				r.Label = nil
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "Create is an upsert", rules: one("create/live-record-is-a-conflict"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				if err := b.naive.Create(ctx, k, r); !errors.Is(err, store.ErrConflict) {
					return err
				}
				b.put(k, r.Truncate())
				return nil
			}
		},
	},
	{
		name: "Delete leaves a tombstone that blocks Create", rules: one("create/again-after-delete"),
		breaks: func(b *broken) {
			tombs := make(map[store.Key]bool)
			b.delete = func(ctx context.Context, k store.Key) (bool, error) {
				existed, err := b.naive.Delete(ctx, k)
				b.extra.Lock()
				defer b.extra.Unlock()
				tombs[k] = tombs[k] || existed
				return existed, err
			}
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				b.extra.Lock()
				defer b.extra.Unlock()
				if tombs[k] {
					return store.ErrConflict
				}
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "Create does not validate", rules: one("create/invalid-is-refused"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				err := b.naive.Create(ctx, k, r)
				if errors.Is(err, store.ErrInvalid) {
					b.put(k, r)
					return nil
				}
				return err
			}
		},
	},
	{
		name: "versions are signed", rules: one("create/versions-are-kept"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				r.Version = min(r.Version, math.MaxInt64)
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "keys lose a trailing space", rules: one("create/keys-are-bytes"),
		breaks: func(b *broken) {
			trim := func(k store.Key) store.Key {
				if k[31] == ' ' {
					k[31] = 0
				}
				return k
			}
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) { return b.naive.Get(ctx, trim(k)) }
			b.create = func(ctx context.Context, k store.Key, r store.Record) error { return b.naive.Create(ctx, trim(k), r) }
		},
	},

	// read
	{
		name: "Get of nothing is an error of the driver", rules: one("read/absent-is-not-found"), wide: true,
		breaks: func(b *broken) {
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				r, err := b.naive.Get(ctx, k)
				if errors.Is(err, store.ErrNotFound) {
					err = errors.New("no rows in result set")
				}
				return r, err
			}
		},
	},
	{
		name: "reads come from a cache that writes do not invalidate", rules: one("read/sees-finished-writes"), wide: true,
		breaks: staleReads,
	},

	// replace
	{
		name: "Replace keeps the old label", rules: one("replace/stores-what-may-change"), wide: true,
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				if stored, ok := b.stored(k); ok {
					r.Label = stored.Label
				}
				return b.naive.Replace(ctx, k, old, r)
			}
		},
	},
	{
		name: "Replace only extends", rules: one("replace/may-shorten-expiry"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				if stored, ok := b.stored(k); ok && stored.Expires.After(r.Expires) && !stored.Expires.After(r.Deadline) {
					r.Expires = stored.Expires
				}
				return b.naive.Replace(ctx, k, old, r)
			}
		},
	},
	{
		name: "Replace is an upsert", rules: []string{"replace/absent-is-not-found", "replace/deleted-stays-deleted"},
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				err := b.naive.Replace(ctx, k, old, r)
				if errors.Is(err, store.ErrNotFound) {
					return b.naive.Create(ctx, k, r)
				}
				return err
			}
		},
	},
	{
		name: "Replace revives what Get has seen", rules: one("replace/deleted-stays-deleted"),
		breaks: func(b *broken) {
			seen := remember(b)
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				err := b.naive.Replace(ctx, k, old, r)
				if errors.Is(err, store.ErrNotFound) && seen(k) {
					return b.naive.Create(ctx, k, r)
				}
				return err
			}
		},
	},
	{
		name: "Replace ignores the version", rules: one("replace/other-version-is-a-conflict"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				if stored, ok := b.stored(k); ok {
					old = stored.Version
				}
				return b.naive.Replace(ctx, k, old, r)
			}
		},
	},
	{
		name: "versions are compared as float64", rules: one("replace/versions-are-compared-in-full"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				if stored, ok := b.stored(k); ok && float64(stored.Version) == float64(old) {
					old = stored.Version
				}
				return b.naive.Replace(ctx, k, old, r)
			}
		},
	},
	{
		name: "Replace counts changed rows", rules: one("replace/identical-record-succeeds"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				if stored, ok := b.stored(k); ok && len(diff(stored, r)) == 0 {
					return store.ErrConflict
				}
				return b.naive.Replace(ctx, k, old, r)
			}
		},
	},
	{
		name: "Replace changes the owner", rules: one("replace/handle-owner-created-are-fixed"),
		breaks: replaceThen(func(stored *store.Record, r store.Record) { stored.Owner = r.Owner }),
	},
	{
		name: "Replace changes the handle", rules: one("replace/handle-owner-created-are-fixed"),
		breaks: replaceThen(func(stored *store.Record, r store.Record) { stored.Handle = r.Handle }),
	},
	{
		name: "Replace raises the deadline", rules: one("replace/deadline-is-never-raised"),
		breaks: replaceThen(func(stored *store.Record, r store.Record) { stored.Deadline = r.Truncate().Deadline }),
	},
	{
		name: "Replace does not clamp the expiry", rules: one("replace/expiry-is-clamped-to-the-stored-deadline"),
		breaks: replaceThen(func(stored *store.Record, r store.Record) { stored.Expires = r.Truncate().Expires }),
	},
	{
		name: "Replace does not validate", rules: one("replace/invalid-is-refused"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				err := b.naive.Replace(ctx, k, old, r)
				if stored, ok := b.stored(k); ok && stored.Version == old && errors.Is(err, store.ErrInvalid) {
					b.put(k, r)
					return nil
				}
				return err
			}
		},
	},

	// delete
	{
		name: "Delete never reports", rules: one("delete/removes-and-reports"),
		breaks: func(b *broken) {
			b.delete = func(ctx context.Context, k store.Key) (bool, error) {
				_, err := b.naive.Delete(ctx, k)
				return false, err
			}
		},
	},
	{
		name: "Delete of nothing is an error", rules: one("delete/absent-is-no-error"),
		breaks: func(b *broken) {
			b.delete = func(ctx context.Context, k store.Key) (bool, error) {
				existed, err := b.naive.Delete(ctx, k)
				if err == nil && !existed {
					err = store.ErrNotFound
				}
				return existed, err
			}
		},
	},

	// touch
	{
		name: "Touch takes a version", rules: one("touch/extends-and-changes-nothing-else"), wide: true,
		breaks: touchThen(func(stored *store.Record, _ time.Time) { stored.Version++ }),
	},
	{
		name: "Touch shortens", rules: one("touch/never-shortens"),
		breaks: touchThen(func(stored *store.Record, expires time.Time) {
			if expires.Before(stored.Expires) {
				stored.Expires = expires.Truncate(time.Millisecond)
			}
		}),
	},
	{
		name: "Touch that has nothing to extend says absent", rules: one("touch/nothing-to-extend-is-no-error"),
		breaks: func(b *broken) {
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				if stored, ok := b.stored(k); ok && !expires.IsZero() && ctx.Err() == nil && !expires.After(stored.Expires) {
					return store.ErrNotFound
				}
				return b.naive.Touch(ctx, k, expires)
			}
		},
	},
	{
		name: "Touch ignores the deadline", rules: []string{"touch/clamped-to-the-deadline", "expiry/no-life-past-the-deadline"},
		breaks: touchThen(func(stored *store.Record, expires time.Time) {
			if expires.After(stored.Deadline) {
				stored.Expires = expires.Truncate(time.Millisecond)
			}
		}),
	},
	{
		name: "Touch creates", rules: []string{"touch/absent-is-not-found", "touch/deleted-stays-deleted"},
		breaks: func(b *broken) {
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				err := b.naive.Touch(ctx, k, expires)
				if _, ok := b.stored(k); !ok && errors.Is(err, store.ErrNotFound) {
					b.put(k, store.Record{Expires: expires, Deadline: expires})
					return nil
				}
				return err
			}
		},
	},
	{
		name: "Touch revives what Get has seen", rules: one("touch/deleted-stays-deleted"),
		breaks: func(b *broken) {
			seen := remember(b)
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				err := b.naive.Touch(ctx, k, expires)
				if _, ok := b.stored(k); !ok && seen(k) && errors.Is(err, store.ErrNotFound) {
					b.put(k, store.Record{Expires: expires, Deadline: expires})
					return nil
				}
				return err
			}
		},
	},
	{
		name: "Touch takes zero for \"leave it\"", rules: one("touch/zero-is-invalid"),
		breaks: func(b *broken) {
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				if expires.IsZero() {
					return ctx.Err()
				}
				return b.naive.Touch(ctx, k, expires)
			}
		},
	},

	// expiry
	{
		name: "Get ignores the expiry", rules: one("expiry/expired-is-not-found"),
		breaks: func(b *broken) {
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				if r, ok := b.stored(k); ok && ctx.Err() == nil {
					return cloned(r), nil
				}
				return b.naive.Get(ctx, k)
			}
		},
	},
	{
		name: "a record lives at the instant of its expiry", rules: one("expiry/expired-is-not-found"),
		breaks: func(b *broken) {
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				if r, ok := b.stored(k); ok && ctx.Err() == nil && !time.Now().After(r.Expires) {
					return cloned(r), nil
				}
				return b.naive.Get(ctx, k)
			}
		},
	},
	{
		name: "expiry is kept in whole seconds", rules: one("expiry/live-until-it-expires"),
		breaks: func(b *broken) {
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				r, err := b.naive.Get(ctx, k)
				if err == nil && !time.Now().Before(r.Expires.Truncate(time.Second)) {
					return store.Record{}, store.ErrNotFound
				}
				return r, err
			}
		},
	},
	{
		name: "Replace ignores the expiry", rules: one("expiry/replace-after-expiry-is-not-found"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				err := b.naive.Replace(ctx, k, old, r)
				if stored, ok := b.stored(k); ok && stored.Version == old && errors.Is(err, store.ErrNotFound) {
					b.put(k, r)
					return nil
				}
				return err
			}
		},
	},
	{
		name: "Touch revives what has expired", rules: one("expiry/touch-after-expiry-is-not-found"),
		breaks: func(b *broken) {
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				err := b.naive.Touch(ctx, k, expires)
				if stored, ok := b.stored(k); ok && !stored.IsMarker() && errors.Is(err, store.ErrNotFound) {
					b.alter(k, func(stored *store.Record) { stored.Expires = expires })
					return nil
				}
				return err
			}
		},
	},
	{
		name: "Delete reports what had expired", rules: one("expiry/delete-after-expiry-reports-none"),
		breaks: func(b *broken) {
			b.delete = func(ctx context.Context, k store.Key) (bool, error) {
				r, ok := b.stored(k)
				existed, err := b.naive.Delete(ctx, k)
				return existed || ok && !r.Live(time.Now()) && err == nil, err
			}
		},
	},
	{
		name: "Create is blocked by an expired record", rules: one("expiry/create-over-expired-succeeds"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				if _, ok := b.stored(k); ok && ctx.Err() == nil && r.Validate(time.Now()) == nil {
					return store.ErrConflict
				}
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "Create over an expired record leaves its index entry", rules: one("expiry/create-over-expired-is-of-its-new-owner"),
		breaks: func(b *broken) { staleIndex(b, true) },
	},
	{
		name: "the first expiry is the last", rules: one("expiry/touch-and-replace-move-it"),
		breaks: func(b *broken) {
			ttl := firstExpiries(b)
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				if t := ttl(k); !t.IsZero() && !time.Now().Before(t) && ctx.Err() == nil {
					return store.Record{}, store.ErrNotFound
				}
				return b.naive.Get(ctx, k)
			}
		},
	},
	{
		name: "ListOwner lists what has expired", rules: one("expiry/expired-is-in-no-list"),
		breaks: listOwnerOf(func(kr store.Keyed, owner string) bool { return kr.Owner == owner && !kr.IsMarker() }),
	},
	{
		name: "DeleteOwner counts what has expired", rules: one("expiry/expired-is-in-no-list"),
		breaks: func(b *broken) {
			b.deleteOwner = func(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
				dead := 0
				for _, kr := range b.all() {
					if kr.Owner == owner && !kr.Live(time.Now()) {
						dead++
					}
				}
				n, err := b.naive.DeleteOwner(ctx, owner, keep...)
				return n + dead, err
			}
		},
	},

	// times
	{
		name: "times are rounded", rules: one("times/cut-to-the-millisecond"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				if r.Expires.Nanosecond()%1e6 != 0 {
					r.Created, r.Deadline, r.Expires = r.Created.Round(time.Millisecond), r.Deadline.Round(time.Millisecond), r.Expires.Round(time.Millisecond)
				}
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "times are not truncated", rules: one("times/cut-to-the-millisecond"),
		breaks: replaceThen(func(stored *store.Record, r store.Record) { stored.Expires = earliest(r.Expires, stored.Deadline) }),
	},
	{
		name: "times are returned in the caller's zone", rules: one("times/returned-in-utc"),
		breaks: replaceThen(func(stored *store.Record, r store.Record) { stored.Expires = stored.Expires.In(r.Expires.Location()) }),
	},
	{
		name: "times end in 2038", rules: one("times/far-apart"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				r.Deadline = earliest(r.Deadline, time.Unix(math.MaxInt32, 0))
				return b.naive.Create(ctx, k, r)
			}
		},
	},

	// markers
	{
		name: "Replace loses Next", rules: one("markers/kept-and-returned"),
		breaks: replaceThen(func(stored *store.Record, _ store.Record) { stored.Next = store.Key{} }),
	},
	{
		name: "Touch extends markers", rules: one("markers/cannot-be-touched"),
		breaks: func(b *broken) {
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				err := b.naive.Touch(ctx, k, expires)
				if stored, ok := b.stored(k); ok && stored.IsMarker() && errors.Is(err, store.ErrNotFound) {
					b.alter(k, func(stored *store.Record) { stored.Expires = earliest(expires, stored.Deadline) })
					return nil
				}
				return err
			}
		},
	},
	{
		name: "ListOwner lists markers", rules: one("markers/in-no-owners-list"),
		breaks: listOwnerOf(func(kr store.Keyed, owner string) bool { return kr.Owner == owner && kr.Live(time.Now()) }),
	},
	{
		name: "DeleteOwner leaves markers", rules: one("markers/deleted-with-their-owner"),
		breaks: func(b *broken) {
			b.deleteOwner = func(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
				for _, kr := range b.all() {
					if kr.IsMarker() {
						keep = append(keep, kr.Handle)
					}
				}
				return b.naive.DeleteOwner(ctx, owner, keep...)
			}
		},
	},
	{
		name: "List leaves out markers", rules: one("markers/listed-for-migration"),
		breaks: listOnly(func(_ int, kr store.Keyed) bool { return !kr.IsMarker() }),
	},

	// isolation
	{
		name: "Create keeps the caller's bytes", rules: one("isolation/given-bytes-are-not-kept"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				err := b.naive.Create(ctx, k, r)
				if err == nil {
					b.alter(k, func(stored *store.Record) { stored.Data = r.Data })
				}
				return err
			}
		},
	},
	{
		name: "Replace keeps the caller's bytes", rules: one("isolation/given-bytes-are-not-kept"),
		breaks: replaceThen(func(stored *store.Record, r store.Record) { stored.Label = r.Label }),
	},
	{
		name: "Get returns the store's own bytes", rules: one("isolation/returned-bytes-are-the-callers"),
		breaks: func(b *broken) {
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				r, err := b.naive.Get(ctx, k)
				if err == nil {
					stored, _ := b.stored(k)
					r.Data = stored.Data
				}
				return r, err
			}
		},
	},
	{
		name: "appending to Label reaches Data", rules: one("isolation/returned-bytes-are-the-callers"),
		breaks: func(b *broken) {
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				r, err := b.naive.Get(ctx, k)
				both := append(bytes.Clone(r.Label), r.Data...)
				r.Label, r.Data = both[:len(r.Label)], both[len(r.Label):]
				return r, err
			}
		},
	},
	{
		name: "Data is NOT NULL", rules: one("isolation/empty-is-nil"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				if r.Data == nil {
					return errors.New("null value in column \"data\"")
				}
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "Label is text", rules: one("isolation/any-bytes"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				if len(r.Label) < store.MaxLabel {
					r.Label = []byte(strings.ToValidUTF8(string(r.Label), "\ufffd"))
				}
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "the owner's set is never removed", rules: one("isolation/nothing-is-left-behind"),
		breaks: func(b *broken) {
			owners := make(map[string]bool)
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				b.extra.Lock()
				owners[r.Owner] = true
				b.extra.Unlock()
				return b.naive.Create(ctx, k, r)
			}
			b.count = func() int { return b.naive.entries() + len(owners) }
		},
	},

	// sizes
	{
		name: "Data is a BLOB of 64 KiB", rules: one("sizes/the-largest-everyone-takes"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				if len(r.Data) >= 1<<16 {
					return store.ErrTooLarge
				}
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "what is too large is truncated", rules: one("sizes/over-its-limit-is-too-large"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				r.Data = r.Data[:min(len(r.Data), brokenLimit)]
				return b.naive.Replace(ctx, k, old, r)
			}
			b.unlimited = true
		},
	},

	// owner index
	{
		name: "every third Create loses its index entry", rules: one("owner-index/lists-live-sessions"),
		breaks: func(b *broken) {
			lost := make(map[store.Key]bool)
			created := 0
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				b.extra.Lock()
				created++
				lost[k] = created%3 == 0
				b.extra.Unlock()
				return b.naive.Create(ctx, k, r)
			}
			hide(b, lost)
		},
	},
	{
		name: "Replace loses the index entry", rules: one("owner-index/follows-changes"),
		breaks: func(b *broken) {
			lost := make(map[store.Key]bool)
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				b.extra.Lock()
				lost[k] = true
				b.extra.Unlock()
				return b.naive.Replace(ctx, k, old, r)
			}
			hide(b, lost)
		},
	},
	{
		name: "index entries outlive their records", rules: one("owner-index/key-reused-by-another-owner"),
		breaks: func(b *broken) { staleIndex(b, false) },
	},
	{
		name: "owners are compared without case", rules: one("owner-index/owners-are-bytes"),
		breaks: listOwnerOf(func(kr store.Keyed, owner string) bool {
			return strings.EqualFold(kr.Owner, owner) && !kr.IsMarker() && kr.Live(time.Now())
		}),
	},
	{
		name: "ListOwner of nobody lists all the anonymous", rules: one("owner-index/empty-owner-lists-nothing"),
		breaks: func(b *broken) {
			b.listOwner = func(ctx context.Context, owner string) ([]store.Keyed, error) {
				if owner != "" || ctx.Err() != nil {
					return b.naive.ListOwner(ctx, owner)
				}
				return b.all(), nil
			}
		},
	},
	{
		name: "DeleteOwner of nobody deletes all the anonymous", rules: one("owner-index/empty-owner-deletes-nothing"),
		breaks: func(b *broken) {
			b.deleteOwner = func(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
				if owner == "" && ctx.Err() == nil {
					b.mu.Lock()
					b.drop(func(kr store.Keyed) bool { return kr.Owner == "" })
					b.mu.Unlock()
				}
				return b.naive.DeleteOwner(ctx, owner, keep...)
			}
		},
	},
	{
		name: "DeleteOwner leaves one", rules: one("owner-index/delete-owner-ends-all"),
		breaks: func(b *broken) {
			b.deleteOwner = func(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
				if list, _ := b.naive.ListOwner(ctx, owner); len(list) > 2 {
					keep = append(keep, list[0].Handle)
				}
				return b.naive.DeleteOwner(ctx, owner, keep...)
			}
		},
	},
	{
		name: "DeleteOwner ignores keep", rules: one("owner-index/delete-owner-keeps"),
		breaks: func(b *broken) {
			b.deleteOwner = func(ctx context.Context, owner string, _ ...store.Handle) (int, error) {
				return b.naive.DeleteOwner(ctx, owner)
			}
		},
	},
	{
		name: "ListOwner ends after a page", rules: one("owner-index/many-sessions"),
		breaks: func(b *broken) {
			b.listOwner = func(ctx context.Context, owner string) ([]store.Keyed, error) {
				list, err := b.naive.ListOwner(ctx, owner)
				return list[:min(len(list), 100)], err
			}
		},
	},

	// list
	{
		name: "List leaves out the anonymous", rules: one("list/yields-every-live-record"),
		breaks: listOnly(func(_ int, kr store.Keyed) bool { return kr.Owner != "" }),
	},
	{
		name: "List ends after a page", rules: one("list/many-records"),
		breaks: listOnly(func(i int, _ store.Keyed) bool { return i < 500 }),
	},
	{
		name: "List keeps a connection when the loop ends early", rules: one("list/stops-when-told"),
		breaks: func(b *broken) {
			var taken atomic.Int64
			b.list = func(ctx context.Context) iter.Seq2[store.Keyed, error] {
				return func(yield func(store.Keyed, error) bool) {
					if taken.Add(1) > 10 {
						yield(store.Keyed{}, errors.New("no connection left"))
						return
					}
					for kr, err := range b.naive.List(ctx) {
						if !yield(kr, err) {
							return
						}
					}
					taken.Add(-1)
				}
			}
		},
	},
	{
		name: "List pages by offset", rules: one("list/may-be-written-to-meanwhile"),
		breaks: func(b *broken) {
			b.list = func(ctx context.Context) iter.Seq2[store.Keyed, error] {
				return func(yield func(store.Keyed, error) bool) {
					for offset := 0; ; offset += 10 {
						i := 0
						for kr, err := range b.naive.List(ctx) {
							if i++; err == nil && (i <= offset || i > offset+10) {
								continue
							}
							if !yield(kr, err) || err != nil {
								return
							}
						}
						if i <= offset+10 {
							return
						}
					}
				}
			}
		},
	},
	{
		name: "List goes on after an error", rules: one("list/ends-after-an-error"),
		breaks: func(b *broken) {
			b.list = func(ctx context.Context) iter.Seq2[store.Keyed, error] {
				return func(yield func(store.Keyed, error) bool) {
					for range 2 {
						if ctx.Err() != nil && !yield(store.Keyed{}, ctx.Err()) {
							return
						}
					}
					for kr, err := range b.naive.List(ctx) {
						if err != nil || !yield(kr, nil) {
							return
						}
					}
				}
			}
		},
	},

	// sweep
	{
		name: "Sweep goes by the first expiry", rules: one("sweep/spares-the-living"),
		breaks: func(b *broken) {
			ttl := firstExpiries(b)
			b.sweep = func(ctx context.Context, limit int) (int, error) {
				for _, kr := range b.all() {
					if !time.Now().Before(ttl(kr.Key)) && kr.Live(time.Now()) && ctx.Err() == nil {
						_, _ = b.naive.Delete(ctx, kr.Key)
						return 1, nil
					}
				}
				return b.naive.Sweep(ctx, limit)
			}
		},
	},
	{
		name: "Sweep ignores the limit", rules: one("sweep/at-most-limit-and-tells-the-end"),
		breaks: func(b *broken) {
			b.sweep = func(ctx context.Context, limit int) (int, error) {
				if limit > 0 {
					limit = math.MaxInt
				}
				return b.naive.Sweep(ctx, limit)
			}
		},
	},
	{
		name: "Sweep says it is done before it is", rules: one("sweep/at-most-limit-and-tells-the-end"),
		breaks: func(b *broken) {
			b.sweep = func(ctx context.Context, limit int) (int, error) {
				n, err := b.naive.Sweep(ctx, limit)
				return max(n-1, 0), err
			}
		},
	},
	{
		name: "Sweep takes any limit", rules: one("sweep/limit-must-be-positive"),
		breaks: func(b *broken) {
			b.sweep = func(ctx context.Context, limit int) (int, error) {
				if limit <= 0 {
					return 0, ctx.Err()
				}
				return b.naive.Sweep(ctx, limit)
			}
		},
	},

	// get many
	{
		name: "GetMany leaves out markers", rules: one("get-many/returns-the-live-ones"),
		breaks: func(b *broken) {
			b.getMany = func(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
				found, err := b.naive.GetMany(ctx, ks)
				for k, r := range found {
					if r.IsMarker() {
						delete(found, k)
					}
				}
				return found, err
			}
		},
	},
	{
		name: "GetMany of nothing is a syntax error", rules: one("get-many/none-is-no-error"),
		breaks: func(b *broken) {
			b.getMany = func(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
				if len(ks) == 0 {
					return nil, errors.New("syntax error near \")\"")
				}
				return b.naive.GetMany(ctx, ks)
			}
		},
	},
	{
		name: "GetMany takes 999 parameters", rules: one("get-many/many-keys"),
		breaks: func(b *broken) {
			b.getMany = func(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
				return b.naive.GetMany(ctx, ks[:min(len(ks), 999)])
			}
		},
	},

	// ping
	{
		name: "Ping is not permitted", rules: one("ping/answers"),
		breaks: func(b *broken) {
			b.ping = func(ctx context.Context) error {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return errors.New("no permission to run this command")
			}
		},
	},

	// cancellation
	{
		name: "Get swallows the end of its context", rules: one("cancellation/ended-context-fails-the-call"),
		breaks: func(b *broken) {
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				return b.naive.Get(context.WithoutCancel(ctx), k)
			}
		},
	},
	{
		name: "cancellation looks like absence", rules: one("cancellation/ended-context-fails-the-call"),
		breaks: func(b *broken) {
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				if ctx.Err() != nil {
					return store.ErrNotFound
				}
				return b.naive.Touch(ctx, k, expires)
			}
		},
	},
	{
		name: "a context that ends midway looks like absence", rules: one("cancellation/never-absence-or-conflict"),
		breaks: func(b *broken) {
			b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
				if ctx.Err() != nil {
					return store.Record{}, ctx.Err()
				}
				select {
				case <-ctx.Done():
					return store.Record{}, store.ErrNotFound
				case <-time.After(time.Microsecond):
				}
				return b.naive.Get(ctx, k)
			}
		},
	},
	{
		name: "a write whose context ended midway denies itself", rules: one("cancellation/never-absence-or-conflict"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				for i := 0; i < 2000 && ctx.Err() == nil; i++ {
					runtime.Gosched() // and no sleep, for time stands still while others run
				}
				err := b.naive.Replace(context.WithoutCancel(ctx), k, old, r)
				if err == nil && ctx.Err() != nil {
					err = fmt.Errorf("%w: %w", store.ErrUnapplied, ctx.Err())
				}
				return err
			}
		},
	},
	{
		name: "a deletion whose context ended midway denies itself", rules: one("cancellation/never-absence-or-conflict"),
		breaks: func(b *broken) {
			b.delete = func(ctx context.Context, k store.Key) (bool, error) {
				if ctx.Err() != nil {
					return false, ctx.Err()
				}
				for i := 0; i < 2000 && ctx.Err() == nil; i++ {
					runtime.Gosched() // and no sleep, for time stands still while others run
				}
				existed, err := b.naive.Delete(context.WithoutCancel(ctx), k)
				if err == nil && ctx.Err() != nil {
					err = fmt.Errorf("%w: %w", store.ErrUnapplied, ctx.Err())
				}
				return existed, err
			}
		},
	},

	// secrecy
	{
		name: "an error holds the key", rules: one("secrecy/errors-name-no-secret"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				err := b.naive.Create(ctx, k, r)
				if errors.Is(err, store.ErrConflict) {
					err = fmt.Errorf("duplicate entry '%x' for key 'PRIMARY': %w", k[:], err)
				}
				return err
			}
		},
	},
	{
		name: "an error holds the owner", rules: one("secrecy/errors-name-no-secret"),
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				err := b.naive.Replace(ctx, k, old, r)
				if errors.Is(err, store.ErrConflict) {
					err = fmt.Errorf("session of %q has changed: %w", r.Owner, err)
				}
				return err
			}
		},
	},

	// watch
	{
		name: "touches are not told", rules: []string{"watch/tells-of-every-change", "watch/tells-of-other-processes"},
		breaks: func(b *broken) {
			mute := muted(b)
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				mute(k)
				return b.naive.Touch(ctx, k, expires)
			}
		},
	},
	{
		name: "DeleteOwner is not told", rules: one("watch/tells-of-revocation"),
		breaks: func(b *broken) {
			mute := muted(b)
			b.deleteOwner = func(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
				for _, kr := range b.all() {
					if kr.Owner == owner {
						mute(kr.Key)
					}
				}
				return b.naive.DeleteOwner(ctx, owner, keep...)
			}
		},
	},
	{
		name: "Watch is ready before it has subscribed", rules: one("watch/ready-means-watching"),
		breaks: func(b *broken) {
			b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
				ready(time.Now())
				window()
				return b.naive.Watch(ctx, func(time.Time) {}, changed)
			}
		},
	},
	{
		name: "Watch says that it has told what it tells next", rules: one("watch/ready-again-means-told"),
		breaks: func(b *broken) {
			b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
				return b.naive.Watch(ctx, ready, func(ks []store.Key) {
					window()
					ready(time.Now())
					changed(ks)
				})
			}
		},
	},
	{
		name: "Watch is ready as of a time to come", rules: one("watch/ready-again-means-told"),
		breaks: func(b *broken) {
			b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
				return b.naive.Watch(ctx, func(asOf time.Time) { ready(asOf.Add(time.Second)) }, changed)
			}
		},
	},
	{
		name: "Watch is ready as of the same time for ever", rules: one("watch/ready-again-means-told"),
		breaks: func(b *broken) {
			b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
				began := time.Now()
				return b.naive.Watch(ctx, func(time.Time) { ready(began) }, changed)
			}
		},
	},
	{
		name: "Watch drops what its buffer has no room for", rules: one("watch/a-burst-is-told-whole"),
		breaks: func(b *broken) {
			b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
				room := 100
				return b.naive.Watch(ctx, ready, func(ks []store.Key) {
					if room--; room >= 0 {
						changed(ks)
					}
				})
			}
		},
	},
	{
		name: "Watch tells of each change in a goroutine", rules: one("watch/a-burst-is-told-whole"),
		breaks: func(b *broken) {
			b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
				var wg sync.WaitGroup
				defer wg.Wait()
				return b.naive.Watch(ctx, ready, func(ks []store.Key) { wg.Go(func() { changed(ks) }) })
			}
		},
	},
	{
		name: "Watch leaves a callback behind", rules: one("watch/ends-with-its-context"),
		breaks: func(b *broken) {
			var left []func([]store.Key)
			b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
				defer func() {
					b.extra.Lock()
					defer b.extra.Unlock()
					left = append(left, changed)
				}()
				return b.naive.Watch(ctx, ready, changed)
			}
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				b.extra.Lock()
				defer b.extra.Unlock()
				for _, changed := range left {
					changed([]store.Key{k})
				}
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "Watch ends without an error", rules: one("watch/ends-with-its-context"),
		breaks: func(b *broken) {
			b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
				_ = b.naive.Watch(ctx, ready, changed)
				return nil
			}
		},
	},

	// fresh
	{
		name: "GetFresh answers from a copy", rules: []string{"fresh/sees-finished-writes", "fresh/sees-what-others-wrote"},
		breaks: func(b *broken) {
			staleReads(b)
			b.getFresh, b.get = b.get, nil
		},
	},
	{
		name: "GetFresh of nothing is an empty record", rules: one("fresh/absent-is-not-found"),
		breaks: func(b *broken) {
			b.getFresh = func(ctx context.Context, k store.Key) (store.Record, error) {
				r, err := b.naive.Get(ctx, k)
				if errors.Is(err, store.ErrNotFound) {
					err = nil
				}
				return r, err
			}
		},
	},

	// inspect
	{
		name: "a warning has no fix", rules: one("inspect/findings-are-complete"),
		breaks: inspection(func(_ *broken, list []store.Finding) []store.Finding {
			list[0].Fix = ""
			return list
		}),
	},
	{
		name: "two findings have one name", rules: one("inspect/findings-are-complete"),
		breaks: inspection(func(_ *broken, list []store.Finding) []store.Finding { return append(list, list[0]) }),
	},
	{
		name: "a check is a sentence", rules: one("inspect/findings-are-complete"),
		breaks: inspection(func(_ *broken, list []store.Finding) []store.Finding {
			list[0].Check = "Is it durable?"
			return list
		}),
	},
	{
		name: "a finding has no evidence", rules: one("inspect/findings-are-complete"),
		breaks: inspection(func(_ *broken, list []store.Finding) []store.Finding {
			list[1].Evidence = ""
			return list
		}),
	},
	{
		name: "a severity is out of range", rules: one("inspect/findings-are-complete"),
		breaks: inspection(func(_ *broken, list []store.Finding) []store.Finding {
			list[0].Severity = store.SeverityCritical + 1
			return list
		}),
	},
	{
		name: "findings come in any order", rules: one("inspect/order-is-fixed"),
		breaks: func(b *broken) {
			var calls atomic.Int64
			inspection(func(_ *broken, list []store.Finding) []store.Finding {
				if calls.Add(1)%3 == 0 {
					list[0], list[1] = list[1], list[0]
				}
				return list
			})(b)
		},
	},
	{
		name: "a finding shows a sample", rules: one("inspect/shows-no-secret"),
		breaks: inspection(func(b *broken, list []store.Finding) []store.Finding {
			for _, kr := range b.all() {
				list[0].Evidence += fmt.Sprintf(" %x", kr.Key[:])
			}
			return list
		}),
	},
	{
		name: "a finding shows the connection's URL", rules: one("inspect/shows-no-secret"),
		breaks: inspection(func(_ *broken, list []store.Finding) []store.Finding {
			list[1].Evidence = "connected to db://app:hunter2@db.example.com/0"
			return list
		}),
	},
	{
		name: "Inspect tries a write", rules: one("inspect/changes-nothing"),
		breaks: inspection(func(b *broken, list []store.Finding) []store.Finding {
			b.put(store.Key{1, 2, 3}, store.Record{Expires: time.Now().Add(time.Minute)})
			return list
		}),
	},

	// shards
	{
		name: "shards are counted from one", rules: one("shards/in-range"),
		breaks: func(b *broken) {
			b.shard = func(k store.Key) int { return b.naive.Shard(k) + 1 }
		},
	},
	{
		name: "shards take turns", rules: one("shards/stable"),
		breaks: func(b *broken) {
			var turn atomic.Int64
			b.shard = func(store.Key) int { return int(turn.Add(1) % 3) }
		},
	},
	{
		name: "shards are added", rules: one("shards/stable"),
		breaks: func(b *broken) {
			b.shards = func() int { return 3 + len(b.all())/3 }
		},
	},

	// races
	{
		name: "Create checks, then writes", rules: []string{"races/create-has-one-winner", "races/create-over-expired-has-one-winner"},
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				if _, err := b.naive.Get(ctx, k); err == nil || ctx.Err() != nil || r.Validate(time.Now()) != nil {
					return b.naive.Create(ctx, k, r)
				}
				window()
				b.put(k, r.Truncate())
				return nil
			}
		},
	},
	{
		name: "Create deletes what expired, then inserts", rules: one("races/create-over-expired-has-one-winner"),
		breaks: func(b *broken) {
			b.create = func(ctx context.Context, k store.Key, r store.Record) error {
				if old, ok := b.stored(k); ok && !old.Live(time.Now()) && ctx.Err() == nil {
					window()
					b.mu.Lock()
					b.drop(func(kr store.Keyed) bool { return kr.Key == k }) // by now, another's
					b.mu.Unlock()
				}
				return b.naive.Create(ctx, k, r)
			}
		},
	},
	{
		name: "Replace compares, then swaps", rules: []string{"races/replace-has-one-winner", "races/no-update-is-lost"},
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				if stored, ok := b.stored(k); !ok || stored.Version != old {
					return b.naive.Replace(ctx, k, old, r)
				}
				window()
				if stored, ok := b.stored(k); ok { // whatever has come meanwhile
					old = stored.Version
				}
				return b.naive.Replace(ctx, k, old, r)
			}
		},
	},
	{
		name: "a hidden retry reports its own success as a conflict", rules: one("races/a-conflict-changed-nothing"),
		breaks: func(b *broken) {
			var inFlight atomic.Int64
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				busy := inFlight.Add(1) > 8 // answers are lost when it gets busy
				defer inFlight.Add(-1)
				window()
				err := b.naive.Replace(ctx, k, old, r)
				if busy {
					return b.naive.Replace(ctx, k, old, r)
				}
				return err
			}
		},
	},
	{
		name: "Replace writes back what it has read", rules: []string{"races/deleted-stays-deleted", "races/delete-owner-against-replace"},
		breaks: func(b *broken) {
			b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
				stored, err := b.naive.Get(ctx, k)
				if err != nil || stored.Version != old {
					return b.naive.Replace(ctx, k, old, r)
				}
				window()
				err = b.naive.Replace(ctx, k, old, r)
				if errors.Is(err, store.ErrNotFound) {
					b.put(k, r)
					return nil
				}
				return err
			}
		},
	},
	{
		name: "Delete looks, then deletes", rules: one("races/one-delete-reports"),
		breaks: func(b *broken) {
			b.delete = func(ctx context.Context, k store.Key) (bool, error) {
				r, ok := b.stored(k)
				window()
				_, err := b.naive.Delete(ctx, k)
				return ok && r.Live(time.Now()) && err == nil, err
			}
		},
	},
	{
		name: "Touch writes back what it has read", rules: one("races/touch-loses-no-update"),
		breaks: func(b *broken) {
			b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
				read, ok := b.stored(k)
				window()
				err := b.naive.Touch(ctx, k, expires)
				if err == nil && ok {
					b.alter(k, func(stored *store.Record) { stored.Version, stored.Data = read.Version, read.Data })
				}
				return err
			}
		},
	},
	{
		name: "Create writes its entry, then its record, and looks no further", rules: one("races/delete-owner-against-create"),
		breaks: orphans,
	},
	{
		name: "DeleteOwner misses what is written meanwhile", rules: one("races/delete-owner-against-replace"),
		breaks: func(b *broken) {
			b.deleteOwner = func(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
				before := b.all()
				window()
				for _, kr := range before {
					if now, ok := b.stored(kr.Key); ok && now.Version != kr.Version {
						keep = append(keep, kr.Handle)
					}
				}
				return b.naive.DeleteOwner(ctx, owner, keep...)
			}
		},
	},
	{
		name: "Sweep selects, then deletes", rules: one("races/sweep-against-create"),
		breaks: func(b *broken) {
			b.sweep = func(ctx context.Context, limit int) (int, error) {
				before := b.all()
				window()
				for _, kr := range before {
					if now, ok := b.stored(kr.Key); ok && !kr.Live(time.Now()) && now.Live(time.Now()) {
						_, _ = b.naive.Delete(ctx, kr.Key)
					}
				}
				return b.naive.Sweep(ctx, limit)
			}
		},
	},
}

// replaceThen breaks Replace: f gets what it has stored, and what it was given.
func replaceThen(f func(stored *store.Record, given store.Record)) func(*broken) {
	return func(b *broken) {
		b.replace = func(ctx context.Context, k store.Key, old uint64, r store.Record) error {
			err := b.naive.Replace(ctx, k, old, r)
			if err == nil {
				b.alter(k, func(stored *store.Record) { f(stored, r) })
			}
			return err
		}
	}
}

// touchThen breaks Touch: f gets what it has stored, and what it was given.
func touchThen(f func(stored *store.Record, expires time.Time)) func(*broken) {
	return func(b *broken) {
		b.touch = func(ctx context.Context, k store.Key, expires time.Time) error {
			err := b.naive.Touch(ctx, k, expires)
			if err == nil {
				b.alter(k, func(stored *store.Record) { f(stored, expires) })
			}
			return err
		}
	}
}

// listOwnerOf breaks ListOwner: it lists what which says, expired or not.
func listOwnerOf(which func(kr store.Keyed, owner string) bool) func(*broken) {
	return func(b *broken) {
		b.listOwner = func(ctx context.Context, owner string) ([]store.Keyed, error) {
			if _, err := b.naive.ListOwner(ctx, owner); err != nil {
				return nil, err
			}
			var list []store.Keyed
			for _, kr := range b.all() {
				if which(kr, owner) {
					list = append(list, store.Keyed{Key: kr.Key, Record: cloned(kr.Record)})
				}
			}
			return list, nil
		}
	}
}

// listOnly breaks List: it yields what which says of the live records.
func listOnly(which func(i int, kr store.Keyed) bool) func(*broken) {
	return func(b *broken) {
		b.list = func(ctx context.Context) iter.Seq2[store.Keyed, error] {
			return func(yield func(store.Keyed, error) bool) {
				i := 0
				for kr, err := range b.naive.List(ctx) {
					if i++; err == nil && !which(i-1, kr) {
						continue
					}
					if !yield(kr, err) {
						return
					}
				}
			}
		}
	}
}

// muted makes Watch leave out the keys that the function it returns was given.
func muted(b *broken) (mute func(store.Key)) {
	silent := make(map[store.Key]bool)
	b.watch = func(ctx context.Context, ready func(asOf time.Time), changed func([]store.Key)) error {
		return b.naive.Watch(ctx, ready, func(ks []store.Key) {
			b.extra.Lock()
			muted := silent[ks[0]] // naive tells of one at a time
			b.extra.Unlock()
			if !muted {
				changed(ks)
			}
		})
	}
	return func(k store.Key) {
		b.extra.Lock()
		defer b.extra.Unlock()
		silent[k] = true
	}
}

// inspection breaks Inspect: f alters what it has found.
func inspection(f func(*broken, []store.Finding) []store.Finding) func(*broken) {
	return func(b *broken) {
		b.inspect = func(ctx context.Context) ([]store.Finding, error) {
			list, err := b.naive.Inspect(ctx)
			return f(b, list), err
		}
	}
}

// hide keeps lost keys out of ListOwner.
func hide(b *broken, lost map[store.Key]bool) {
	b.listOwner = func(ctx context.Context, owner string) ([]store.Keyed, error) {
		list, err := b.naive.ListOwner(ctx, owner)
		b.extra.Lock()
		defer b.extra.Unlock()
		var shown []store.Keyed
		for _, kr := range list {
			if !lost[kr.Key] {
				shown = append(shown, kr)
			}
		}
		return shown, err
	}
}

// remember makes Get note the keys that it has found.
func remember(b *broken) func(store.Key) bool {
	seen := make(map[store.Key]bool)
	b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
		r, err := b.naive.Get(ctx, k)
		if err == nil {
			b.extra.Lock()
			seen[k] = true
			b.extra.Unlock()
		}
		return r, err
	}
	return func(k store.Key) bool {
		b.extra.Lock()
		defer b.extra.Unlock()
		return seen[k]
	}
}

// firstExpiries makes Create note the expiry that it is given.
func firstExpiries(b *broken) func(store.Key) time.Time {
	first := make(map[store.Key]time.Time)
	b.create = func(ctx context.Context, k store.Key, r store.Record) error {
		err := b.naive.Create(ctx, k, r)
		if err == nil {
			b.extra.Lock()
			first[k] = r.Truncate().Expires
			b.extra.Unlock()
		}
		return err
	}
	return func(k store.Key) time.Time {
		b.extra.Lock()
		defer b.extra.Unlock()
		return first[k]
	}
}

// staleReads makes Get remember for ever what it has found once.
func staleReads(b *broken) {
	cache := make(map[store.Key]store.Record)
	b.get = func(ctx context.Context, k store.Key) (store.Record, error) {
		b.extra.Lock()
		defer b.extra.Unlock()
		if r, ok := cache[k]; ok && ctx.Err() == nil && r.Live(time.Now()) {
			return cloned(r), nil
		}
		r, err := b.naive.Get(ctx, k)
		if err == nil {
			cache[k] = cloned(r)
		}
		return r, err
	}
}

// staleIndex gives b an index of its own, whose entries only Delete removes, if
// it does.
func staleIndex(b *broken, deleteRemoves bool) {
	index := make(map[string]map[store.Key]bool)
	b.create = func(ctx context.Context, k store.Key, r store.Record) error {
		err := b.naive.Create(ctx, k, r)
		if err == nil && r.Owner != "" {
			b.extra.Lock()
			defer b.extra.Unlock()
			if index[r.Owner] == nil {
				index[r.Owner] = make(map[store.Key]bool)
			}
			index[r.Owner][k] = true
		}
		return err
	}
	b.delete = func(ctx context.Context, k store.Key) (bool, error) {
		existed, err := b.naive.Delete(ctx, k)
		b.extra.Lock()
		defer b.extra.Unlock()
		for _, keys := range index {
			if deleteRemoves && existed {
				delete(keys, k)
			}
		}
		return existed, err
	}
	b.listOwner = func(ctx context.Context, owner string) ([]store.Keyed, error) {
		if _, err := b.naive.ListOwner(ctx, owner); err != nil {
			return nil, err
		}
		b.extra.Lock()
		defer b.extra.Unlock()
		var list []store.Keyed
		for k := range index[owner] { // and the record may be another's by now
			if r, err := b.naive.Get(ctx, k); err == nil && !r.IsMarker() {
				list = append(list, store.Keyed{Key: k, Record: r})
			}
		}
		return list, nil
	}
}

// orphans gives b an index whose entry comes before the record, and lets
// DeleteOwner prune it in between.
func orphans(b *broken) {
	index := make(map[string]map[store.Key]bool)
	b.create = func(ctx context.Context, k store.Key, r store.Record) error {
		if r.Owner == "" || r.Validate(time.Now()) != nil {
			return b.naive.Create(ctx, k, r)
		}
		b.extra.Lock()
		if index[r.Owner] == nil {
			index[r.Owner] = make(map[store.Key]bool)
		}
		index[r.Owner][k] = true
		b.extra.Unlock()
		window()
		return b.naive.Create(ctx, k, r)
	}
	b.listOwner = func(ctx context.Context, owner string) ([]store.Keyed, error) {
		list, err := b.naive.ListOwner(ctx, owner)
		b.extra.Lock()
		defer b.extra.Unlock()
		var indexed []store.Keyed
		for _, kr := range list {
			if index[owner][kr.Key] {
				indexed = append(indexed, kr)
			}
		}
		return indexed, err
	}
	b.deleteOwner = func(ctx context.Context, owner string, keep ...store.Handle) (int, error) {
		n, err := b.naive.DeleteOwner(ctx, owner, keep...)
		if err == nil && len(keep) == 0 {
			b.extra.Lock()
			delete(index, owner)
			b.extra.Unlock()
		}
		return n, err
	}
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
