// Package uptest starts the real `coatcheck up`, with real worker processes, for
// end-to-end tests.
//
//	func TestMain(m *testing.M) { os.Exit(uptest.Main(m)) }
//
//	func TestShop(t *testing.T) {
//		u := uptest.Start(t, "--workers", "3")
//		resp, err := http.Get(u.Shop + "/api/session")
//		…
//	}
//
// It is for Unix: elsewhere it is empty.
package uptest
