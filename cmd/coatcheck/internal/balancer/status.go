package balancer

// Status is a snapshot of the balancer.
type Status struct {
	Requests     uint64           `json:"requests"`     // received from clients
	InFlight     int              `json:"in_flight"`    // at an upstream now
	Retries      uint64           `json:"retries"`      // attempts after a request's first
	NoUpstream   uint64           `json:"no_upstream"`  // answered 503: no upstream took the request
	Unrepeatable uint64           `json:"unrepeatable"` // answered with UnrepeatableHeader
	ClientGone   uint64           `json:"client_gone"`  // the client hung up before there was an answer
	Upstreams    []UpstreamStatus `json:"upstreams"`    // in the order of the rotation
}

// UpstreamStatus is a snapshot of one upstream.
type UpstreamStatus struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	State    State  `json:"state"`
	Ejected  bool   `json:"ejected"`   // left out for a while, for connections to it failed
	Requests uint64 `json:"requests"`  // routed to it
	InFlight int    `json:"in_flight"` // WebSockets and event streams included
	Failures uint64 `json:"failures"`  // failed dials and broken connections
}

// Status returns a snapshot, consistent in what it says of the upstreams.
func (b *Balancer) Status() Status {
	s := Status{
		Requests:     b.requests.Load(),
		Retries:      b.retries.Load(),
		NoUpstream:   b.noUpstream.Load(),
		Unrepeatable: b.unrepeatable.Load(),
		ClientGone:   b.clientGone.Load(),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Upstreams = make([]UpstreamStatus, 0, len(b.ring))
	for _, up := range b.ring {
		s.InFlight += up.inFlight
		s.Upstreams = append(s.Upstreams, UpstreamStatus{
			Name:     up.name,
			URL:      "http://" + up.host,
			State:    up.state,
			Ejected:  up.ejected(),
			Requests: up.requests,
			InFlight: up.inFlight,
			Failures: up.failures,
		})
	}
	return s
}
