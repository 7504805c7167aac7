package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/balancer"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// Workers gathers what the workers of a fleet measure, with the name of each in the label
// worker. A name never means two processes, so no counter goes backwards: those of a
// worker that is gone end, and its replacement's begin at zero.
type Workers struct {
	// List returns the address of each worker by name.
	List func() map[string]string
	// Secret is what the workers answer with their metrics (see
	// [balancer.OnSecret]).
	Secret string
	// Missed counts the workers that gave no answer in time, and were left out.
	Missed prometheus.Counter
}

const (
	// workerTimeout bounds the wait for a worker that hangs, which all others share.
	workerTimeout = time.Second
	// maxAnswer is far more than a worker has to say, in bytes.
	maxAnswer = 8 << 20
)

// NewWorkers returns a gatherer of what the workers in list measure, which they tell to
// who knows the secret. How often one gave no answer is counted in r.
func NewWorkers(list func() map[string]string, secret string, r prometheus.Registerer) *Workers {
	w := &Workers{List: list, Secret: secret, Missed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "coatcheck_fleet_scrapes_missed_total",
		Help: "Workers that were left out of a scrape, since they did not answer within a second.",
	})}
	r.MustRegister(w.Missed)
	return w
}

// Gather implements [prometheus.Gatherer]. It never fails: a worker may die at any time.
func (w *Workers) Gather() ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(context.Background(), workerTimeout)
	defer cancel()
	var (
		mu  sync.Mutex
		all = make(map[string]*dto.MetricFamily)
		wg  sync.WaitGroup
	)
	for name, url := range w.List() {
		wg.Go(func() {
			families, err := w.ask(ctx, url)
			if err != nil {
				w.Missed.Inc()
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, f := range families {
				label(f, name)
				if known := all[f.GetName()]; known != nil {
					known.Metric = append(known.Metric, f.Metric...)
				} else {
					all[f.GetName()] = f
				}
			}
		})
	}
	wg.Wait()
	out := make([]*dto.MetricFamily, 0, len(all))
	for _, f := range all {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

// label adds the label worker to every metric of f.
func label(f *dto.MetricFamily, worker string) {
	key := "worker"
	for _, m := range f.Metric {
		m.Label = append(m.Label, &dto.LabelPair{Name: &key, Value: &worker})
		slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
	}
}

// workerTransport has a connection for each question, so that none keeps a worker that
// drains from ending, and no proxy of the environment.
var workerTransport = &http.Transport{DisableKeepAlives: true}

// ask returns the metrics of the worker at the address.
func (w *Workers) ask(ctx context.Context, url string) ([]*dto.MetricFamily, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+Path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(balancer.SecretHeader, w.Secret)
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeProtoDelim))) // nothing to parse, nothing lost
	resp, err := workerTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	dec := expfmt.NewDecoder(io.LimitReader(resp.Body, maxAnswer), expfmt.ResponseFormat(resp.Header))
	var out []*dto.MetricFamily
	for {
		f := new(dto.MetricFamily)
		switch err := dec.Decode(f); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		}
		out = append(out, f)
	}
}
