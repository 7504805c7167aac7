package redisstore

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/redis/rueidis"
)

// Options configures a [Store]. The zero value is a good choice.
type Options struct {
	// Prefix begins the name of every key. Give each app that shares a database
	// one of its own. If zero, "coatcheck:". Letters, digits and .:_-/ may be in
	// it; braces, which would put all sessions into one slot of a cluster, not.
	Prefix string

	// MinReplicas is how many replicas must have a write before it counts. One
	// that fewer have in time is a [store.ErrUnconfirmed]. If zero, the primary's
	// word is enough, and what it had not yet passed on is lost with it. With it, a
	// request that sets a value to what it is costs a write, too.
	MinReplicas int

	// ReplicaTimeout is how long a write waits for MinReplicas, rounded up to
	// milliseconds. If zero, 500 ms. Keep it below the deadline of a call.
	ReplicaTimeout time.Duration

	// encrypted is what OpenURL knows of the connections.
	encrypted encryption
}

type encryption int

const (
	encryptionUnknown encryption = iota
	encryptionOff
	encryptionOn
)

const (
	defaultPrefix         = "coatcheck:"
	defaultReplicaTimeout = 500 * time.Millisecond
	maxPrefix             = 64

	// grace is how long a key outlives its record. The clock of the caller decides
	// what has expired, and may be behind the server's, which only collects
	// garbage.
	grace = 5 * time.Minute

	// maxData is well below the 512 MB of a Redis string and the buffers of a
	// client: whoever stores more has not meant a session.
	maxData = 16 << 20
)

// Store is a [store.Store] in Redis or Valkey. All of its methods are safe for
// concurrent use. Give their contexts deadlines, as package session does: the
// client repeats reads for as long as they last, and a server that has stopped
// holds up a write that waits for replicas.
type Store struct {
	client  rueidis.Client
	opts    Options
	records string // prefix of the keys of records
	owners  string // and of the sets of the index of owners
	cluster bool
	waits   chan struct{} // a token for each write that waits for replicas
	close   func()        // of a client of our own
}

var (
	_ store.Store      = (*Store)(nil)
	_ store.OwnerIndex = (*Store)(nil)
	_ store.Lister     = (*Store)(nil)
	_ store.GetMany    = (*Store)(nil)
	_ store.Pinger     = (*Store)(nil)
	_ store.Watcher    = (*Store)(nil)
	_ store.Sharded    = (*Store)(nil)
	_ store.Inspector  = (*Store)(nil)
	_ store.Confirmer  = (*Store)(nil)
)

// New returns a store over client, which stays the caller's to close. The client
// must read from primaries (leave SendToReplicas and ReplicaOnly unset), and one
// of its calls should fail sooner than ConnWriteTimeout's default of 10 s allows:
// see [OpenURL], which sets what sessions need. opts may be nil. It returns an
// error that says what to change if the options make no sense.
func New(client rueidis.Client, opts *Options) (*Store, error) {
	if client == nil {
		return nil, errors.New("redisstore: New needs a client; see OpenURL for one by URL")
	}
	s := &Store{
		client:  client,
		cluster: client.Mode() == rueidis.ClientModeCluster,
		waits:   make(chan struct{}, maxWaits),
		close:   func() {},
	}
	if opts != nil {
		s.opts = *opts
	}
	o := &s.opts
	if err := o.complete(); err != nil {
		return nil, err
	}
	s.records, s.owners = o.Prefix+"s:", o.Prefix+"o:"
	return s, nil
}

// complete sets what is zero, and returns what makes no sense.
func (o *Options) complete() error {
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if o.ReplicaTimeout == 0 {
		o.ReplicaTimeout = defaultReplicaTimeout
	}
	switch {
	case strings.ContainsAny(o.Prefix, "{}"):
		return errors.New("redisstore: Prefix has a brace in it, which would put every session into one slot of a cluster; leave it out")
	case strings.Trim(o.Prefix, prefixBytes) != "" || len(o.Prefix) > maxPrefix:
		return fmt.Errorf("redisstore: Prefix may have up to %d letters, digits and .:_-/ in it, as in %q", maxPrefix, "shop:")
	case o.MinReplicas < 0 || o.ReplicaTimeout < 0:
		return errors.New("redisstore: MinReplicas and ReplicaTimeout must not be negative")
	}
	return nil
}

// Close closes the connections that [OpenURL] has made. A client given to [New]
// stays open.
func (s *Store) Close() error {
	s.close()
	return nil
}

const prefixBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:_-/"

// Topology says in words what the store is connected to: "standalone", "sentinel"
// or "cluster".
func (s *Store) Topology() string { return string(s.client.Mode()) }

// keySize is the length of a key in base64url.
const keySize = 43

// recordKey returns the name of the key that holds k's record.
func (s *Store) recordKey(k store.Key) string {
	b := make([]byte, 0, 128) // on the stack
	b = append(b, s.records...)
	b = base64.RawURLEncoding.AppendEncode(b, k[:])
	return string(b)
}

// parseKey is the inverse of recordKey.
func (s *Store) parseKey(name string) (k store.Key, ok bool) {
	text, ok := strings.CutPrefix(name, s.records)
	if !ok || len(text) != keySize {
		return store.Key{}, false
	}
	n, err := base64.RawURLEncoding.Strict().Decode(k[:], []byte(text))
	return k, err == nil && n == len(k)
}

// Get implements [store.Store]. It is one GET.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, readError(ctx, "get", err)
	}
	r, err := parse(s.client.Do(ctx, s.client.B().Get().Key(s.recordKey(k)).Build()), time.Now())
	return r, readError(ctx, "get", err)
}

// parse returns the live record of an answer.
func parse(res rueidis.RedisResult, now time.Time) (store.Record, error) {
	b, err := res.AsBytes() // not shared: the reply is ours alone
	if rueidis.IsRedisNil(err) {
		return store.Record{}, store.ErrNotFound
	}
	if err != nil {
		return store.Record{}, err
	}
	r, ok := decode(b)
	switch {
	case !ok:
		return store.Record{}, store.ErrCorrupt
	case !r.Live(now):
		return store.Record{}, errExpired
	}
	return r, nil
}

// errExpired is of a record that is there and expired, by the clock of this process.
// By that of another it may not be.
var errExpired = fmt.Errorf("%w: it has expired", store.ErrNotFound)

// Create implements [store.Store]. It is one script, and for a record with an
// owner two more trips: the index is written first and looked at again after, so
// that a revocation of all the owner's sessions at the same moment misses
// nothing.
func (s *Store) Create(ctx context.Context, k store.Key, r store.Record) error {
	now := time.Now()
	r = r.Truncate()
	if err := s.check(ctx, r, now); err != nil {
		return s.writeError(ctx, "create", err)
	}
	if r.Owner == "" {
		return s.writeError(ctx, "create", s.create(ctx, k, r, now))
	}
	e := s.place(r.Owner).entry(k, r.Deadline, now)
	if err := s.enter(ctx, r.Owner, e, now, false); err != nil {
		return s.writeError(ctx, "create", err)
	}
	if err := s.create(ctx, k, r, now); err != nil {
		if errors.Is(err, store.ErrConflict) {
			s.leaveConflict(ctx, r.Owner, e)
		}
		return s.writeError(ctx, "create", err)
	}
	return s.writeError(ctx, "create", s.stillEntered(ctx, k, r))
}

func (s *Store) create(ctx context.Context, k store.Key, r store.Record, now time.Time) error {
	status, err := s.exec(ctx, createScript, s.recordKey(k), millis(now), text(encode(r)), millis(r.Expires.Add(grace))).AsInt64()
	if err != nil {
		return err
	}
	return answer(status)
}

// Replace implements [store.Store]. It is one script.
func (s *Store) Replace(ctx context.Context, k store.Key, old uint64, r store.Record) error {
	now := time.Now()
	r = r.Truncate()
	if err := s.check(ctx, r, now); err != nil {
		return s.writeError(ctx, "replace", err)
	}
	status, err := s.exec(ctx, replaceScript, s.recordKey(k), millis(now), version(old), text(encode(r)),
		millis(r.Expires.Add(grace)), strconv.Itoa(ownerAt+len(r.Owner)), graceMillis).AsInt64()
	if err == nil {
		err = answer(status)
	}
	return s.writeError(ctx, "replace", err)
}

// Touch implements [store.Store]. It is one script, and for a session with an
// owner one more trip, which also mends an index that a failover has lost. It
// does not wait for [Options.MinReplicas]: what may be lost is some idle time.
func (s *Store) Touch(ctx context.Context, k store.Key, expires time.Time) error {
	now := time.Now()
	expires = store.Record{Expires: expires}.Truncate().Expires
	switch {
	case ctx.Err() != nil:
		return s.writeError(ctx, "touch", notBegun{ctx.Err()})
	case expires.IsZero():
		return s.writeError(ctx, "touch", fmt.Errorf("%w: no expiry", store.ErrInvalid))
	case expires.Before(now):
		expires = now // which extends nothing, and tells whether there is a session
	case expires.After(lastTime):
		expires = lastTime // which is past every deadline
	}
	res, err := touchScript.exec(ctx, s.client, s.recordKey(k), millis(now), text(appendTime(nil, expires)), graceMillis).ToArray()
	if err == nil && len(res) == 0 {
		err = errAnswer
	}
	var status int64
	if err == nil {
		status, err = res[0].AsInt64()
	}
	if err == nil {
		err = answer(status)
	}
	if err != nil || len(res) != 3 {
		return s.writeError(ctx, "touch", err)
	}
	owner, err := res[1].ToString()
	if err != nil || owner == "" {
		return s.writeError(ctx, "touch", err)
	}
	deadline, err := res[2].AsBytes()
	if err == nil && len(deadline) != 6 {
		err = errAnswer
	}
	if err == nil {
		err = s.enter(ctx, owner, s.place(owner).entry(k, timeAt(deadline), now), now, true)
	}
	if err != nil {
		err = halfDone{err}
	}
	return s.writeError(ctx, "touch", err)
}

// Delete implements [store.Store]. It is one script, and for a session with an
// owner one more trip.
func (s *Store) Delete(ctx context.Context, k store.Key) (existed bool, err error) {
	if ctx.Err() != nil {
		return false, readError(ctx, "delete", ctx.Err())
	}
	res, err := s.exec(ctx, deleteScript, s.recordKey(k), millis(time.Now())).ToArray()
	if err == nil && len(res) != 2 {
		err = errAnswer
	}
	if err != nil {
		return false, s.writeError(ctx, "delete", err)
	}
	live, err := res[0].AsInt64()
	if err != nil {
		return false, s.writeError(ctx, "delete", err)
	}
	if owner, err := res[1].ToString(); err == nil && owner != "" {
		// The record is gone: an entry that stays is pruned when somebody looks.
		p := s.place(owner)
		_ = s.client.Do(ctx, s.client.B().Zrem().Key(p.name).Member(p.member(k)).Build()).Error()
	}
	return live != 0, nil
}

// Ping implements [store.Pinger]. A server that refuses writes because it cannot save to
// disk answers a PING with that, too; it answers, and reads go on.
func (s *Store) Ping(ctx context.Context) error {
	if !s.cluster {
		return readError(ctx, "ping", ping(ctx, s.client))
	}
	nodes, _, err := s.primaries(ctx)
	if err != nil {
		return readError(ctx, "ping", err)
	}
	for _, n := range nodes {
		if err := ping(ctx, n.client); err != nil {
			return readError(ctx, "ping", err)
		}
	}
	return nil
}

func ping(ctx context.Context, c rueidis.Client) error {
	err := c.Do(ctx, c.B().Ping().Build()).Error()
	if e, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(e.Error(), "MISCONF") {
		return nil
	}
	return err
}

// maxBatch bounds the commands of one pipeline.
const maxBatch = 256

// GetMany implements [store.GetMany].
func (s *Store) GetMany(ctx context.Context, ks []store.Key) (map[store.Key]store.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, readError(ctx, "get many", err)
	}
	found := make(map[store.Key]store.Record, len(ks))
	err := s.each(ctx, ks, func(k store.Key, r store.Record, err error) error {
		if err == nil {
			found[k] = r
		} else if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrCorrupt) {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, readError(ctx, "get many", err)
	}
	return found, nil
}

// each reads the records under ks, in pipelines, and calls f with each answer.
func (s *Store) each(ctx context.Context, ks []store.Key, f func(store.Key, store.Record, error) error) error {
	for len(ks) > 0 {
		batch := ks[:min(len(ks), maxBatch)]
		ks = ks[len(batch):]
		cmds := make(rueidis.Commands, len(batch))
		for i, k := range batch {
			cmds[i] = s.client.B().Get().Key(s.recordKey(k)).Build()
		}
		for i, res := range s.client.DoMulti(ctx, cmds...) {
			r, err := parse(res, time.Now())
			if isWrongType(err) {
				err = errWrongType
			}
			if err := f(batch[i], r, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// check is what Create and Replace look at before they send r.
func (s *Store) check(ctx context.Context, r store.Record, now time.Time) error {
	if err := ctx.Err(); err != nil {
		return notBegun{err}
	}
	if err := r.Validate(now); err != nil {
		return err
	}
	if !representable(r) {
		return fmt.Errorf("%w: a time before 1970 or after the year 10000", store.ErrInvalid)
	}
	if len(r.Data) > maxData {
		return fmt.Errorf("%w: %d bytes of data; at most %d are stored", store.ErrTooLarge, len(r.Data), maxData)
	}
	return nil
}

// notBegun is the error of a context that had ended before anything was sent.
type notBegun struct{ error }

func (e notBegun) Unwrap() error { return e.error }

var errAnswer = errors.New("the server's answer is not one of ours; another version of the script?")

// answer returns the error that a script's status means.
func answer(status int64) error {
	switch status {
	case done:
		return nil
	case notFound:
		return store.ErrNotFound
	case conflict:
		return store.ErrConflict
	case corrupt:
		return store.ErrCorrupt
	}
	return errAnswer
}

var graceMillis = strconv.FormatInt(grace.Milliseconds(), 10)

// text returns b, which must not change any more, as a string.
func text(b []byte) string { return rueidis.BinaryString(b) }

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// version returns v as the bytes that are stored.
func version(v uint64) string {
	return string([]byte{
		byte(v >> 56), byte(v >> 48), byte(v >> 40), byte(v >> 32),
		byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v),
	})
}
