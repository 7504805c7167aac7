package shopper_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shop"
	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/shopper"
	"github.com/coatcheck/coatcheck/store/memstore"
)

// newShop returns the real shop over a store in memory.
func newShop(t *testing.T, name string) http.Handler {
	t.Helper()
	h, err := shop.New(memstore.New(), name, &shop.Options{InsecureCookie: true})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// visit lets shoppers go on a few journeys each.
func visit(t *testing.T, h http.Handler) *shopper.Result {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	r, err := shopper.Run(t.Context(), srv.URL, 5, &shopper.Options{Journeys: 4, Think: time.Microsecond, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestShoppersFindNoFaultWithAGoodShop(t *testing.T) {
	var served atomic.Int64
	good := newShop(t, "only")
	r := visit(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		good.ServeHTTP(w, r)
	}))
	if !r.Flawless() || r.UnrepeatableLost != 0 || r.Interrupted != 0 || len(r.First) != 0 {
		t.Errorf("found faults with a good shop:\n%s", r)
	}
	if r.Journeys != 20 {
		t.Errorf("%d journeys, want 5 shoppers times 4", r.Journeys)
	}
	if int64(r.Requests) != served.Load() || r.Servers["only"] != r.Requests {
		t.Errorf("%d requests, %v by X-Served-By; the server counted %d", r.Requests, r.Servers, served.Load())
	}
	if r.Latency.P50 <= 0 || r.Latency.P99 < r.Latency.P50 || r.Latency.Max < r.Latency.P99 {
		t.Errorf("latency %+v is not in order", r.Latency)
	}
}

// nth calls the fault instead of the shop for each nth request that matches.
func nth(n int64, h http.Handler, matches func(*http.Request) bool, fault http.HandlerFunc) http.Handler {
	var count atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if matches(r) && count.Add(1)%n == 0 {
			fault(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func is(method, path string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method && r.URL.Path == path }
}

func every(*http.Request) bool { return true }

// carryOut has h carry out the request, and drops the answer.
func carryOut(h http.Handler, r *http.Request) { h.ServeHTTP(httptest.NewRecorder(), r) }

func cutOff(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Every way for a shop to be wrong that is known here is noticed, and called by
// its name and by no other.
func TestShoppersNoticeEachFault(t *testing.T) {
	answerWith := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
	}
	unrepeatable := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(balancer.UnrepeatableHeader, "1")
		w.WriteHeader(http.StatusBadGateway)
	}
	// rewrite changes what the shop says of a session.
	rewrite := func(h http.Handler, change func(map[string]any)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			said := make(map[string]any)
			if err := json.Unmarshal(rec.Body.Bytes(), &said); err != nil {
				t.Error(err)
			}
			change(said)
			_ = json.NewEncoder(w).Encode(said)
		}
	}

	for _, tt := range []struct {
		name string
		harm func(http.Handler) http.Handler
		want []shopper.Kind
	}{
		{"forgets carts", func(h http.Handler) http.Handler {
			return nth(5, h, is("GET", "/api/session"), rewrite(h, func(said map[string]any) { said["cart"] = map[string]int{} }))
		}, []shopper.Kind{shopper.LostItem}},
		{"acknowledges an addition that it does not make", func(h http.Handler) http.Handler {
			return nth(3, h, is("POST", "/cart"), func(w http.ResponseWriter, r *http.Request) {
				look := r.Clone(r.Context())
				look.Method, look.URL.Path, look.Body = "GET", "/api/session", http.NoBody
				h.ServeHTTP(w, look)
			})
		}, []shopper.Kind{shopper.LostItem}},
		{"adds twice", func(h http.Handler) http.Handler {
			return nth(3, h, func(r *http.Request) bool {
				_, err := r.Cookie("session") // without one there would be two sessions
				return is("POST", "/cart")(r) && err == nil
			}, func(w http.ResponseWriter, r *http.Request) {
				form, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				r.Body = io.NopCloser(bytes.NewReader(form))
				again := r.Clone(r.Context())
				again.Body = io.NopCloser(bytes.NewReader(form))
				carryOut(h, again)
				h.ServeHTTP(w, r)
			})
		}, []shopper.Kind{shopper.SurplusItem}},
		{"signs out and keeps the cart", func(h http.Handler) http.Handler {
			return nth(5, h, is("GET", "/api/session"), rewrite(h, func(said map[string]any) { said["user"] = "" }))
		}, []shopper.Kind{shopper.SignOut}},
		{"does not know the session", func(h http.Handler) http.Handler {
			return nth(5, h, is("GET", "/api/session"), func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Cookie")
				h.ServeHTTP(w, r)
			})
		}, []shopper.Kind{shopper.SignOut, shopper.LostItem}},
		{"takes one for another", func(h http.Handler) http.Handler {
			return nth(5, h, is("GET", "/api/session"), rewrite(h, func(said map[string]any) { said["user"] = "somebody else" }))
		}, []shopper.Kind{shopper.WrongUser}},
		{"mixes up the cookies of two visitors", mixCookies, []shopper.Kind{shopper.WrongUser}},
		{"does not sign out", func(h http.Handler) http.Handler {
			return nth(2, h, is("POST", "/logout"), func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, `{"user":"","cart":{}}`)
			})
		}, []shopper.Kind{shopper.WrongUser}},
		{"answers 500 before", func(h http.Handler) http.Handler {
			return nth(9, h, every, answerWith(http.StatusInternalServerError))
		}, []shopper.Kind{shopper.FailedRequest}},
		{"answers 500 after", func(h http.Handler) http.Handler {
			return nth(9, h, every, func(w http.ResponseWriter, r *http.Request) {
				carryOut(h, r)
				w.WriteHeader(http.StatusInternalServerError)
			})
		}, []shopper.Kind{shopper.FailedRequest}},
		{"answers 500 after sign-ins and checks", func(h http.Handler) http.Handler {
			return nth(1, h, func(r *http.Request) bool {
				return is("POST", "/login")(r) || is("GET", "/api/session")(r)
			}, func(w http.ResponseWriter, r *http.Request) {
				carryOut(h, r)
				w.WriteHeader(http.StatusInternalServerError)
			})
		}, []shopper.Kind{shopper.FailedRequest}},
		{"answers 503 to checks", func(h http.Handler) http.Handler {
			return nth(2, h, is("GET", "/api/session"), answerWith(http.StatusServiceUnavailable))
		}, []shopper.Kind{shopper.FailedRequest}},
		{"refuses what is right", func(h http.Handler) http.Handler {
			return nth(3, h, is("POST", "/cart"), answerWith(http.StatusConflict))
		}, []shopper.Kind{shopper.FailedRequest}},
		{"redirects", func(h http.Handler) http.Handler {
			return nth(3, h, is("POST", "/cart"), func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "/api/session", http.StatusSeeOther)
			})
		}, []shopper.Kind{shopper.FailedRequest}},
		{"says what nobody understands", func(h http.Handler) http.Handler {
			return nth(5, h, is("GET", "/api/session"), func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<p>hello") })
		}, []shopper.Kind{shopper.FailedRequest}},
		{"has no page", func(h http.Handler) http.Handler {
			return nth(3, h, is("GET", "/"), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, "{}")
			})
		}, []shopper.Kind{shopper.FailedRequest}},
		{"hangs up before", func(h http.Handler) http.Handler {
			return nth(3, h, is("POST", "/cart"), cutOff)
		}, []shopper.Kind{shopper.FailedRequest}},
		{"hangs up after", func(h http.Handler) http.Handler {
			return nth(3, h, is("POST", "/cart"), func(w http.ResponseWriter, r *http.Request) {
				carryOut(h, r)
				cutOff(w, r)
			})
		}, []shopper.Kind{shopper.FailedRequest}},
		{"hangs up within the answer", func(h http.Handler) http.Handler {
			return nth(5, h, is("GET", "/api/session"), func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "100")
				fmt.Fprint(w, `{"user":`)
				_ = http.NewResponseController(w).Flush()
				cutOff(w, r)
			})
		}, []shopper.Kind{shopper.FailedRequest}},
		{"dies before it carries out", func(h http.Handler) http.Handler {
			return nth(3, h, isPost, unrepeatable)
		}, []shopper.Kind{shopper.Unrepeatable}},
		{"dies after it has carried out", func(h http.Handler) http.Handler {
			return nth(3, h, isPost, func(w http.ResponseWriter, r *http.Request) {
				carryOut(h, r)
				unrepeatable(w, r)
			})
		}, []shopper.Kind{shopper.Unrepeatable}},
		{"says that a safe request is unrepeatable", func(h http.Handler) http.Handler {
			return nth(5, h, is("GET", "/api/session"), unrepeatable)
		}, []shopper.Kind{shopper.FailedRequest}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := visit(t, tt.harm(newShop(t, "only")))
			counts := map[shopper.Kind]int{
				shopper.SignOut:       r.SignOuts,
				shopper.LostItem:      r.LostItems,
				shopper.SurplusItem:   r.SurplusItems,
				shopper.WrongUser:     r.WrongUsers,
				shopper.FailedRequest: r.FailedRequests,
				shopper.Unrepeatable:  r.UnrepeatableLost,
			}
			for k, n := range counts {
				want := slices.Contains(tt.want, k)
				if (n > 0) != want {
					t.Errorf("%d of kind %s, want some: %t", n, k, want)
				}
				ex, told := r.First[k]
				if told != want || want && (ex.Shopper == "" || ex.What == "" || len(ex.Trace) == 0) {
					t.Errorf("of kind %s the first is told as %+v", k, ex)
				}
			}
			if r.Interrupted < 1 || r.Journeys != 20 {
				t.Errorf("%d of %d journeys were interrupted, want some of all 20", r.Interrupted, r.Journeys)
			}
			if want := slices.Equal(tt.want, []shopper.Kind{shopper.Unrepeatable}); r.Flawless() != want {
				t.Errorf("flawless: %t, want %t", r.Flawless(), want)
			}
			if t.Failed() {
				t.Log(r)
			}
		})
	}
}

func isPost(r *http.Request) bool { return r.Method == http.MethodPost }

// mixCookies now and then lends a visitor the cookie of another who is signed in.
func mixCookies(h http.Handler) http.Handler {
	var mu sync.Mutex
	byUser := make(map[string]string)
	swap := nth(5, h, is("GET", "/api/session"), func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		for _, c := range byUser {
			if c != r.Header.Get("Cookie") {
				r.Header.Set("Cookie", c)
				break
			}
		}
		mu.Unlock()
		h.ServeHTTP(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		look := r.Clone(r.Context())
		look.Method, look.URL.Path, look.Body = "GET", "/api/session", http.NoBody
		h.ServeHTTP(rec, look)
		var said struct{ User string }
		_ = json.Unmarshal(rec.Body.Bytes(), &said)
		mu.Lock()
		switch {
		case r.URL.Path == "/logout":
			delete(byUser, said.User)
		case said.User != "":
			byUser[said.User] = r.Header.Get("Cookie")
		}
		mu.Unlock()
		swap.ServeHTTP(w, r)
	})
}

func TestRunEndsWithTheStepAtHand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	good := newShop(t, "only")
	var once sync.Once
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if is("POST", "/cart")(r) {
			once.Do(cancel) // within a request
		}
		good.ServeHTTP(w, r)
	}))
	defer srv.Close()
	var mu sync.Mutex
	var last shopper.Request
	r, err := shopper.Run(ctx, srv.URL, 1, &shopper.Options{Think: time.Microsecond, Observe: func(r shopper.Request) {
		mu.Lock()
		defer mu.Unlock()
		last = r
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Flawless() {
		t.Errorf("the end of the run looks like a fault:\n%s", r)
	}
	if last.Path != "/api/session" || last.Status != http.StatusOK {
		t.Errorf("the last request was %+v, want the check of the last step", last)
	}
}

func TestRunEndsWhenItsTimeIsUp(t *testing.T) {
	srv := httptest.NewServer(newShop(t, "only"))
	defer srv.Close()
	r, err := shopper.Run(t.Context(), srv.URL, 2, &shopper.Options{Duration: 20 * time.Millisecond, Think: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Flawless() || r.Seed == 0 {
		t.Errorf("the end of the run looks like a fault, or the seed is not told:\n%s", r)
	}
}

func TestObserverIsToldOfEveryRequest(t *testing.T) {
	good := newShop(t, "only")
	srv := httptest.NewServer(nth(4, good, every, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer srv.Close()
	var mu sync.Mutex
	told, failed := 0, 0
	r, err := shopper.Run(t.Context(), srv.URL, 3, &shopper.Options{Journeys: 2, Think: time.Microsecond, Observe: func(r shopper.Request) {
		mu.Lock()
		defer mu.Unlock()
		told++
		if r.Fault == shopper.FailedRequest {
			failed++
		}
		if r.Method == "" || r.Path == "" || r.Took <= 0 || r.Start.IsZero() || !strings.HasPrefix(r.Shopper, "shopper-") {
			t.Errorf("told of %+v", r)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if told != r.Requests || failed != r.FailedRequests || failed == 0 {
		t.Errorf("told of %d requests, %d failed; the result has %d and %d", told, failed, r.Requests, r.FailedRequests)
	}
}

func TestRunRefusesWhatIsNoShop(t *testing.T) {
	for _, tt := range []struct {
		shop string
		n    int
	}{{"", 1}, {"127.0.0.1:8080", 1}, {"ftp://127.0.0.1", 1}, {"http://127.0.0.1:8080", 0}} {
		if _, err := shopper.Run(t.Context(), tt.shop, tt.n, nil); err == nil {
			t.Errorf("%d shoppers at %q: no error", tt.n, tt.shop)
		}
	}
}

func TestResultIsToldToPeopleAndScripts(t *testing.T) {
	r := visit(t, nth(3, newShop(t, "only"), is("POST", "/login"), cutOff))
	for _, want := range []string{fmt.Sprintf("%d interrupted", r.Interrupted), "sign-outs 0", "The first failed request: shopper-", "POST /login as shopper-"} {
		if !strings.Contains(strings.Join(strings.Fields(r.String()), " "), want) {
			t.Errorf("the table does not say %q:\n%s", want, r)
		}
	}
	if strings.Contains(r.String(), "demo") {
		t.Errorf("the table tells the password:\n%s", r)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var said map[string]json.RawMessage
	if err := json.Unmarshal(b, &said); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"sign_outs", "lost_items", "surplus_items", "wrong_users", "failed_requests", "unrepeatable_lost", "requests", "journeys", "latency"} {
		if _, ok := said[key]; !ok {
			t.Errorf("%s has no %s", b, key)
		}
	}
}
