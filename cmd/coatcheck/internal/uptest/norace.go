//go:build unix && !race

package uptest

const race = false
