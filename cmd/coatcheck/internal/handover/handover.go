// Package handover is what the parent of a fleet and its workers say to each
// other over the two pipes that a worker inherits as standard input and output.
//
// The parent writes the worker's configuration, one line of JSON, and leaves the
// pipe open: its end-of-file, which the kernel guarantees even after kill -9,
// tells the worker that the parent is gone. (Linux's parent death signal is tied
// to a thread, and other systems have none.) The worker answers with one line of
// JSON when it can serve, or with why it cannot. Secrets travel this way because
// arguments and environment of a process can be read by others in /proc.
package handover

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Report is a worker's answer: where it serves, or why it does not.
type Report struct {
	URL   string `json:"url,omitzero"`
	Error string `json:"error,omitzero"`
}

// Marshal returns v as the line that [Receive] reads.
func Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("worker configuration: %w", err)
	}
	return append(b, '\n'), nil
}

// Receive reads the configuration that the parent wrote to r into v. The channel
// that it returns is closed when the parent is gone.
func Receive(r io.Reader, v any) (<-chan struct{}, error) {
	br := bufio.NewReader(r)
	line, err := br.ReadBytes('\n')
	if err != nil {
		return nil, errors.New("no configuration on standard input: workers are started by `coatcheck up`; use `coatcheck serve` without --supervised")
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields() // parent and worker are the same binary
	if err := dec.Decode(v); err != nil {
		// The text of the error could quote the configuration, which is secret.
		return nil, errors.New("the configuration on standard input is not of this version of coatcheck")
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, br)
	}()
	return gone, nil
}

// Send writes r to w, the worker's standard output.
func Send(w io.Writer, r Report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Parse reads the line that [Send] wrote.
func Parse(line string) (Report, error) {
	var r Report
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return Report{}, err
	}
	if r.URL == "" && r.Error == "" {
		return Report{}, errors.New("neither an address nor an error")
	}
	return r, nil
}
