package storetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// racers is how many goroutines meet on one record: as many as a browser's tabs
// and a few scripts can have in flight.
const racers = 64

var raceRules = []rule{
	{
		name: "create-has-one-winner",
		says: "Of several Creates of one key at once exactly one succeeds; the others get ErrConflict.",
		why:  "Two winners are two sessions under one ID, of which one is lost.",
		look: "a check and an insert in two steps.",
		run: func(x *script) {
			hs := x.handles()
			for range 5 {
				k, records := x.key(), x.rivals(x.session("alice"))
				x.oneWinner("Create", k, records, func(i int) error { return hs[i%len(hs)].Create(x.ctx, k, records[i]) })
			}
		},
	},
	{
		name: "create-over-expired-has-one-winner",
		says: "Of several Creates over one expired record exactly one succeeds; the others get ErrConflict.",
		why:  "Two winners are two sessions under one ID, of which one is lost.",
		look: "a delete of what expired and an insert in two steps: the second deletes the first's.",
		run: func(x *script) {
			hs := x.handles()
			k := x.expired(x.session("alice"))
			records := x.rivals(x.session("alice"))
			x.oneWinner("Create over an expired record", k, records, func(i int) error { return hs[i%len(hs)].Create(x.ctx, k, records[i]) })
		},
	},
	{
		name: "replace-has-one-winner",
		says: "Of several Replaces of one version at once exactly one succeeds; the others get ErrConflict.",
		why:  "With two winners one request's update is lost, and its user was told that it is saved.",
		look: "a read, a comparison and a write in several steps: it takes one atomic statement, command or script.",
		run: func(x *script) {
			hs := x.handles()
			r := x.session("alice")
			k := x.created(r)
			for range 5 {
				records := x.rivals(r)
				r = x.oneWinner("Replace", k, records, func(i int) error {
					return hs[i%len(hs)].Replace(x.ctx, k, r.Version, records[i])
				})
				if x.Failed() {
					return
				}
			}
		},
	},
	{
		name: "no-update-is-lost",
		says: "Increments by read and Replace, tried again on ErrConflict, all count.",
		why:  "Two tabs add to one cart: both must be in it.",
		look: "the atomicity of Replace; stale reads.",
		run: func(x *script) {
			hs := x.handles()
			r := x.session("alice")
			r.Data = make([]byte, 8)
			k := x.created(r)
			var version atomic.Uint64
			version.Store(1)
			together(racers, func(i int) {
				st := hs[i%len(hs)]
				// Each conflict is another's success, of which there are few.
				for range 10 * racers {
					r, err := st.Get(x.ctx, k)
					if err != nil {
						x.Errorf("Get: %v; want a record", err)
						return
					}
					old := r.Version
					r.Version = version.Add(1)
					r.Data = binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(r.Data)+1)
					err = st.Replace(x.ctx, k, old, r)
					if err == nil {
						return
					}
					if !errors.Is(err, store.ErrConflict) {
						x.Errorf("Replace: %v; want success or ErrConflict", err)
						return
					}
				}
				x.Errorf("Replace of the version that Get had returned said ErrConflict %d times; %d others wrote at most once each", 10*racers, racers-1)
			})
			if n := binary.BigEndian.Uint64(x.get(k).Data); n != racers {
				x.Errorf("%d increments made %d", racers, n)
			}
		},
	},
	{
		name: "a-conflict-changed-nothing",
		says: "A Replace that says ErrConflict stored nothing, not even by an earlier attempt hidden inside it.",
		why:  "The caller applies its change again: the item is in the cart twice, the payment is made twice.",
		look: "retries inside the driver or the store: the second attempt finds the first one's version. Switch them off, or recognise one's own write.",
		run:  conflictsAreTruthful,
	},
	{
		name: "deleted-stays-deleted",
		says: "When Delete has returned, no Replace or Touch that overlapped it brings the record back.",
		why:  "This is the revived session: a logout meets a slow request.",
		look: "read-modify-write in Replace and Touch; a DELETE that waits for a lock and then misses the new row.",
		run: func(x *script) {
			hs := x.handles()
			for range 10 {
				r := x.session("alice")
				k := x.created(r)
				var version atomic.Uint64
				version.Store(r.Version)
				var deleted atomic.Bool
				together(16, func(i int) {
					st := hs[i%len(hs)]
					switch {
					case i == 0:
						_, err := st.Delete(x.ctx, k)
						deleted.Store(true)
						x.want("Delete", err, nil)
						x.gone("after Delete", k)
					case i%3 == 0:
						x.untilGone(&deleted, func(n int) error { return st.Touch(x.ctx, k, r.Expires.Add(time.Duration(n)*time.Second)) })
					default:
						x.untilGone(&deleted, func(int) error { return replaceOnce(x, st, k, &version) })
					}
				})
				x.gone("after Delete and all that overlapped it", k)
				if x.Failed() {
					return
				}
			}
		},
	},
	{
		name: "one-delete-reports",
		says: "Of several Deletes of one record exactly one reports that it was there.",
		why:  "A count of ended sessions would be too high, or zero for a session that was ended.",
		look: "a read before the delete.",
		run: func(x *script) {
			hs := x.handles()
			for range 5 {
				k := x.created(x.session("alice"))
				var reports atomic.Int64
				together(16, func(i int) {
					existed, err := hs[i%len(hs)].Delete(x.ctx, k)
					x.want("Delete", err, nil)
					if existed {
						reports.Add(1)
					}
				})
				if n := reports.Load(); n != 1 {
					x.Errorf("%d of 16 Deletes of one record reported it; want 1", n)
				}
			}
		},
	},
	{
		name: "touch-loses-no-update",
		says: "A Touch that overlaps a Replace neither undoes it nor makes it conflict.",
		why:  "The write of the idle timeout would roll back what the user just saved.",
		look: "read-modify-write in Touch: it sets one field, in one statement.",
		run: func(x *script) {
			hs := x.handles()
			for range 5 {
				r := x.session("alice")
				k := x.created(r)
				last := r
				const touchers = 7
				var done atomic.Int64
				together(1+touchers, func(i int) {
					st := hs[i%len(hs)]
					if i > 0 {
						defer done.Add(1)
						for n := range 20 {
							x.want("Touch", st.Touch(x.ctx, k, r.Expires.Add(time.Duration(i*20+n)*time.Second)), nil)
						}
						return
					}
					for n := 0; done.Load() < touchers; n++ {
						next := last
						next.Version++
						next.Data = fmt.Appendf(nil, "update %d", n)
						if err := st.Replace(x.ctx, k, last.Version, next); err != nil {
							x.Errorf("Replace that overlaps Touches: %v; want success", err)
							return
						}
						last = next
					}
				})
				got := x.get(k)
				last.Expires = got.Expires
				x.same("after Replaces and Touches at once", got, last)
			}
		},
	},
	{
		name: "delete-owner-against-create",
		says: "A Create that races a DeleteOwner is removed by it, or listed after it, or fails with ErrNotFound: a record is never alive without being in the index.",
		why:  "The orphan is a session that no \"sign out everywhere\" reaches any more: the attacker's, who signed in at the right moment.",
		look: "the order: entry first, then record, then read the entry again and give up the record if it is gone; or one transaction.",
		run:  deleteOwnerAgainstCreate,
	},
	{
		name: "delete-owner-against-replace",
		says: "When DeleteOwner has returned, every record is gone whose Create had returned before, whatever overlapped it.",
		why:  "A busy session would survive \"sign out everywhere\".",
		look: "a DELETE whose snapshot misses a row that a Replace is writing; a Touch or Replace that writes back.",
		run: func(x *script) {
			need[store.OwnerIndex](x)
			hs := x.handles()
			for range 5 {
				r := x.session("alice")
				keys := []store.Key{x.created(r), x.created(r), x.created(r), x.created(r)}
				versions := make([]atomic.Uint64, len(keys))
				for i := range versions {
					versions[i].Store(r.Version)
				}
				var deleted atomic.Bool
				together(13, func(i int) {
					st, n := hs[i%len(hs)], i%len(keys)
					k := keys[n]
					switch {
					case i == 0:
						x.deleteOwnerOf(st, "alice")
						deleted.Store(true)
						for _, k := range keys {
							x.gone("after DeleteOwner", k)
						}
					case i%3 == 0:
						x.untilGone(&deleted, func(n int) error { return st.Touch(x.ctx, k, r.Expires.Add(time.Duration(n)*time.Second)) })
					default:
						x.untilGone(&deleted, func(int) error { return replaceOnce(x, st, k, &versions[n]) })
					}
				})
				for _, k := range keys {
					x.gone("after DeleteOwner and all that overlapped it", k)
				}
				x.holdsOnly("ListOwner after DeleteOwner", x.listOwner("alice"), nil)
				if x.Failed() {
					return
				}
			}
		},
	},
	{
		name: "sweep-against-create",
		says: "A Sweep that overlaps a Create over an expired record does not remove the new one.",
		why:  "A session that was just created would vanish.",
		look: "a sweep that selects keys and deletes them later, without testing the expiry again.",
		run: func(x *script) {
			need[store.Sweeper](x)
			hs := x.handles()
			const n = 32
			r := x.session("alice")
			var keys []store.Key
			x.sleepUntil(x.soon(func(soon time.Time) error {
				r.Expires = soon
				keys = keys[:0]
				for range n {
					keys = append(keys, x.key())
					if err := x.store.Create(x.ctx, keys[len(keys)-1], r); err != nil {
						return err
					}
				}
				return nil
			}))
			next := x.session("bob")
			together(n+4, func(i int) {
				st := hs[i%len(hs)]
				if i < n {
					x.want("Create over an expired record", st.Create(x.ctx, keys[i], next), nil)
					return
				}
				if sweeper, ok := store.As[store.Sweeper](st); ok {
					_, err := sweeper.Sweep(x.ctx, n)
					x.want("Sweep", err, nil)
				}
			})
			for _, k := range keys {
				x.holds("created over an expired record during a Sweep", k, next)
			}
		},
	},
}

// rivals returns successors of r that differ in their version.
func (x *script) rivals(r store.Record) []store.Record {
	rs := make([]store.Record, racers)
	for i := range rs {
		rs[i] = x.changed(r)
		rs[i].Version = r.Version + 1 + uint64(i)
	}
	return rs
}

// oneWinner runs write for all records at once and returns the one that was
// stored.
func (x *script) oneWinner(what string, k store.Key, records []store.Record, write func(i int) error) store.Record {
	x.Helper()
	var mu sync.Mutex
	var winners []int
	together(len(records), func(i int) {
		err := write(i)
		if err != nil {
			x.want(what+" that lost a race", err, store.ErrConflict)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		winners = append(winners, i)
	})
	if len(winners) != 1 {
		x.Errorf("%d of %d at once: %s succeeded; want 1", len(winners), len(records), what)
		return store.Record{}
	}
	winner := records[winners[0]]
	x.holds("after the race, the winner", k, winner)
	return winner
}

// untilGone repeats f until it says ErrNotFound, as it must once the deletion
// has returned.
func (x *script) untilGone(deleted *atomic.Bool, f func(n int) error) {
	for n := 0; ; n++ {
		late := deleted.Load()
		switch err := f(n); {
		case errors.Is(err, store.ErrNotFound):
			return
		case late:
			x.Errorf("a write that began after the deletion returned: got error %v; want ErrNotFound", err)
			return
		case err != nil && !errors.Is(err, store.ErrConflict):
			x.Errorf("a write that races a deletion: %v; want success, ErrConflict or ErrNotFound", err)
			return
		}
	}
}

// replaceOnce replaces what is under k by a version that version has not had.
func replaceOnce(x *script, st store.Store, k store.Key, version *atomic.Uint64) error {
	r, err := st.Get(x.ctx, k)
	if err != nil {
		return err
	}
	old := r.Version
	r.Version = version.Add(1)
	return st.Replace(x.ctx, k, old, r)
}

func (x *script) deleteOwnerOf(st store.Store, owner string) {
	idx, ok := store.As[store.OwnerIndex](st)
	if !ok {
		x.Errorf("Config.Second returned a store without OwnerIndex, which the first one has")
		return
	}
	if _, err := idx.DeleteOwner(x.ctx, owner); err != nil {
		x.Errorf("DeleteOwner: %v; want success", err)
	}
}

// conflictsAreTruthful gives every attempt a version of its own, and compares
// what attempts reported with the versions that anybody ever saw.
func conflictsAreTruthful(x *script) {
	hs := x.handles()
	r := x.session("alice")
	k := x.created(r)
	var version atomic.Uint64
	version.Store(r.Version)

	var mu sync.Mutex
	seen := make(map[uint64]bool)
	refused := make(map[uint64]bool)
	successor := map[uint64]uint64{}
	together(16, func(i int) {
		st := hs[i%len(hs)]
		for range 25 {
			r, err := st.Get(x.ctx, k)
			if err != nil {
				x.Errorf("Get: %v; want a record", err)
				return
			}
			old := r.Version
			r.Version = version.Add(1)
			err = st.Replace(x.ctx, k, old, r)
			mu.Lock()
			seen[old] = true
			switch {
			case err == nil && successor[old] != 0:
				x.Errorf("version %#x was replaced twice, by %#x and by %#x", old, successor[old], r.Version)
			case err == nil:
				successor[old] = r.Version
			case errors.Is(err, store.ErrConflict):
				refused[r.Version] = true
			default:
				x.Errorf("Replace: %v; want success or ErrConflict", err)
			}
			mu.Unlock()
		}
	})
	seen[x.get(k).Version] = true
	for v := range refused {
		if seen[v] {
			x.Errorf("the Replace that wrote version %#x said ErrConflict, but the version was stored", v)
		}
	}
}

// deleteOwnerAgainstCreate looks for orphans: alive, but in no list.
func deleteOwnerAgainstCreate(x *script) {
	need[store.OwnerIndex](x)
	hs := x.handles()
	const creators, each = 16, 4
	for range 5 {
		r := x.session("alice")
		before := []store.Key{x.created(r), x.created(r)}
		var keys [creators][each]store.Key
		var errs [creators][each]error
		for i := range keys {
			for j := range keys[i] {
				keys[i][j] = x.key()
			}
		}
		together(creators+2, func(i int) {
			st := hs[i%len(hs)]
			if i >= creators {
				x.deleteOwnerOf(st, "alice")
				for _, k := range before {
					x.gone("created before DeleteOwner began", k)
				}
				return
			}
			for j, k := range keys[i] {
				errs[i][j] = st.Create(x.ctx, k, r)
			}
		})
		listed := x.listOwner("alice")
		for i := range keys {
			for j, k := range keys[i] {
				_, err := x.store.Get(x.ctx, k)
				alive := err == nil
				if !alive {
					x.want("Get after the race", err, store.ErrNotFound)
				}
				switch _, inIndex := listed[k]; {
				case errs[i][j] == nil && alive && !inIndex:
					x.Errorf("an orphan: Create succeeded, Get returns the record, ListOwner does not")
				case errs[i][j] == nil && !alive && inIndex:
					x.Errorf("ListOwner returned a record that Get does not")
				case errs[i][j] != nil:
					x.want("Create that raced DeleteOwner", errs[i][j], store.ErrNotFound)
					if alive {
						x.Errorf("Create that raced DeleteOwner said ErrNotFound, but the record is alive")
					}
				}
			}
		}
		x.deleteOwner("alice")
		for _, ks := range keys {
			for _, k := range ks {
				x.gone("after a DeleteOwner that nothing overlapped", k)
			}
		}
		if x.Failed() {
			return
		}
	}
}
