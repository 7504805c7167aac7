package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// memoryResult is what a session takes on the server, its share of the tables of
// keys included.
type memoryResult struct {
	Peer  string  `json:"peer"`
	Bytes float64 `json:"bytes_per_session"`
	Index float64 `json:"of_which_owner_index,omitempty"`
}

var remembered = []string{coatcheck, scsGoRedis, gorilla, fiberRedis, express}

// redisMemory signs in n users of each peer on an empty server. It erases the server.
func redisMemory(ctx context.Context, url string, n int, progress io.Writer) ([]memoryResult, error) {
	admin, err := newClient(url, 0)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	var all []memoryResult
	for _, p := range redisPeers() {
		if !slices.Contains(remembered, p.name) {
			continue
		}
		m, err := memoryOf(ctx, admin, url, p, n)
		if errors.Is(err, errMissing) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("memory of %s: %w", p.name, err)
		}
		_, _ = fmt.Fprintf(progress, "memory  %-42s %6.0f bytes per session\n", p.name, m.Bytes)
		all = append(all, m)
	}
	return all, admin.Do(ctx, admin.B().Flushall().Build()).Error()
}

func memoryOf(ctx context.Context, admin rueidis.Client, url string, p peer, n int) (memoryResult, error) {
	m := memoryResult{Peer: p.name}
	if err := admin.Do(ctx, admin.B().Flushall().Build()).Error(); err != nil {
		return m, err
	}
	empty, err := usedMemory(ctx, admin)
	if err != nil {
		return m, err
	}
	a, err := p.open(ctx, url)
	if err != nil {
		return m, err
	}
	_, err = signInAll(ctx, a, n)
	a.close() // connections take memory, too
	if err != nil {
		return m, err
	}
	full, err := usedMemory(ctx, admin)
	if err != nil {
		return m, err
	}
	m.Bytes = float64(full-empty) / float64(n)
	if p.name != coatcheck {
		return m, nil
	}
	// What is left without the owner index.
	if err := erase(ctx, admin, "coatcheck:o:*"); err != nil {
		return m, err
	}
	without, err := usedMemory(ctx, admin)
	m.Index = float64(full-without) / float64(n)
	return m, err
}

func erase(ctx context.Context, admin rueidis.Client, pattern string) error {
	for cursor, first := uint64(0), true; first || cursor != 0; first = false {
		e, err := admin.Do(ctx, admin.B().Scan().Cursor(cursor).Match(pattern).Count(1000).Build()).AsScanEntry()
		if err != nil {
			return err
		}
		cursor = e.Cursor
		if len(e.Elements) > 0 {
			if err := admin.Do(ctx, admin.B().Del().Key(e.Elements...).Build()).Error(); err != nil {
				return err
			}
		}
	}
	return nil
}

// usedMemory waits until everybody else has disconnected and the server has put
// its tables in order, for which it takes its time: until the figure stays.
func usedMemory(ctx context.Context, admin rueidis.Client) (int64, error) {
	var last int64
	for same := 0; same < 6; {
		text, err := admin.Do(ctx, admin.B().Info().Build()).ToString()
		if err != nil {
			return 0, err
		}
		used, clients := figure(text, "used_memory"), figure(text, "connected_clients")
		// A few bytes come and go with the answer to INFO itself.
		if clients <= ownConnections && used-last < 4096 && last-used < 4096 {
			same++
		} else {
			same, last = 0, used
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return last, nil
}

// ownConnections is how many one rueidis client has at most.
const ownConnections = 8

// line returns what INFO says under a name.
func line(info, name string) string {
	for l := range strings.Lines(info) {
		if text, ok := strings.CutPrefix(l, name+":"); ok {
			return strings.TrimSpace(text)
		}
	}
	return ""
}

func figure(info, name string) int64 {
	n, _ := strconv.ParseInt(line(info, name), 10, 64)
	return n
}
