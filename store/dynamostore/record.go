package dynamostore

import (
	"crypto/sha256"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/coatcheck/coatcheck/store"
)

// Attributes. Their names are short, for each write costs by the kilobyte, names
// included. They never change: what one version has stored the next one reads.
const (
	attrKey    = "k" // B, the partition: a record's key, or the hash of an owner
	attrSort   = "s" // B, the sort key: recordSort, or the key of an owner's record
	attrTTL    = "t" // N, seconds: when DynamoDB may collect the item
	attrNonce  = "e" // B, the same in a record and in its entry; see owner.go
	attrHandle = "h" // B

	// Of records alone.
	attrVersion  = "v" // B, 8 bytes: compared for equality only
	attrOwner    = "o" // B; none without an owner
	attrCreated  = "c" // N, milliseconds
	attrDeadline = "d" // N, milliseconds
	attrExpires  = "x" // N, milliseconds
	attrNext     = "n" // B; of markers alone
	attrLabel    = "l" // B; none if empty
	attrData     = "p" // B; none if empty
)

// recordSort is the sort key of records. Those of entries have 32 bytes.
var recordSort = []byte{'r'}

const nonceSize = 8

type item = map[string]types.AttributeValue

func bytesValue(b []byte) types.AttributeValue { return &types.AttributeValueMemberB{Value: b} }

func numberValue(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

func millisValue(t time.Time) types.AttributeValue { return numberValue(t.UnixMilli()) }

func versionValue(v uint64) types.AttributeValue {
	return bytesValue([]byte{
		byte(v >> 56), byte(v >> 48), byte(v >> 40), byte(v >> 32),
		byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v),
	})
}

// ttlValue is the second after which DynamoDB may collect what ends at t.
func ttlValue(t time.Time) types.AttributeValue {
	return numberValue(t.Add(grace).Unix() + 1)
}

// recordKey returns the primary key of k's record.
func recordKey(k store.Key) item {
	return item{attrKey: bytesValue(k[:]), attrSort: bytesValue(recordSort)}
}

// ownerHash returns the partition of owner's entries.
func ownerHash(owner string) []byte {
	sum := sha256.Sum256([]byte("coatcheck owner\x00" + owner))
	return sum[:]
}

// entryKey returns the primary key of the entry for k of owner's.
func entryKey(owner string, k store.Key) item {
	return item{attrKey: bytesValue(ownerHash(owner)), attrSort: bytesValue(k[:])}
}

// encode returns the item of r under k. nonce is that of its entry, if it has an
// owner.
func encode(k store.Key, r store.Record, nonce []byte) item {
	it := recordKey(k)
	it[attrVersion] = versionValue(r.Version)
	it[attrHandle] = bytesValue(r.Handle[:])
	it[attrCreated] = millisValue(r.Created)
	it[attrDeadline] = millisValue(r.Deadline)
	it[attrExpires] = millisValue(r.Expires)
	it[attrTTL] = ttlValue(r.Expires)
	if r.Owner != "" {
		it[attrOwner] = bytesValue([]byte(r.Owner))
		it[attrNonce] = bytesValue(nonce)
	}
	if r.IsMarker() {
		it[attrNext] = bytesValue(r.Next[:])
	}
	if len(r.Label) > 0 {
		it[attrLabel] = bytesValue(r.Label)
	}
	if len(r.Data) > 0 {
		it[attrData] = bytesValue(r.Data)
	}
	return it
}

// encodeEntry returns the item that leads from r's owner to k.
func encodeEntry(k store.Key, r store.Record, nonce []byte) item {
	it := entryKey(r.Owner, k)
	it[attrNonce] = bytesValue(nonce)
	it[attrHandle] = bytesValue(r.Handle[:])
	it[attrTTL] = ttlValue(r.Deadline)
	return it
}

// decode returns the record of an item, and whether it is one. The record shares
// its bytes with the item.
func decode(it item) (r store.Record, ok bool) {
	version, ok1 := sized(it, attrVersion, 8)
	handle, ok2 := sized(it, attrHandle, len(r.Handle))
	created, ok3 := number(it, attrCreated)
	deadline, ok4 := number(it, attrDeadline)
	expires, ok5 := number(it, attrExpires)
	owner, ok6 := optional(it, attrOwner, store.MaxOwner)
	label, ok7 := optional(it, attrLabel, store.MaxLabel)
	data, ok8 := optional(it, attrData, maxItem)
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7 && ok8) {
		return store.Record{}, false
	}
	if owner != nil {
		if _, ok := sized(it, attrNonce, nonceSize); !ok {
			return store.Record{}, false
		}
	}
	if _, marker := it[attrNext]; marker {
		next, ok := sized(it, attrNext, len(r.Next))
		if !ok {
			return store.Record{}, false
		}
		copy(r.Next[:], next)
		if r.Next.IsZero() {
			return store.Record{}, false
		}
	}
	for _, b := range version {
		r.Version = r.Version<<8 | uint64(b)
	}
	copy(r.Handle[:], handle)
	r.Owner = string(owner)
	r.Created = time.UnixMilli(created).UTC()
	r.Deadline = time.UnixMilli(deadline).UTC()
	r.Expires = time.UnixMilli(expires).UTC()
	r.Label, r.Data = label, data
	return r, true
}

func binary(it item, name string) ([]byte, bool) {
	v, ok := it[name].(*types.AttributeValueMemberB)
	if !ok {
		return nil, false
	}
	return v.Value, true
}

// sized returns an attribute of exactly n bytes.
func sized(it item, name string, n int) ([]byte, bool) {
	b, ok := binary(it, name)
	return b, ok && len(b) == n
}

// optional returns an attribute that may be absent, but not empty.
func optional(it item, name string, limit int) ([]byte, bool) {
	if _, ok := it[name]; !ok {
		return nil, true
	}
	b, ok := binary(it, name)
	return b, ok && len(b) > 0 && len(b) <= limit
}

func number(it item, name string) (int64, bool) {
	v, ok := it[name].(*types.AttributeValueMemberN)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(v.Value, 10, 64)
	return n, err == nil
}
