package main

import (
	"runtime"
	"sync/atomic"
	"testing"
)

// BenchmarkRead, BenchmarkWrite and BenchmarkStore are rows of the results for
// benchstat, with 64 requests at once.

func BenchmarkRead(b *testing.B)  { benchmark(b, "read") }
func BenchmarkWrite(b *testing.B) { benchmark(b, "write") }
func BenchmarkStore(b *testing.B) { benchmark(b, "store") }

func benchmark(b *testing.B, name string) {
	for _, f := range families {
		for _, s := range f.sections {
			if s.name == name {
				b.Run(f.kinds[0], func(b *testing.B) { benchmarkSection(b, f, s) })
			}
		}
	}
}

func benchmarkSection(b *testing.B, f *family, s section) {
	const n = 1024
	for _, p := range s.peers {
		b.Run(p, func(b *testing.B) {
			a := open(b, f, find(b, f, p))
			cookies, err := signInAll(b.Context(), a, n)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetParallelism(max(1, concurrency/runtime.GOMAXPROCS(0)))
			var workers atomic.Int64
			pg := s.page(a)
			before := cpuTime()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				w := int(workers.Add(1)) - 1
				do, i := pg(w), 7919*w
				for pb.Next() {
					i = (i + 7919) % n // a prime: from worker to worker and on through all
					if _, err := do(i, cookies[i]); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
