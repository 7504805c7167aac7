// Package testserver starts the real servers that tests run against: scripts/server
// with a *testing.T around it.
//
//	func TestFailover(t *testing.T) {
//		s := testserver.Start(t, "redis-cluster", nil) // this test's own
//		s.Kill(t, "node-1")
//		…
//	}
//
//	func TestStore(t *testing.T) {
//		s := testserver.Shared(t, "redis") // one for all tests of the package
//		…
//	}
//
// The script's comment lists the kinds of servers. Where a server cannot be had, a
// test skips and says how to get it; with COATCHECK_REQUIRE_SERVERS=1 it fails.
// Nothing outlives the test process, however that ends.
package testserver
