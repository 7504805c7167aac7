package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/coatcheck/coatcheck/store"
)

// Budget is the size in bytes up to which a session is lean: every request fetches it.
const Budget = 4 << 10

// listTime bounds the look at the sessions: in a store that others use too, there may be
// few among many.
const listTime = 30 * time.Second

// Sessions is how many bytes sessions take, sealed as they are stored.
type Sessions struct {
	Count int  `json:"count"`
	More  bool `json:"more"` // there are more than were looked at
	P50   int  `json:"p50_bytes"`
	P90   int  `json:"p90_bytes"`
	P99   int  `json:"p99_bytes"`
	Max   int  `json:"max_bytes"`
	Over  int  `json:"over_budget"` // how many are larger than Budget
}

// sizes looks at up to so many sessions. Keys are hashes, so that the first of them in
// whatever order are a fair sample.
func sizes(ctx context.Context, l store.Lister, sample int) (s Sessions, err error) {
	limit, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	var all []int
	for kr, err := range l.List(limit) {
		if err != nil && limit.Err() != nil && len(all) > 0 {
			s.More = true
			break
		}
		if err != nil {
			return Sessions{}, err
		}
		if kr.IsMarker() {
			continue
		}
		if len(all) == sample {
			s.More = true
			break
		}
		n := len(kr.Data)
		all = append(all, n)
		if n > Budget {
			s.Over++
		}
	}
	s.Count = len(all)
	if s.Count > 0 {
		slices.Sort(all)
		s.P50, s.P90, s.P99, s.Max = percentile(all, 50), percentile(all, 90), percentile(all, 99), all[len(all)-1]
	}
	return s, nil
}

// lean judges the sizes.
func lean(s Sessions, err error) Finding {
	f := Finding{Check: "session-size", Severity: store.SeverityOK}
	switch {
	case err != nil:
		f.Severity, f.Evidence = store.SeverityUnknown, "sessions could not be listed: "+err.Error()
	case s.Count == 0:
		f.Evidence = "there are no sessions"
	case s.P99 > Budget:
		f.Severity = store.SeverityWarning
		f.Evidence = fmt.Sprintf("%d of %d sessions are larger than %s, which every request has to fetch", s.Over, s.Count, bytes(Budget))
		f.Fix = "keep large things in a database and their keys in the session; EventLarge and the log name the attribute"
	default:
		f.Evidence = fmt.Sprintf("all but %d of %d sessions are within the budget of %s", s.Over, s.Count, bytes(Budget))
		if s.Over == 0 {
			f.Evidence = fmt.Sprintf("all of %d sessions are within the budget of %s", s.Count, bytes(Budget))
		}
	}
	return f
}

// bytes writes a size for people.
func bytes(n int) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.3g KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.3g MiB", float64(n)/(1<<20))
}
