package integration

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coatcheck/coatcheck/internal/testserver"
	"github.com/coatcheck/coatcheck/store/redisstore"
	"github.com/redis/rueidis"
)

// benchRedis returns a store on a server of its own, with n sessions of as many
// owners.
func benchRedis(b *testing.B, n int) (*testserver.Server, *redisstore.Store) {
	b.Helper()
	srv := testserver.Start(b, "redis", nil)
	s := redisOpen(b, srv.URL, nil)
	var next atomic.Int64
	done := make(chan error)
	for range 32 {
		go func() {
			for {
				i := int(next.Add(1))
				if i > n {
					done <- nil
					return
				}
				if err := s.Create(b.Context(), numberedKey(-i), redisSession(i, "user "+strconv.Itoa(i))); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range 32 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	return srv, s
}

// BenchmarkRedisSignIn creates sessions of an owner each, many at a time; the time
// of the server's processor is apart.
func BenchmarkRedisSignIn(b *testing.B) {
	for _, n := range []int{0, 50_000} {
		b.Run(fmt.Sprintf("%d sessions", n), func(b *testing.B) {
			srv, s := benchRedis(b, n)
			c := redisClient(b, srv, srv.Nodes[0].Addr, "")
			before := redisProcessorTime(b, c)
			var next atomic.Int64
			b.SetParallelism(32) // times two processors
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := int(next.Add(1))
					if err := s.Create(b.Context(), numberedKey(i), redisSession(i, "owner "+strconv.Itoa(i))); err != nil {
						b.Error(err)
					}
				}
			})
			b.StopTimer()
			after := redisProcessorTime(b, c)
			b.ReportMetric((after-before)*1e6/float64(b.N), "server-µs/op")
		})
	}
}

// redisProcessorTime returns the seconds that the server has worked.
func redisProcessorTime(b *testing.B, c rueidis.Client) float64 {
	b.Helper()
	info, err := redisDo(b, c, "INFO", "cpu").ToString()
	if err != nil {
		b.Fatal(err)
	}
	sum := 0.0
	for _, name := range []string{"used_cpu_user:", "used_cpu_sys:"} {
		_, rest, _ := strings.Cut(info, name)
		end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		f, err := strconv.ParseFloat(rest[:end], 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += f
	}
	return sum
}

// BenchmarkRedisRevokeAll ends 1,000 sessions of one owner.
func BenchmarkRedisRevokeAll(b *testing.B) {
	_, s := benchRedis(b, 50_000)
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		for i := range 1000 {
			redisMust(b, "Create", s.Create(b.Context(), numberedKey(i), redisSession(i, "alice")))
		}
		b.StartTimer()
		if n, err := s.DeleteOwner(b.Context(), "alice"); n != 1000 || err != nil {
			b.Fatal(n, err)
		}
	}
}
