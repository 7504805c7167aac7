//go:build !unix

package testserver

import "errors"

// No server starts here: find fails first.
var errNoSignals = errors.New("this system has no such signals")

func kill(int) error   { return errNoSignals }
func freeze(int) error { return errNoSignals }
func thaw(int) error   { return errNoSignals }
func frozen(int) bool  { return true }

func children(int) []int { return nil }
