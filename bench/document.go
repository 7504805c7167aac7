package main

// What servers without SQL have in common.

// documentSections are those of servers without SQL. The first reader is the base;
// get and update are what the driver alone does.
func documentSections(readers []string, get, update string) []section {
	base := readers[0]
	return []section{
		{name: "read", title: "Read: user and name", workers: concurrency, page: read, base: base, peers: readers},
		{name: "read-all", title: "Read: every value", workers: concurrency, page: all, base: base, peers: []string{base, coatcheck, near}},
		{name: "write", title: "Write: one more in the cart", workers: concurrency, page: write, base: base, peers: []string{base, coatcheck, near}},
		{name: "store", title: "Below the sessions: a record", workers: concurrency, page: write, base: update, peers: []string{update, casStore}},
		{name: "latency-1", title: "Read, requests at once: 1", workers: 1, page: read, base: get, peers: []string{get, coatcheck, base}},
		{name: "latency-8", title: "Read, requests at once: 8", workers: 8, page: read, base: get, peers: []string{get, coatcheck, base}},
	}
}

// documentPanels are the plots of servers without SQL.
func documentPanels(scs string) []panel {
	return []panel{
		{"Read, the server asked each time", "read", []string{coatcheck, touching, scs}},
		{"Read, copies near the app", "read", []string{near, coatcheck, scs}},
		{"Write", "write", []string{coatcheck, scs}},
	}
}
