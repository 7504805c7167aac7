package formatcheck

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
)

// Vectors is the list of test vectors in docs/format.md.
type Vectors struct {
	IDs     []IDVector      `json:"ids"`
	BadIDs  []string        `json:"bad_ids"`
	Seen    []SeenVector    `json:"seen"`
	BadSeen []string        `json:"bad_seen"`
	Records []RecordVector  `json:"records"`
	Refused []RefusedVector `json:"refused"`
	Flashes []FlashVector   `json:"flashes"`
}

// IDVector is an ID and what follows from it.
type IDVector struct {
	ID         Hex    `json:"id"`
	Text       string `json:"text"`
	Key        Hex    `json:"key"`
	SealingKey Hex    `json:"sealing_key"`
}

// SeenVector is what the second cookie says of a session and a version.
type SeenVector struct {
	Key     Hex    `json:"key"`
	Version Hex    `json:"version"`
	Text    string `json:"text"`
}

// RecordVector is a record that opens.
type RecordVector struct {
	Name string `json:"name"`
	StoredVector
	Unsealed       bool          `json:"unsealed,omitempty"`
	Nonce          Hex           `json:"nonce,omitempty"` // missing if no writer writes the envelope so
	AdditionalData Hex           `json:"additional_data"`
	Plain          Hex           `json:"plain"`
	Payload        PayloadVector `json:"payload"`
	Rewritten      Hex           `json:"rewritten,omitempty"` // the payload as written back, if that differs from plain
}

// RefusedVector is a record that does not open: want is "newer", "unsealed" or
// "damaged".
type RefusedVector struct {
	Name string `json:"name"`
	Want string `json:"want"`
	StoredVector
}

// StoredVector is a session ID and the record found under its key.
type StoredVector struct {
	ID      Hex   `json:"id"`
	Handle  Hex   `json:"handle"`
	Owner   Hex   `json:"owner"`
	Created int64 `json:"created"`
	Data    Hex   `json:"data"`
}

// PayloadVector is a plaintext, decoded. Names and methods are text here.
type PayloadVector struct {
	Attrs       []AttrVector `json:"attrs,omitempty"`
	SignedInAt  *int64       `json:"signed_in_at,omitempty"`
	Methods     []string     `json:"methods,omitempty"`
	IdleTimeout int64        `json:"idle_timeout,omitempty"`
	Unknown     Hex          `json:"unknown,omitempty"`
}

// AttrVector is an attribute.
type AttrVector struct {
	Name  string `json:"name"`
	Value Hex    `json:"value"`
}

// FlashVector is the value of a flash attribute and the items in it.
type FlashVector struct {
	Name  string            `json:"name"`
	Value Hex               `json:"value"`
	Items []FlashItemVector `json:"items"`
}

// FlashItemVector is an item of a flash attribute.
type FlashItemVector struct {
	ID    Hex `json:"id"`
	Value Hex `json:"value"`
}

// Hex is bytes that JSON shows in hexadecimal.
type Hex []byte

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// Decode returns v as the decoder sees it.
func (v StoredVector) Decode() (ID, Record) {
	return ID(v.ID), Record{Handle: [16]byte(v.Handle), Owner: v.Owner, Created: v.Created, Data: v.Data}
}

// Describe returns p as a vector holds it.
func Describe(p Payload) PayloadVector {
	v := PayloadVector{IdleTimeout: p.IdleTimeout, Unknown: p.Unknown}
	for _, a := range p.Attrs {
		v.Attrs = append(v.Attrs, AttrVector{string(a.Name), a.Value})
	}
	if p.SignedIn {
		v.SignedInAt = &p.SignedInAt
	}
	for _, m := range p.Methods {
		v.Methods = append(v.Methods, string(m))
	}
	return v
}

// String returns v as JSON; equal payloads have equal strings.
func (v PayloadVector) String() string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it holds text and numbers
	}
	return string(b)
}

// What the vectors stand between in docs/format.md.
const (
	begin = "<!-- vectors: begin -->\n```json\n"
	end   = "```\n<!-- vectors: end -->\n"
)

// Cut splits the document around its vectors.
func Cut(document []byte) (before, vectors, after []byte, err error) {
	before, rest, ok := bytes.Cut(document, []byte(begin))
	vectors, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, nil, nil, errors.New("the document has no vectors between its two markers")
	}
	return append(before[:len(before):len(before)], begin...), vectors, append([]byte(end), after...), nil
}

// ParseVectors decodes the vectors, strictly.
func ParseVectors(b []byte) (v Vectors, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err = d.Decode(&v)
	return v, err
}
