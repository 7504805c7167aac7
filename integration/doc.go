// Package integration tests every store against its real server. Drivers and
// test tools live in its module, so that the root module needs none of them.
package integration
