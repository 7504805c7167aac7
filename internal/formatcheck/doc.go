// Package formatcheck is a second implementation of the session format, made
// from docs/format.md alone and from nothing of ours: what it agrees on with
// session/internal/format is what the document says. It is for tests, prefers
// the plain way to the fast one, and treats as damage what the document leaves
// to the reader.
package formatcheck
