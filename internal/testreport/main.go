// Command testreport reads the stream of `go test -json` and prints what a
// person wants of it: the closing line of each package as go test writes it, the
// full output of what failed, and every skipped test with its reason, which go
// test alone shows only amid all other output.
//
//	go test -json ./... | testreport
//
// It exits with 1 if anything failed.
package main

import (
	"fmt"
	"os"
)

func main() {
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.close() {
		os.Exit(1)
	}
}
