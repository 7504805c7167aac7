// Package nearcache keeps copies of sessions in the memory of a web server.
package nearcache
