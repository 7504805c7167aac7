package integration

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/store"
	"github.com/coatcheck/coatcheck/store/sqlstore"
)

const benchRecords = 1000

// benchRecord is a session of 300 bytes, which is a typical one.
func benchRecord(i int) store.Record {
	r := numberedSession(i)
	r.Data = make([]byte, 300)
	return r
}

func benchStore(b *testing.B) *sqlstore.Store {
	b.Helper()
	_, s := sqliteStore(b, filepath.Join(b.TempDir(), "sessions.db"))
	for i := range benchRecords {
		if err := s.Create(b.Context(), numberedKey(i), benchRecord(i)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	return s
}

func BenchmarkSQLiteGet(b *testing.B) {
	s := benchStore(b)
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(b.Context(), numberedKey(int(n.Add(1))%benchRecords)); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkSQLiteReplace(b *testing.B) {
	s := benchStore(b)
	versions := make([]uint64, benchRecords)
	records := make([]store.Record, benchRecords)
	for i := range records {
		records[i] = benchRecord(i)
	}
	for n := 0; b.Loop(); n++ {
		i := n % benchRecords
		r := records[i]
		r.Version = versions[i] + 1
		if err := s.Replace(b.Context(), numberedKey(i), versions[i], r); err != nil {
			b.Fatal(err)
		}
		versions[i]++
	}
}

func BenchmarkSQLiteTouch(b *testing.B) {
	s := benchStore(b)
	start := time.Now().Add(2 * time.Hour)
	for n := 0; b.Loop(); n++ {
		expires := start.Add(time.Duration(n) * time.Millisecond)
		if err := s.Touch(b.Context(), numberedKey(n%benchRecords), expires); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSQLiteCreateDelete(b *testing.B) {
	s := benchStore(b)
	for n := benchRecords; b.Loop(); n++ {
		k := numberedKey(n)
		if err := s.Create(b.Context(), k, benchRecord(n)); err != nil {
			b.Fatal(err)
		}
		if existed, err := s.Delete(b.Context(), k); !existed || err != nil {
			b.Fatal(existed, err)
		}
	}
}
