package storetest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Defects that are not one method of one store.

// leaky is a caching wrapper done wrong: it embeds the inner store, whose
// DeleteOwner therefore goes past the cache.
type leaky struct {
	*naive
	cacheMu sync.Mutex
	cache   map[store.Key]store.Record
}

func (l *leaky) Get(ctx context.Context, k store.Key) (store.Record, error) {
	l.cacheMu.Lock()
	defer l.cacheMu.Unlock()
	if r, ok := l.cache[k]; ok && r.Live(time.Now()) && ctx.Err() == nil {
		return cloned(r), nil
	}
	r, err := l.naive.Get(ctx, k)
	if err == nil {
		l.cache[k] = cloned(r)
	}
	return r, err
}

func (l *leaky) forget(k store.Key) {
	l.cacheMu.Lock()
	defer l.cacheMu.Unlock()
	delete(l.cache, k)
}

func (l *leaky) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	defer l.forget(k)
	return l.naive.Replace(ctx, k, old, r)
}

func (l *leaky) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	defer l.forget(k)
	return l.naive.Touch(ctx, k, expires)
}

func (l *leaky) Delete(ctx context.Context, k store.Key) (bool, error) {
	defer l.forget(k)
	return l.naive.Delete(ctx, k)
}

// subject is a defective store, and how to judge it.
type subject struct {
	name   string
	rules  []string
	config func() Config
	alone  bool // no rule but those named means anything
	wide   bool
}

func subjects() []subject {
	count := func(_ *testing.T, s store.Store) int { return s.(interface{ entries() int }).entries() }
	list := []subject{
		{
			name:  "a wrapper leaks its inner DeleteOwner",
			rules: one("owner-index/delete-owner-reaches-what-was-read"),
			config: func() Config {
				return Config{New: func(*testing.T) store.Store {
					return &leaky{naive: new(naive), cache: make(map[store.Key]store.Record)}
				}, Second: same, Synctest: true, Count: count}
			},
		},
		{
			name:  "another process reads stale records",
			rules: one("read/other-process-sees-finished-writes"),
			config: func() Config {
				return Config{
					New: func(*testing.T) store.Store { return new(naive) },
					Second: func(_ *testing.T, s store.Store) store.Store {
						b := &broken{naive: s.(*naive)}
						staleReads(b)
						return b
					},
					Synctest: true,
				}
			},
			alone: true,
		},
		{
			name:  "another process reads stale records afresh",
			rules: one("fresh/sees-what-others-wrote"),
			config: func() Config {
				return Config{
					New: func(*testing.T) store.Store {
						b := &broken{naive: new(naive)}
						staleReads(b)
						return b
					},
					Inner:    func(_ *testing.T, s store.Store) store.Store { return s.(*broken).naive },
					Synctest: true,
				}
			},
			alone: true,
		},
		{
			name:  "Watch does not hear of another process",
			rules: one("watch/tells-of-other-processes"),
			config: func() Config {
				var mute func(store.Key)
				return Config{
					New: func(*testing.T) store.Store {
						b := &broken{naive: new(naive)}
						mute = muted(b)
						return b
					},
					Second: func(_ *testing.T, s store.Store) store.Store {
						other := &broken{naive: s.(*broken).naive}
						other.create = func(ctx context.Context, k store.Key, r store.Record) error {
							mute(k)
							return other.naive.Create(ctx, k, r)
						}
						return other
					},
					Synctest: true,
				}
			},
			alone: true,
		},
		{
			name:  "new stores share their records",
			rules: one("isolation/new-stores-are-apart"),
			config: func() Config {
				shared := new(naive)
				return Config{New: func(*testing.T) store.Store { return shared }, Synctest: true}
			},
			alone: true,
		},
	}
	for _, d := range defects {
		list = append(list, subject{name: d.name, rules: d.rules, wide: d.wide, config: func() Config {
			return Config{
				New: func(*testing.T) store.Store {
					b := &broken{naive: new(naive)}
					if d.breaks != nil {
						d.breaks(b)
					}
					return b
				},
				Second:   same,
				Synctest: true,
				MaxData:  brokenLimit,
				Count:    count,
			}
		}})
	}
	return list
}

// A broken store is caught by the rules that name its defect, in words that
// explain it, and by few others.
func TestDefectsAreCaught(t *testing.T) {
	for _, s := range subjects() {
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			vs := verdicts(t, s.config(), func(name string) bool {
				return slices.Contains(s.rules, name) || !s.alone && !testing.Short()
			})
			var others []string
			for name, v := range vs {
				if v.failed && !slices.Contains(s.rules, name) {
					others = append(others, name)
				}
			}
			slices.Sort(others)
			t.Logf("caught by %v, and also by %v", s.rules, others)
			if len(others) > 6 && !s.wide {
				t.Errorf("%d other rules caught it too, which says little about the defect: %v", len(others), others)
			}
			for _, name := range s.rules {
				v, ok := vs[name]
				switch {
				case !ok:
					t.Errorf("there is no rule %s", name)
				case !v.failed:
					t.Errorf("%s did not catch it", name)
				case !strings.Contains(v.text, ruleNamed(name).explanation()):
					t.Errorf("%s caught it without its explanation:\n%s", name, v.text)
				}
			}
		})
	}
}

// A rule that nothing breaks proves nothing.
func TestEveryRuleCanFail(t *testing.T) {
	caught := make(map[string]bool)
	for _, s := range subjects() {
		for _, name := range s.rules {
			caught[name] = true
		}
	}
	for _, g := range groups {
		for _, r := range g.rules {
			if name := g.name + "/" + r.name; !caught[name] {
				t.Errorf("no defect is known that %s catches", name)
			}
		}
	}
}

// Without a defect the broken store is whole: what is caught is the defect.
func TestBrokenWithoutDefect(t *testing.T) {
	Run(t, Config{
		New:      func(*testing.T) store.Store { return &broken{naive: new(naive)} },
		Second:   same,
		Synctest: true,
		MaxData:  brokenLimit,
		Count:    func(_ *testing.T, s store.Store) int { return s.(*broken).entries() },
	})
}

func ruleNamed(name string) rule {
	group, short, _ := strings.Cut(name, "/")
	for _, g := range groups {
		for _, r := range g.rules {
			if g.name == group && r.name == short {
				return r
			}
		}
	}
	return rule{}
}
