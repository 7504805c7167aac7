package main

// keepBrokenPipes does nothing: Windows has no SIGPIPE.
func keepBrokenPipes() {}
