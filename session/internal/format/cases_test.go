package format

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/coatcheck/coatcheck/internal/formatcheck"
)

// caseID returns the ID whose bytes count up from first.
func caseID(first byte) (id formatcheck.ID) {
	for i := range id {
		id[i] = first + byte(i)
	}
	return id
}

var caseNonce = [nonceSize]byte{0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xcb}

// vectorCases makes all vectors anew.
func vectorCases() formatcheck.Vectors {
	return formatcheck.Vectors{
		IDs: idCases(), BadIDs: badIDCases(), Seen: seenCases(), BadSeen: badSeenCases(), Records: recordCases(), Refused: refusedCases(), Flashes: flashCases(),
	}
}

func idCases() (cases []formatcheck.IDVector) {
	for _, id := range []formatcheck.ID{
		{},
		caseID(0),
		caseID(0x80),
		formatcheck.ID(bytes.Repeat([]byte{0xff}, IDSize)),
		formatcheck.ID(bytes.Repeat([]byte{0xfb, 0xef, 0xbe, 0xff}, IDSize/4)), // - and _
	} {
		key := id.Key()
		cases = append(cases, formatcheck.IDVector{ID: id[:], Text: id.Text(), Key: key[:], SealingKey: id.SealingKey()})
	}
	return cases
}

func badIDCases() []string {
	text := caseID(0).Text()
	return []string{
		"",
		text[:42],
		text + "A",
		text + "=",
		text[:42] + "=",
		text[:42] + "9", // the lower spare bit
		text[:42] + "-", // the upper one
		text[:42] + "_", // both
		"+" + text[1:],  // the other base64
		"/" + text[1:],
		" " + text[1:],
		text[:42] + "\n",
		text[:21] + "\r\n" + text[23:],
		text + "\n",
		text[:42] + "%",
		text[:41] + "é",
		strings.Repeat("A", 42) + "\x00",
	}
}

// stored returns what a store keeps of a session, without data.
func stored(id formatcheck.ID, owner string) formatcheck.StoredVector {
	return formatcheck.StoredVector{
		ID: id[:], Owner: []byte(owner), Created: 1767225600123, // 2026-01-01T00:00:00.123Z
		Handle: []byte("\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf"),
	}
}

// recordCase is a record that opens: payload, or what is not written like that.
type recordCase struct {
	name     string
	id       formatcheck.ID
	owner    string
	created  int64
	unsealed bool
	payload  formatcheck.Payload
	odd      []byte
	data     func(sealed []byte) []byte // an envelope that is not written like that
}

func attrs(namesAndValues ...string) (list []formatcheck.Attr) {
	for pair := range slices.Chunk(namesAndValues, 2) {
		list = append(list, formatcheck.Attr{Name: []byte(pair[0]), Value: []byte(pair[1])})
	}
	return list
}

func recordCases() (cases []formatcheck.RecordVector) {
	const hour = 3600_000
	signedIn := formatcheck.Payload{
		Attrs:    attrs("cart", `{"apple":2}`, "theme", `"dark"`),
		SignedIn: true, SignedInAt: 1767225600123, Methods: [][]byte{[]byte("password"), []byte("otp")}, IdleTimeout: hour,
	}
	for i, c := range []recordCase{
		{name: "empty payload"},
		{name: "minimal", payload: formatcheck.Payload{Attrs: attrs("n", "1"), IdleTimeout: hour}},
		{name: "several attributes, one of them empty", payload: formatcheck.Payload{
			Attrs: attrs("cart", `{"apple":2,"pear":1}`, "empty", "", "größe", `"XL"`, "", "\x00\xff"), IdleTimeout: hour,
		}},
		{name: "signed in", id: caseID(0x20), owner: "alice", payload: signedIn},
		{name: "owner in UTF-8", id: caseID(0x40), owner: "žofie@例え.example", payload: signedIn},
		{name: "owner that is not UTF-8", id: caseID(0x60), owner: "\x00\xff\xfe owner", payload: signedIn},
		{name: "longest owner", id: caseID(0x80), owner: strings.Repeat("o", 255), payload: signedIn},
		{name: "began before 1970", created: -1, payload: formatcheck.Payload{
			SignedIn: true, SignedInAt: -1, IdleTimeout: 1,
		}},
		{name: "longest idle timeout", payload: formatcheck.Payload{IdleTimeout: 9223372036854}},
		{name: "signed in at 0", payload: formatcheck.Payload{SignedIn: true}},
		{name: "empty method", payload: formatcheck.Payload{SignedIn: true, SignedInAt: 1, Methods: [][]byte{{}}}},
		{name: "unknown fields", payload: formatcheck.Payload{
			Attrs: attrs("n", "1"), IdleTimeout: hour,
			Unknown: []byte("\x4a\x03new\x50\x96\x01\x59\x01\x02\x03\x04\x05\x06\x07\x08\x65\x01\x02\x03\x04\x4a\x00"),
		}},
		{name: "unsealed", unsealed: true, owner: "alice", payload: signedIn},
		{name: "unsealed and empty", unsealed: true},
		{
			name: "fields in another order and twice",
			odd: slices.Concat([]byte("\x20\x01\x1a\x01x\x10\x02\x4a\x01u"), entry("\x12\x011\x0a\x01b"), entry("\x0a\x01a\x12\x012"),
				[]byte("\x20\x80\xdd\xdb\x01\x10\x03\x1a\x01y")),
		},
		{
			name: "names twice: the last counts, in the place of the first",
			odd:  slices.Concat(entry("\x0a\x01a\x12\x011"), entry("\x0a\x01b\x12\x012"), entry("\x0a\x01a\x12\x013\x12\x014")),
		},
		{name: "entries without name or value", odd: slices.Concat(entry(""), entry("\x0a\x01a"), entry("\x12\x01v"))},
		{name: "known numbers with other wire types are unknown", odd: []byte("\x08\x05\x12\x01x\x18\x07\x22\x00\x0d\x01\x02\x03\x04")},
		{name: "varints that are not the shortest", odd: []byte("\x90\x00\x85\x00\x20\x81\x80\x80\x80\x80\x80\x80\x80\x80\x00\x8a\x80\x00\x85\x80\x00\x0a\x80\x00\x12\x00")},
		{
			name: "empty key_id, and a nonce beside sealed", payload: formatcheck.Payload{Attrs: attrs("n", "1")},
			data: func(sealed []byte) []byte {
				return slices.Concat([]byte("\x01\x0a\x00\x22\x01n"), sealed[1:])
			},
		},
	} {
		id := c.id
		if id == (formatcheck.ID{}) {
			id = caseID(0)
		}
		v := formatcheck.RecordVector{Name: c.name, StoredVector: stored(id, c.owner), Unsealed: c.unsealed, Plain: c.odd}
		if c.created != 0 {
			v.Created = c.created
		}
		if c.odd == nil {
			v.Plain = c.payload.Encode()
		}
		nonce := caseNonce
		nonce[0] = byte(i)
		v.Nonce = nonce[:]
		_, rec := v.Decode()
		v.AdditionalData = formatcheck.AdditionalData(id, rec)
		if c.unsealed {
			v.Data = formatcheck.Unsealed(nonce, v.Plain)
		} else {
			v.Data = formatcheck.Seal(id, rec, nonce, v.Plain)
		}
		if c.data != nil {
			v.Data, v.Nonce = c.data(v.Data), nil
		}
		p, err := formatcheck.ParsePayload(v.Plain)
		if err != nil {
			panic(c.name + ": " + err.Error())
		}
		v.Payload = formatcheck.Describe(p)
		if again := p.Encode(); !bytes.Equal(again, v.Plain) {
			v.Rewritten = again
		}
		cases = append(cases, v)
	}
	return cases
}

// entry returns an attribute of a payload, given what is in it.
func entry(content string) []byte {
	return slices.Concat([]byte{0x0a}, appendUvarint(len(content)), []byte(content))
}

func appendUvarint(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

// refusedCases break one part each of a record that opens.
func refusedCases() (cases []formatcheck.RefusedVector) {
	id := caseID(0)
	plain := formatcheck.Payload{Attrs: attrs("n", "1")}.Encode()
	seal := func(plain []byte) []byte {
		_, rec := stored(id, "alice").Decode()
		return formatcheck.Seal(id, rec, caseNonce, plain)
	}
	good := seal(plain)
	const head = 3 // version, tag and length
	add := func(want, name string, change func(*formatcheck.StoredVector)) {
		v := stored(id, "alice")
		v.Data = slices.Clone(good)
		change(&v)
		cases = append(cases, formatcheck.RefusedVector{Name: name, Want: want, StoredVector: v})
	}
	data := func(want, name string, b []byte) {
		add(want, name, func(v *formatcheck.StoredVector) { v.Data = b })
	}
	flip := func(name string, at int, bit byte) {
		add("damaged", name, func(v *formatcheck.StoredVector) { v.Data[at] ^= bit })
	}
	sealed := good[1:]
	unsealed := formatcheck.Unsealed(caseNonce, plain)

	data("newer", "version 0", slices.Concat([]byte{0}, sealed))
	data("newer", "version 2", slices.Concat([]byte{2}, sealed))
	data("newer", "version 255 and nothing else", []byte{255})
	data("newer", "key_id", slices.Concat([]byte("\x01\x0a\x01k"), sealed))
	data("newer", "key_id after sealed", slices.Concat(good, []byte("\x0a\x01k")))
	data("newer", "key_id before damage", []byte("\x01\x0a\x01k\x12\x7f"))
	data("unsealed", "unsealed where that is not accepted", unsealed)

	add("damaged", "another ID", func(v *formatcheck.StoredVector) { v.ID = slices.Clone(v.ID); v.ID[31] ^= 1 })
	add("damaged", "another handle", func(v *formatcheck.StoredVector) { v.Handle[0] ^= 1 })
	add("damaged", "another owner", func(v *formatcheck.StoredVector) { v.Owner = []byte("alicf") })
	add("damaged", "a longer owner", func(v *formatcheck.StoredVector) { v.Owner = []byte("alice\x00") })
	add("damaged", "no owner", func(v *formatcheck.StoredVector) { v.Owner = nil })
	add("damaged", "created a millisecond later", func(v *formatcheck.StoredVector) { v.Created++ })
	flip("a bit of the nonce", head, 1)
	flip("a bit of the ciphertext", head+nonceSize, 0x80)
	flip("the first bit of the tag", len(good)-tagSize, 1)
	flip("the last bit of the tag", len(good)-1, 0x80)

	data("damaged", "no data", nil)
	data("damaged", "no fields", []byte{1})
	data("damaged", "cut by a byte", good[:len(good)-1])
	data("damaged", "cut within a tag", slices.Concat(good, []byte{0x80}))
	data("damaged", "field 0", slices.Concat(good, []byte("\x02\x00")))
	data("damaged", "field 5", slices.Concat(good, []byte("\x2a\x00")))
	data("damaged", "sealed as a varint", slices.Concat(good, []byte("\x10\x00")))
	data("damaged", "key_id alone, and empty", []byte("\x01\x0a\x00"))
	data("damaged", "both sealed and plain", slices.Concat(good, unsealed[1:]))
	data("damaged", "sealed empty beside plain", slices.Concat(unsealed, []byte("\x12\x00")))
	data("damaged", "sealed of 27 bytes", slices.Concat([]byte("\x01\x12\x1b"), good[head:head+27]))
	data("damaged", "sealed of 28 bytes", slices.Concat([]byte("\x01\x12\x1c"), good[head:head+28]))
	data("damaged", "a length over 64 bits", []byte("\x01\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"))

	for _, c := range []struct{ name, plain string }{
		{"cut within a tag", "\x80"},
		{"cut within a field", "\x0a\x06\x0a\x01n"},
		{"field 0", "\x02\x00"},
		{"wire type 7", "\x4f"},
		{"varint over 64 bits", "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"},
		{"varint over 10 bytes", "\x10\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"},
		{"fixed64 cut", "\x49\x01\x02\x03"},
		{"entry with a third field", string(entry("\x0a\x01n\x1a\x00"))},
		{"entry with a varint for a name", string(entry("\x08\x01"))},
		{"entry with a varint for a name, which would do as a length", string(entry("\x08\x00"))},
		{"entry cut", string(entry("\x0a\x02n"))},
		{"damage after an attribute", string(entry("\x0a\x01n")) + "\x12"},
		{"idle timeout too long", string(formatcheck.Payload{IdleTimeout: 9223372036855}.Encode())},
		{"negative idle timeout", string(formatcheck.Payload{IdleTimeout: -1}.Encode())},
	} {
		data("damaged", "payload: "+c.name, seal([]byte(c.plain)))
	}
	return cases
}

func flashCases() (cases []formatcheck.FlashVector) {
	item := func(id, value string) []byte {
		return slices.Concat([]byte{0x0a}, appendUvarint(len(id+value)), []byte(id+value))
	}
	for _, c := range []struct {
		name  string
		value []byte
	}{
		{"one item", item("itemno01", `"Saved."`)},
		{"two items, one of them empty", slices.Concat(item("itemno01", ""), item("\x00\x01\x02\x03\xfc\xfd\xfe\xff", `"Added."`))},
		{"a field that is no item, and an item that is too short", slices.Concat(
			[]byte("\x10\x05\x08\x01"), item("itemno0", ""), item("itemno01", `"Saved."`), []byte("\x12\x01x"),
		)},
		{"cut", slices.Concat(item("itemno01", `"Saved."`), item("itemno02", `"Added."`)[:12])},
		{"nothing but damage", []byte{0xff}},
	} {
		v := formatcheck.FlashVector{Name: c.name, Value: c.value, Items: []formatcheck.FlashItemVector{}}
		for _, i := range formatcheck.ParseFlash(c.value) {
			v.Items = append(v.Items, formatcheck.FlashItemVector{ID: i.ID[:], Value: i.Value})
		}
		cases = append(cases, v)
	}
	return cases
}
