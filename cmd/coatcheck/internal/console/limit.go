package console

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	limitWindow = time.Second
	// limitEach is how many records of one text there may be in a window.
	limitEach = 10
)

// Limit returns a handler that passes on what h is for, but of the warnings and
// errors of one text only the first ten in a second; then it says how many more
// there were. An outage makes each request log the same, at full speed.
func Limit(h slog.Handler) slog.Handler {
	return &limited{Handler: h, repeats: &repeats{seen: make(map[repeatKey]int)}}
}

type limited struct {
	slog.Handler
	repeats *repeats // of all handlers that come from one
}

// repeats counts what was logged in the window that is open for each text.
type repeats struct {
	mu   sync.Mutex
	seen map[repeatKey]int
}

type repeatKey struct {
	level   slog.Level
	message string
}

func (l *limited) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limited{l.Handler.WithAttrs(attrs), l.repeats}
}

func (l *limited) WithGroup(name string) slog.Handler {
	return &limited{l.Handler.WithGroup(name), l.repeats}
}

func (l *limited) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn && l.isMany(repeatKey{r.Level, r.Message}) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// isMany counts a record, and reports whether there are too many of its kind.
func (l *limited) isMany(k repeatKey) bool {
	l.repeats.mu.Lock()
	defer l.repeats.mu.Unlock()
	l.repeats.seen[k]++
	n := l.repeats.seen[k]
	if n == 1 {
		time.AfterFunc(limitWindow, func() { l.sum(k) })
	}
	return n > limitEach
}

// sum ends a window.
func (l *limited) sum(k repeatKey) {
	l.repeats.mu.Lock()
	n := l.repeats.seen[k]
	delete(l.repeats.seen, k)
	l.repeats.mu.Unlock()
	if n <= limitEach {
		return
	}
	r := slog.NewRecord(time.Now(), k.level, k.message, 0)
	r.AddAttrs(slog.Int("dropped_records", n-limitEach))
	_ = l.Handler.Handle(context.Background(), r) // there is nowhere to say it
}
