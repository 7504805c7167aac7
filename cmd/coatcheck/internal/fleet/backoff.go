package fleet

import "time"

const (
	backoffFirst = 200 * time.Millisecond
	backoffMax   = 10 * time.Second
	// settled is how long a worker must have served for its death not to count
	// as a failed start.
	settled = 5 * time.Second
)

// backoff spaces out the starts of workers that fail again and again.
type backoff struct {
	failures int // in a row
	last     time.Time
}

// failed notes that a worker died before it was ready.
func (b *backoff) failed(now time.Time) {
	b.failures++
	b.last = now
}

// died notes that a worker died by itself after it had served for a while. The
// first such death costs no delay: a server that was killed is replaced at once.
func (b *backoff) died(now time.Time, served time.Duration) {
	if served >= settled {
		b.failures = 0
		return
	}
	b.failed(now)
}

// wait returns how long to wait before the next start.
func (b *backoff) wait(now time.Time) time.Duration {
	if b.failures < 2 {
		return 0
	}
	d := backoffMax
	if n := b.failures - 2; n < 6 { // 200 ms … 6.4 s
		d = backoffFirst << n
	}
	return max(0, b.last.Add(d).Sub(now))
}
