package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	for _, tc := range []struct {
		name   string
		stream string
		want   []string
		absent []string
		ok     bool
	}{
		{
			name: "a package that passes shows its closing line alone",
			stream: `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}`,
			want:   []string{"ok  \tp\t0.1s\n", "1 tests passed, 0 skipped, 0 failed"},
			absent: []string{"chatter", "RUN", "PASS\n"},
			ok:     true,
		},
		{
			name: "a skipped test shows its reason",
			stream: `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: no server\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}`,
			want: []string{"skipped TestA: a_test.go:3: no server\n", "1 tests passed, 1 skipped, 0 failed"},
			ok:   true,
		},
		{
			name: "a failure shows its own output and not that of what passed",
			stream: `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: fine\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    a_test.go:9: broken\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}`,
			want:   []string{"a_test.go:9: broken\n", "FAIL\tp\t0.1s\n", "1 tests passed, 0 skipped, 1 failed"},
			absent: []string{"fine"},
		},
		{
			name: "a build that fails is a failure with the compiler's words",
			stream: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"p.go:1: undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p"}`,
			want: []string{"undefined: x\n", "FAIL\tp [build failed]\n", "0 skipped, 1 failed"},
		},
		{
			name: "a package that never ends is a failure with what it said",
			stream: `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"last words\n"}`,
			want: []string{"last words\n", "ended without a result"},
		},
		{
			name:   "what is not JSON is passed on",
			stream: "go: no such module\n",
			want:   []string{"go: no such module\n", "0 tests passed"},
		},
		{
			name:   "no tests at all prove nothing",
			stream: "",
			want:   []string{"0 tests passed"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(tc.stream)); err != nil {
				t.Fatal(err)
			}
			if ok := r.close(); ok != tc.ok {
				t.Errorf("close() = %t, want %t", ok, tc.ok)
			}
			for _, s := range tc.want {
				if !strings.Contains(out.String(), s) {
					t.Errorf("output lacks %q:\n%s", s, out.String())
				}
			}
			for _, s := range tc.absent {
				if strings.Contains(out.String(), s) {
					t.Errorf("output holds %q:\n%s", s, out.String())
				}
			}
		})
	}
}
