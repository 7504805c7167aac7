package memstore

// Entries counts all that s holds: records, owners, their sets, and the queue.
// Each record is in the queue once, and an owned one in one set, so everything
// is gone when it is zero.
func Entries(s *Store) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := len(s.records) + len(s.owners) + len(s.expiry)
	for _, owned := range s.owners {
		n += len(owned)
	}
	return n
}
