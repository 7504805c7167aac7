//go:build unix

package main

import "syscall"

// privateFiles makes every file that this process and its children create
// readable by its owner only, those of libraries too.
func privateFiles() { syscall.Umask(0o077) }
