//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// keepBrokenPipes makes a write to a pipe whose reader is gone an error. Without
// it, Go ends the process by SIGPIPE when that pipe is standard output or standard
// error, as in `coatcheck up 2>&1 | tee log`, whose tee ends with the same Ctrl-C:
// no request would be finished. SIGPIPE is caught and not ignored, for children
// would inherit that.
func keepBrokenPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
