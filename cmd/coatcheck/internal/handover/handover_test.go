package handover_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/handover"
)

type config struct{ Name, Secret string }

func TestConfigurationArrivesAndTheEndIsNoticed(t *testing.T) {
	r, w := io.Pipe()
	line, err := handover.Marshal(config{"worker-1", "a\nsecret"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = w.Write(line) }()
	var got config
	gone, err := handover.Receive(r, &got)
	if err != nil {
		t.Fatal(err)
	}
	if want := (config{"worker-1", "a\nsecret"}); got != want {
		t.Errorf("received %+v, want %+v", got, want)
	}
	select {
	case <-gone:
		t.Error("the parent is said to be gone while its pipe is open")
	default:
	}
	w.Close()
	<-gone
}

func TestReceiveRefusesWithoutRepeatingWhatItGot(t *testing.T) {
	for _, in := range []string{"", `{"Secret":"hunter2"}`, `{"Secret":"hunter2"` + "\n", `{"Secret":"hunter2","Other":1}` + "\n", `{"Secret":["hunter2"]}` + "\n"} {
		var c config
		_, err := handover.Receive(strings.NewReader(in), &c)
		if err == nil {
			t.Errorf("received %q without an error", in)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
}

func TestParseTakesNothingButReports(t *testing.T) {
	for _, in := range []string{"", "hello", "{}", `{"url":""}`, `[1]`} {
		if r, err := handover.Parse(in); err == nil {
			t.Errorf("Parse(%q) = %+v, want an error", in, r)
		}
	}
}

func Example() {
	// The parent:
	line, _ := handover.Marshal(map[string]string{"Name": "worker-1"})
	stdin := bytes.NewReader(line)

	// The worker:
	var c config
	gone, _ := handover.Receive(stdin, &c)
	var stdout bytes.Buffer
	_ = handover.Send(&stdout, handover.Report{URL: "http://127.0.0.1:4001"})

	// The parent again:
	r, _ := handover.Parse(stdout.String())
	fmt.Println(c.Name, "serves at", r.URL)
	<-gone // here the pipe had nothing more in it
	// Output: worker-1 serves at http://127.0.0.1:4001
}
