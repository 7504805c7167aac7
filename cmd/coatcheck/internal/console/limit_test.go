package console_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/console"
)

// page is a buffer that another goroutine writes to.
type page struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

// turn returns what was written since the last turn.
func (p *page) turn() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.b.Reset()
	return p.b.String()
}

func TestLimitCountsWhatIsSaidAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b page
		log := slog.New(console.Limit(slog.NewTextHandler(&b, nil)))
		for i := range 1000 {
			log.With("server", i).Error("request failed", "number", i)
			log.Info("a step", "number", i)
		}
		log.Warn("request failed") // another level is another thing
		log.Error("something else")
		first := b.turn()
		for text, want := range map[string]int{
			`level=ERROR msg="request failed"`: 10,
			`level=INFO msg="a step"`:          1000,
			`level=WARN msg="request failed"`:  1,
			`msg="something else"`:             1,
		} {
			if got := strings.Count(first, text); got != want {
				t.Errorf("%s was written %d times, want %d", text, got, want)
			}
		}

		time.Sleep(time.Second)
		synctest.Wait()
		if got := b.turn(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `level=ERROR msg="request failed"`) || !strings.Contains(got, "dropped_records=990") {
			t.Errorf("after a second it says %q, want how many were dropped", got)
		}
		log.Error("request failed")
		if b.turn() == "" {
			t.Error("the next second's first record was dropped")
		}
		time.Sleep(time.Second)
	})
}

func TestLimitIsAHandler(t *testing.T) {
	var b bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		b.Reset()
		return console.Limit(slog.NewJSONHandler(&b, nil))
	}, func(t *testing.T) map[string]any {
		m := make(map[string]any)
		if err := json.Unmarshal(b.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		return m
	})
}

func ExampleLimit() {
	text := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	log := slog.New(console.Limit(text))
	log.Error("the store is away") // a hundred of these in a second would be ten
	// Output: level=ERROR msg="the store is away"
}
