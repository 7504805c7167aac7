package session_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/coatcheck/coatcheck/session"
)

type basket struct {
	Items map[string]int `json:"items"`
	Notes []string       `json:"notes,omitempty"`
}

// celsius is stored by a codec of its own, as 8 bytes.
type celsius float64

type celsiusCodec struct{}

func (celsiusCodec) Encode(c celsius) ([]byte, error) {
	if c < -273.15 {
		return nil, errTooCold
	}
	return binary.Append(nil, binary.BigEndian, c)
}

func (celsiusCodec) Decode(b []byte) (c celsius, err error) {
	_, err = binary.Decode(b, binary.BigEndian, &c)
	return c, err
}

// roundTrip stores v in one request and returns what the next one gets.
func roundTrip[T any](t *testing.T, a session.Attr[T], v T) T {
	t.Helper()
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) {
		check(t, a.Set(s, v))
		if now := must(a.Get(s))(t); !same(now, v) {
			t.Errorf("the request that set %v sees %v", v, now)
		}
	})
	var got T
	b.do(m, func(s *session.Session) { got = must(a.Get(s))(t) })
	return got
}

func same(a, b any) bool {
	if m, ok := a.(proto.Message); ok {
		return proto.Equal(m, b.(proto.Message))
	}
	return reflect.DeepEqual(a, b)
}

func checkRoundTrip[T any](t *testing.T, vs ...T) {
	t.Helper()
	for _, v := range vs {
		if got := roundTrip(t, session.NewAttr[T]("value"), v); !same(got, v) {
			t.Errorf("%T: %v came back as %v", v, v, got)
		}
	}
}

func TestCodecRoundTrip(t *testing.T) {
	checkRoundTrip(t, 0, -1, 1<<62)
	checkRoundTrip(t, "", "a", "\u2028 <&> é\x00")
	checkRoundTrip(t, true, false)
	checkRoundTrip(t, []byte(nil), []byte{0, 255})
	checkRoundTrip(t, basket{}, basket{Items: map[string]int{"apple": 2}, Notes: []string{"ripe"}})
	checkRoundTrip(t, &basket{Items: map[string]int{"pear": 1}})
	checkRoundTrip(t, map[string]any{"a": 1.5, "b": nil})
	checkRoundTrip(t, json.RawMessage(`{"kept":"as it is"}`))
	checkRoundTrip(t, wrapperspb.String("hello"), wrapperspb.String(""), &wrapperspb.StringValue{})
	checkRoundTrip(t, must(structpb.NewStruct(map[string]any{"apple": 2, "list": []any{true, nil, "x"}}))(t))
	got := roundTrip(t, session.NewAttrCodec("value", celsiusCodec{}), 36.6)
	if got != 36.6 {
		t.Errorf("the own codec made %v of 36.6", got)
	}
}

// What is not there is the zero value and no error, for every codec.
func TestCodecAbsent(t *testing.T) {
	newBrowser(t).do(newManager(t, newCalls(), nil), func(s *session.Session) {
		if v, err := session.NewAttr[basket]("none").Get(s); err != nil || v.Items != nil {
			t.Errorf("JSON: %v, %v", v, err)
		}
		if v, err := session.NewAttr[*wrapperspb.StringValue]("none").Get(s); err != nil || v.GetValue() != "" {
			t.Errorf("Protobuf: %v, %v", v, err)
		}
		if v, err := session.NewAttrCodec("none", celsiusCodec{}).Get(s); err != nil || v != 0 {
			t.Errorf("own codec: %v, %v", v, err)
		}
	})
}

var errTooCold = errors.New("below absolute zero")

// A value that does not encode changes nothing, and the error names the
// attribute and not the value.
func TestCodecEncodeError(t *testing.T) {
	temperature := session.NewAttrCodec("temperature", celsiusCodec{})
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, temperature.Set(s, 20)) })
	b.do(m, func(s *session.Session) {
		for what, err := range map[string]error{
			"Set":    temperature.Set(s, -300),
			"Update": temperature.Update(s, func(celsius) (celsius, error) { return -300, nil }),
			"JSON":   session.NewAttr[any]("any").Set(s, func() {}),
		} {
			if err == nil || strings.Contains(err.Error(), "-300") {
				t.Errorf("%s of what does not encode: %v", what, err)
			}
		}
		if err := temperature.Set(s, -300); !strings.Contains(err.Error(), `"temperature"`) || !errors.Is(err, errTooCold) {
			t.Errorf("the error does not name the attribute, or does not wrap the codec's: %v", err)
		}
	})
	b.do(m, func(s *session.Session) {
		if got := must(temperature.Get(s))(t); got != 20 {
			t.Errorf("a refused value changed 20 to %v", got)
		}
	})
}

// Nothing that a handler does to a value in place reaches the session, nor
// another Get.
func TestGetIsFresh(t *testing.T) {
	jsonAttr := session.NewAttr[basket]("basket")
	protoAttr := session.NewAttr[*structpb.ListValue]("list")
	bytesAttr := session.NewAttrCodec("bytes", bytesCodec{})
	m := newManager(t, newCalls(), nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) {
		v := basket{Items: map[string]int{"apple": 1}}
		check(t, jsonAttr.Set(s, v))
		v.Items["apple"] = 99
		l := must(structpb.NewList([]any{"a"}))(t)
		check(t, protoAttr.Set(s, l))
		l.Values[0] = structpb.NewStringValue("z")
		raw := []byte("abc")
		check(t, bytesAttr.Set(s, raw))
		raw[0] = 'z'
	})
	for range 2 { // as this request sees them, then as the next one does
		b.do(m, func(s *session.Session) {
			for range 2 {
				v, l, raw := must(jsonAttr.Get(s))(t), must(protoAttr.Get(s))(t), must(bytesAttr.Get(s))(t)
				if v.Items["apple"] != 1 || l.Values[0].GetStringValue() != "a" || string(raw) != "abc" {
					t.Errorf("a change in place was seen by another Get: %v, %v, %s", v, l, raw)
				}
				v.Items["apple"] = 99
				l.Values[0] = structpb.NewStringValue("z")
				raw[0] = 'z'
			}
			check(t, count.Update(s, add(1))) // so that it commits
		})
	}
}

// bytesCodec copies, as Codec asks.
type bytesCodec struct{}

func (bytesCodec) Encode(b []byte) ([]byte, error) { return bytes.Clone(b), nil }
func (bytesCodec) Decode(b []byte) ([]byte, error) { return bytes.Clone(b), nil }

// A value that does not decode spoils its attribute alone; the error names it
// and holds nothing of the value; Set and Delete get rid of it.
func TestDecodeError(t *testing.T) {
	const secret = "hunter2"
	asText := session.NewAttr[string]("settings")
	for name, get := range map[string]func(*session.Session) error{
		"JSON": func(s *session.Session) error { _, err := session.NewAttr[int]("settings").Get(s); return err },
		"JSON struct": func(s *session.Session) error {
			_, err := session.NewAttr[basket]("settings").Get(s)
			return err
		},
		"Protobuf": func(s *session.Session) error {
			_, err := session.NewAttr[*structpb.Struct]("settings").Get(s)
			return err
		},
		"own codec": func(s *session.Session) error {
			_, err := session.NewAttrCodec("settings", quotingCodec{}).Get(s)
			return err
		},
		"Update": func(s *session.Session) error {
			return session.NewAttr[int]("settings").Update(s, add(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, newCalls(), nil)
			b := newBrowser(t)
			b.do(m, func(s *session.Session) {
				check(t, errors.Join(asText.Set(s, secret), count.Set(s, 1), s.SignIn(t.Context(), "alice", nil)))
			})
			resp := b.do(m, func(s *session.Session) {
				err := get(s)
				var decode *session.DecodeError
				if !errors.Is(err, session.ErrDecode) || !errors.As(err, &decode) || decode.Attr != "settings" || decode.Err == nil {
					t.Fatalf("Get returned %#v", err)
				}
				for _, verb := range []string{"%v", "%+v", "%s", "%q"} {
					if text := fmt.Sprintf(verb, err); strings.Contains(text, secret) {
						t.Errorf("the error printed with %s holds the value: %s", verb, text)
					}
				}
				if !strings.Contains(err.Error(), "settings") {
					t.Errorf("the error does not name the attribute: %v", err)
				}
				if s.Owner() != "alice" || must(count.Get(s))(t) != 1 {
					t.Error("the rest of the session is gone")
				}
				check(t, count.Update(s, add(1))) // the session is as usable as before
			})
			if resp.StatusCode != http.StatusOK {
				t.Errorf("status %d", resp.StatusCode)
			}
			if owner, n := b.look(m); owner != "alice" || n != 2 {
				t.Errorf("the next request finds %q, %d", owner, n)
			}
			b.do(m, func(s *session.Session) {
				if got := must(asText.Get(s))(t); got != secret {
					t.Errorf("the old program's value became %q", got)
				}
			})
		})
	}
	t.Run("Set and Delete", func(t *testing.T) {
		asInt := session.NewAttr[int]("settings")
		m := newManager(t, newCalls(), nil)
		for name, rid := range map[string]func(*session.Session) error{
			"Set":    func(s *session.Session) error { return asInt.Set(s, 0) },
			"Delete": func(s *session.Session) error { asInt.Delete(s); return nil },
		} {
			b := newBrowser(t)
			b.do(m, func(s *session.Session) { check(t, asText.Set(s, secret)) })
			b.do(m, func(s *session.Session) { check(t, rid(s)) })
			b.do(m, func(s *session.Session) {
				if v, err := asInt.Get(s); v != 0 || err != nil {
					t.Errorf("after %s, Get returns %d, %v", name, v, err)
				}
			})
		}
	})
}

// quotingCodec fails as json does for some values: with the value in the error.
type quotingCodec struct{}

func (quotingCodec) Encode(s string) ([]byte, error) { return []byte(s), nil }
func (quotingCodec) Decode(b []byte) (string, error) { return "", fmt.Errorf("cannot decode %q", b) }

// A program keeps the attributes that it does not know byte for byte, so two
// versions of an app share sessions through a rolling deploy.
func TestVersionsShareSessions(t *testing.T) {
	// The old program's type writes what the new one's would write otherwise:
	// spaces, an order, a field that the new one has dropped.
	const raw = "{ \"z\": 1.0,\n \"a\" : [ ] , \"dropped\":\"x\"}"
	oldOnly := session.NewAttrCodec("prefs", bytesCodec{})
	newOnly := session.NewAttr[*structpb.Value]("features")
	oldNotice := session.NewFlash[string]("notices")

	st := newCalls()
	oldApp, newApp := newManager(t, st, nil), newManager(t, st, nil)
	b := newBrowser(t)
	b.do(oldApp, func(s *session.Session) {
		check(t, errors.Join(oldOnly.Set(s, []byte(raw)), count.Set(s, 1), oldNotice.Add(s, "hello")))
	})
	// The new program changes, signs in and renews without knowing "prefs".
	b.do(newApp, func(s *session.Session) {
		check(t, errors.Join(count.Update(s, add(1)), newOnly.Set(s, structpb.NewStringValue("on"))))
	})
	b.do(newApp, func(s *session.Session) { check(t, s.SignIn(t.Context(), "alice", nil)) })
	b.do(newApp, func(s *session.Session) { check(t, s.Renew(t.Context())) })
	// A conflict replays the journal on values that it does not know.
	b.do(newApp, func(s *session.Session) {
		b.same().do(oldApp, func(s *session.Session) { check(t, count.Update(s, add(1))) })
		check(t, count.Update(s, add(1)))
	})
	b.do(oldApp, func(s *session.Session) {
		if got := string(must(oldOnly.Get(s))(t)); got != raw {
			t.Errorf("the bytes of an attribute unknown to the new program changed:\n got %q\nwant %q", got, raw)
		}
		if got := must(count.Get(s))(t); got != 4 {
			t.Errorf("count is %d, want 4", got)
		}
		if got := must(oldNotice.Pop(s))(t); !slices.Equal(got, []string{"hello"}) {
			t.Errorf("the flash is %q", got)
		}
		check(t, count.Update(s, add(1)))
	})
	b.do(newApp, func(s *session.Session) {
		if got := must(newOnly.Get(s))(t).GetStringValue(); got != "on" {
			t.Errorf("the new program's own attribute is %q after the old one's commit", got)
		}
	})
}

// What is stored is the format's own encoding, which other programs may rely on.
func TestCodecBytes(t *testing.T) {
	raw := session.NewAttrCodec("value", bytesCodec{})
	newBrowser(t).do(newManager(t, newCalls(), nil), func(s *session.Session) {
		check(t, session.NewAttr[*wrapperspb.StringValue]("value").Set(s, wrapperspb.String("hi")))
		if got := must(raw.Get(s))(t); string(got) != "\x0a\x02hi" {
			t.Errorf("a message is stored as %q, want Protobuf", got)
		}
		check(t, session.NewAttr[basket]("value").Set(s, basket{Items: map[string]int{"b": 2, "a": 1}}))
		if got := must(raw.Get(s))(t); string(got) != `{"items":{"a":1,"b":2}}` {
			t.Errorf("a struct is stored as %s, want JSON", got)
		}
	})
}

// Equal messages are equal bytes, so setting one again writes nothing. Maps are
// what Protobuf shuffles.
func TestProtobufIsDeterministic(t *testing.T) {
	fields := map[string]any{}
	for i := range 40 {
		fields[fmt.Sprint("field", i)] = i
	}
	attr := session.NewAttr[*structpb.Struct]("struct")
	st := newCalls()
	m := newManager(t, st, nil)
	b := newBrowser(t)
	b.do(m, func(s *session.Session) { check(t, attr.Set(s, must(structpb.NewStruct(fields))(t))) })
	for range 20 {
		b.do(m, func(s *session.Session) { check(t, attr.Set(s, must(structpb.NewStruct(maps.Clone(fields)))(t))) })
	}
	if n := st.count("replace"); n > 0 {
		t.Errorf("setting an equal message was written %d times of 20, want 0", n)
	}
}

// Declarations that can only be mistakes fail when the program starts.
func TestNewAttrPanics(t *testing.T) {
	for name, declare := range map[string]func(){
		"NewAttr":                func() { session.NewAttr[int]("") },
		"NewAttrCodec":           func() { session.NewAttrCodec("", celsiusCodec{}) },
		"NewAttrCodec, no codec": func() { session.NewAttrCodec[int]("temperature", nil) },
		"NewFlash":               func() { session.NewFlash[int]("") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if p, _ := recover().(string); !strings.HasPrefix(p, "session: ") {
					t.Errorf("panicked with %q, want advice", p)
				}
			}()
			declare()
			t.Error("it did not panic")
		})
	}
	if got := session.NewAttr[int]("count").Name(); got != "count" {
		t.Errorf("Name is %q", got)
	}
}
