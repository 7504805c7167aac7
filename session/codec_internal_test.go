package session

import (
	"encoding/json"
	"testing"
)

// Strings decode as encoding/json decodes them, however they are written.
func FuzzDecodeString(f *testing.F) {
	for _, text := range []string{
		`""`, `"a"`, `"Alice Doe"`, `"a\"b"`, `"\u00e9"`, `"é"`, "\"\xff\"", "\"\x7f\"", "\"\t\"", `"a"b"`, `"a\"`, `"`, ``,
		` "a" `, `null`, `1`, `"a" "b"`, `"\`, `"\"`, `"</script>"`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var want string
		wantErr := json.Unmarshal(b, &want)
		got, err := jsonCodec[string]{}.Decode(b)
		if got != want || (err == nil) != (wantErr == nil) {
			t.Errorf("Decode(%q) = %q, %v; encoding/json says %q, %v", b, got, err, want, wantErr)
		}
	})
}
