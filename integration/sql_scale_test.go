package integration

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store"
)

// Sizes of TestSoakSQLScale.
const (
	scaleFew     = 10_000
	scaleMany    = 2_000_000
	scaleExpired = 1_000_000
)

// scaleConfig gives the servers memory for what they hold, as anybody would.
var scaleConfig = map[string][]string{
	"postgres": {"shared_buffers = 2GB", "max_wal_size = 4GB"},
	"mariadb":  {"innodb-buffer-pool-size = 2G", "innodb-log-file-size = 1G", "innodb-io-capacity = 20000", "innodb-io-capacity-max = 20000"},
}

// scaleFill makes sessions from to to (without it), by one statement of the server.
// The key of each is the hash of its number.
var scaleFill = map[string]string{
	"postgres": `INSERT INTO %[1]s (key, version, handle, owner, created, deadline, expires, sweep_after, label, data)
SELECT sha256(convert_to(i::text, 'UTF8')), 1, substr(sha256(convert_to('h' || i, 'UTF8')), 1, 16), convert_to('user-' || i, 'UTF8'),
	%[4]d, %[5]d, %[6]d, %[6]d, '', sha256(convert_to('a' || i, 'UTF8')) || sha256(convert_to('b' || i, 'UTF8')) ||
	sha256(convert_to('c' || i, 'UTF8')) || sha256(convert_to('d' || i, 'UTF8')) || sha256(convert_to('e' || i, 'UTF8')) ||
	sha256(convert_to('f' || i, 'UTF8')) FROM generate_series(%[2]d, %[3]d - 1) i`,
	"mariadb": "INSERT INTO %[1]s (`key`, version, handle, owner, created, deadline, expires, sweep_after, label, data)\n" +
		"SELECT UNHEX(SHA2(seq, 256)), 1, UNHEX(SUBSTR(SHA2(CONCAT('h', seq), 256), 1, 32)), CONCAT('user-', seq), " +
		"%[4]d, %[5]d, %[6]d, %[6]d, '', UNHEX(CONCAT(SHA2(CONCAT('a', seq), 512), SHA2(CONCAT('b', seq), 512), SHA2(CONCAT('c', seq), 512))) " +
		"FROM seq_%[2]d_to_%[7]d",
}

func scaleInsert(t *testing.T, db *sql.DB, kind, table string, from, to int, expires time.Time) {
	t.Helper()
	const batch = 100_000
	created := time.Now().Add(-time.Hour).UnixMilli()
	deadline := max(expires.UnixMilli(), time.Now().Add(-time.Minute).UnixMilli())
	for ; from < to; from += batch {
		end := min(from+batch, to)
		mustExec(t, db, fmt.Sprintf(scaleFill[kind], table, from, end, created, deadline, expires.UnixMilli(), end-1))
	}
}

// scaleSettle waits until the server has written down what it was filled with, so
// that what follows is not measured beside that. Then every connection of the pool
// sees the whole table and its index of keys: in PostgreSQL each is a process that
// maps a page of the server's memory when it first touches it, and one that has
// served for an hour has touched all.
func scaleSettle(t *testing.T, srv sqlServer, db *sql.DB, table string) {
	t.Helper()
	began := time.Now()
	admin := srv.admin(t)
	queries := []string{"SELECT sum(length(data)) FROM " + table}
	if srv.Kind == "postgres" {
		mustExec(t, admin, "CHECKPOINT")
		queries = []string{
			"SET max_parallel_workers_per_gather = 0", queries[0],
			"SET enable_seqscan = off", "SELECT count(*) FROM (SELECT key FROM " + table + " ORDER BY key OFFSET 0) t", "RESET ALL",
		}
	} else {
		mustExec(t, admin, "SET GLOBAL innodb_max_dirty_pages_pct = 0")
		eventually(t, "a clean buffer pool", func() bool {
			var name string
			var dirty int
			if err := admin.QueryRow("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'").Scan(&name, &dirty); err != nil {
				t.Fatal(err)
			}
			return dirty < 100
		})
		mustExec(t, admin, "SET GLOBAL innodb_max_dirty_pages_pct = 90")
	}
	var wg sync.WaitGroup
	for range db.Stats().MaxOpenConnections {
		c, err := db.Conn(t.Context()) // all of them at once, so that they differ
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wg.Go(func() {
			for _, query := range queries {
				if _, err := c.ExecContext(t.Context(), query); err != nil {
					t.Errorf("%s: %v", query, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%s: settled in %v", srv.Kind, time.Since(began).Round(time.Second))
}

func scaleKey(i int) store.Key { return sha256.Sum256([]byte(strconv.Itoa(i))) }

// scaleLoad runs do for that long, by so many workers, each of which begins
// something every interval at most, and returns how long each took, sorted.
func scaleLoad(t *testing.T, d time.Duration, workers int, interval time.Duration, do func(ctx context.Context, rng *rand.Rand) error) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return scaleLoadUntil(ctx, t, workers, interval, do)
}

func scaleLoadUntil(ctx context.Context, t *testing.T, workers int, interval time.Duration, do func(ctx context.Context, rng *rand.Rand) error) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			var mine []time.Duration
			next := time.Now().Add(rand.N(interval + 1))
			for ctx.Err() == nil {
				if pause := time.Until(next); pause > 0 {
					time.Sleep(pause) // a load of a known rate
				}
				next = next.Add(interval)
				began := time.Now()
				if err := do(t.Context(), rng); err != nil {
					t.Error(err)
					return
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// TestSoakSQLScale prints what a read costs among ten thousand sessions and among
// two million, and what removing a million expired ones does to a load.
func TestSoakSQLScale(t *testing.T) {
	soak(t)
	for _, kind := range []string{"postgres", "mariadb"} {
		t.Run(kind, func(t *testing.T) { soakSQLScale(t, kind) })
	}
}

func soakSQLScale(t *testing.T, kind string) {
	srv := sqlFrom(testserver.Start(t, kind, &testserver.Options{Config: scaleConfig[kind]}))
	s, table, db := srv.store(t)
	analyze := func() {
		if kind == "postgres" {
			mustExec(t, db, "VACUUM (ANALYZE) "+table)
		} else {
			mustExec(t, db, "ANALYZE TABLE "+table)
		}
	}
	live := time.Now().Add(24 * time.Hour)
	read := func(n int) func(context.Context, *rand.Rand) error {
		return func(ctx context.Context, rng *rand.Rand) error {
			_, err := s.Get(ctx, scaleKey(rng.IntN(n)))
			return err
		}
	}
	var p50 [2][]time.Duration // of one reader, and of eight, who wait for each other's processors
	have := 0
	for i, n := range []int{scaleFew, scaleMany} {
		began := time.Now()
		scaleInsert(t, db, kind, table, have, n, live)
		have = n
		analyze()
		t.Logf("%s: filled up to %d sessions in %v", kind, n, time.Since(began).Round(time.Second))
		scaleSettle(t, srv, db, table)
		for _, workers := range []int{1, 8} {
			scaleLoad(t, 3*time.Second, workers, 0, read(n))
			all := scaleLoad(t, 5*time.Second, workers, 0, read(n))
			p50[i] = append(p50[i], quantile(all, 0.5))
			t.Logf("%s: read among %d sessions: p50 %v, p99 %v, %d in 5 s by %d workers", kind, n, quantile(all, 0.5), quantile(all, 0.99), len(all), workers)
		}
	}
	for i, workers := range []int{1, 8} {
		t.Logf("%s: p50 among %d to that among %d, by %d workers: %.2f", kind, scaleMany, scaleFew, workers, float64(p50[1][i])/float64(p50[0][i]))
	}

	scaleInsert(t, db, kind, table, scaleMany, scaleMany+scaleExpired, time.Now().Add(-time.Minute))
	analyze()
	scaleSettle(t, srv, db, table)
	// One in ten writes: half of them touches.
	mixed := func(ctx context.Context, rng *rand.Rand) error {
		k := scaleKey(rng.IntN(scaleMany))
		switch rng.IntN(20) {
		case 0:
			return s.Touch(ctx, k, live.Add(rand.N(time.Minute)))
		case 1:
			r, err := s.Get(ctx, k)
			if err != nil {
				return err
			}
			old := r.Version
			r.Version++
			if err := s.Replace(ctx, k, old, r); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
			return nil
		}
		_, err := s.Get(ctx, k)
		return err
	}
	const workers, interval = 16, 16 * time.Millisecond // a thousand a second
	scaleLoad(t, 3*time.Second, workers, interval, mixed)
	idle := scaleLoad(t, 20*time.Second, workers, interval, mixed)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	removed, batches := 0, 0
	began := time.Now()
	var sweep sync.WaitGroup
	sweep.Go(func() { // as session.Manager.Run does
		defer cancel()
		for removed < scaleExpired {
			began := time.Now()
			n, err := s.Sweep(ctx, 50)
			if err != nil {
				t.Errorf("Sweep: %v", err)
				return
			}
			removed, batches = removed+n, batches+1
			select {
			case <-ctx.Done():
				t.Errorf("the sweep was not done within a quarter of an hour: %d removed", removed)
				return
			case <-time.After(max(10*time.Millisecond, 3*time.Since(began))):
			}
		}
	})
	during := scaleLoadUntil(ctx, t, workers, interval, mixed)
	sweep.Wait()
	t.Logf("%s: swept %d rows in %d batches and %v", kind, removed, batches, time.Since(began).Round(time.Second))
	t.Logf("%s: a thousand requests a second, without sweeping: p50 %v, p99 %v; with: p50 %v, p99 %v (%.2f times)", kind,
		quantile(idle, 0.5), quantile(idle, 0.99), quantile(during, 0.5), quantile(during, 0.99),
		float64(quantile(during, 0.99))/float64(quantile(idle, 0.99)))
	var left int
	if err := db.QueryRow("SELECT count(*) FROM " + table).Scan(&left); err != nil || left != scaleMany {
		t.Errorf("%d rows are left, %v; want %d", left, err, scaleMany)
	}
}
