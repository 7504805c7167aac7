package balancer

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// logEvery is the shortest time between two records of a limitedLog: under a storm of failures the counters tell how many there were.
const logEvery = time.Second

// A limitedLog drops records that come too fast, and says how many.
type limitedLog struct {
	logger *slog.Logger

	mu      sync.Mutex
	last    time.Time
	dropped int
}

func (l *limitedLog) limited(msg string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.last) < logEvery {
		l.dropped++
		return
	}
	if l.dropped > 0 {
		args = append(args, "dropped_records", l.dropped)
	}
	l.last, l.dropped = now, 0
	l.logger.Warn(msg, args...)
}

// Write makes it an output of a log.Logger.
func (l *limitedLog) Write(p []byte) (int, error) {
	l.limited(strings.TrimSpace(string(p)))
	return len(p), nil
}
