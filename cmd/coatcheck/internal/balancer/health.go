package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// eagerInterval is the time between probes of an upstream that is to come in, and the shortest time between two probes at all.
const eagerInterval = 50 * time.Millisecond

// Run checks the health of the upstreams, those added later too, until ctx ends. It must not be called twice at a time.
func (b *Balancer) Run(ctx context.Context) {
	b.mu.Lock()
	b.run = ctx
	for _, up := range b.ring {
		b.watch(up)
	}
	b.mu.Unlock()
	<-ctx.Done()
	b.mu.Lock()
	b.run = nil
	b.mu.Unlock()
	b.probers.Wait()
}

// watch starts probing the upstream if Run runs. The caller holds b.mu.
func (b *Balancer) watch(up *upstream) {
	if b.run == nil || b.opts.NoHealthChecks || up.retired.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(b.run)
	stop := context.AfterFunc(up.retired, cancel)
	b.probers.Go(func() {
		defer cancel()
		defer stop()
		b.probeLoop(ctx, up)
	})
}

func (b *Balancer) probeLoop(ctx context.Context, up *upstream) {
	// A connection of its own per probe: that the worker still accepts is part of the question.
	transport := &http.Transport{DialContext: b.dial, DisableKeepAlives: true, DisableCompression: true}
	for {
		began := time.Now()
		err := b.probe(ctx, transport, up)
		if ctx.Err() != nil {
			return
		}
		b.observe(up, began, err)

		if !sleep(ctx, eagerInterval, nil) {
			return
		}
		if b.inRotation(up) && !sleep(ctx, b.opts.HealthInterval-eagerInterval, up.kick) {
			return
		}
	}
}

// sleep waits for d or until wake, and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

func (b *Balancer) probe(ctx context.Context, transport *http.Transport, up *upstream) error {
	ctx, cancel := context.WithTimeout(ctx, b.opts.HealthTimeout)
	defer cancel()
	u := &url.URL{Scheme: "http", Host: up.host, Path: b.opts.HealthPath}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "coatcheck-health")
	if b.opts.Secret != "" {
		req.Header.Set(SecretHeader, b.opts.Secret)
	}
	resp, err := transport.RoundTrip(req) // and not a Client: a redirect is no pass
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// observe takes the result of a probe into account that began at the given time.
func (b *Balancer) observe(up *upstream, began time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if up.retired.Err() != nil {
		return
	}
	if err != nil {
		up.good = 0
		up.bad++
		if unanswered(err) {
			up.mute++
		} else {
			up.mute = 0
			up.recovered()
		}
		if up.state == Ready && up.bad >= b.opts.Fall {
			up.state = Down
			b.broadcast()
			b.opts.Logger.Debug("upstream is down: health checks failed", "upstream", up.name, "failed", up.bad)
		}
		if up.state == Down && up.mute >= b.opts.Fall && !up.silent() {
			// Those that wait for it would wait in vain. One that answers, if only by refusing, may be finishing what it has.
			up.giveUp(errMute)
			up.transport.CloseIdleConnections()
		}
		return
	}
	up.bad, up.mute = 0, 0
	up.recovered()
	up.good++
	if !up.ejectedUntil.IsZero() && began.After(up.ejectedAt) {
		up.ejectedUntil = time.Time{}
		up.fails.Store(0)
		b.broadcast()
		b.opts.Logger.Info("upstream is back: a health check passed", "upstream", up.name)
	}
	if up.state != Ready && up.good >= b.opts.Rise {
		up.state = Ready
		b.broadcast()
		b.opts.Logger.Debug("upstream is ready", "upstream", up.name)
	}
}

// unanswered reports whether a probe failed because nothing came back in time. A connection that is refused or broken off is an answer: of the
// kernel, that the process is gone or has stopped listening.
func unanswered(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// errConnBroken stands in for http.Transport's own error, which may quote what the upstream sent.
var errConnBroken = errors.New("connection broken")

// eject leaves the upstream out for a while because connections to it fail.
func (b *Balancer) eject(up *upstream, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	up.failures++
	b.ejectLocked(up, err)
}

// connBroken counts a connection that the upstream broke, and ejects it after several in a row.
func (b *Balancer) connBroken(up *upstream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	up.failures++
	if up.fails.Add(1) >= int64(b.opts.MaxFails) {
		b.ejectLocked(up, errConnBroken)
	}
	up.probeSoon()
}

func (b *Balancer) ejectLocked(up *upstream, err error) {
	if up.retired.Err() != nil {
		return
	}
	known := up.ejected()
	up.ejectedAt = time.Now()
	up.ejectedUntil = up.ejectedAt.Add(b.opts.EjectFor)
	up.good = 0
	up.probeSoon()
	if !known {
		b.opts.Logger.Warn("upstream is ejected: connections to it fail", "upstream", up.name, "for", b.opts.EjectFor, "err", err)
	}
}

func (up *upstream) probeSoon() {
	select {
	case up.kick <- struct{}{}:
	default:
	}
}

func (b *Balancer) inRotation(up *upstream) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return up.state == Ready && !up.ejected()
}
