package shopper

import (
	"encoding/json"
	"testing"
	"time"
)

func TestLatencyOfNothing(t *testing.T) {
	if l := newTally(0, 1, Options{}).result().Latency; l != (Latency{}) {
		t.Errorf("no requests took %+v", l)
	}
}

func TestLatencyInJSONIsInMilliseconds(t *testing.T) {
	b, err := json.Marshal(Latency{P50: 1500 * time.Microsecond, P99: 20 * time.Millisecond, Max: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"p50_ms":1.5,"p99_ms":20,"max_ms":1000}`; string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
}
