package format

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/coatcheck/coatcheck/internal/formatcheck"
)

// payloadType is the message Payload of docs/format.md, as protoc would compile
// it.
func payloadType(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	type label = descriptorpb.FieldDescriptorProto_Label
	type kind = descriptorpb.FieldDescriptorProto_Type
	const (
		optional = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		repeated = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	)
	field := func(n int32, name string, l label, k kind) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{Number: new(n), Name: new(name), Label: new(l), Type: new(k)}
	}
	attrs := field(1, "attrs", repeated, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE)
	attrs.TypeName = new(".Payload.AttrsEntry")
	signedIn := field(2, "signed_in_at", optional, descriptorpb.FieldDescriptorProto_TYPE_INT64)
	signedIn.Proto3Optional, signedIn.OneofIndex = new(true), new(int32(0))
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("payload.proto"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: new("Payload"),
			Field: []*descriptorpb.FieldDescriptorProto{
				attrs,
				signedIn,
				field(3, "methods", repeated, descriptorpb.FieldDescriptorProto_TYPE_BYTES),
				field(4, "idle_timeout", optional, descriptorpb.FieldDescriptorProto_TYPE_UINT64),
			},
			OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: new("_signed_in_at")}},
			NestedType: []*descriptorpb.DescriptorProto{{
				Name: new("AttrsEntry"), Options: &descriptorpb.MessageOptions{MapEntry: new(true)},
				Field: []*descriptorpb.FieldDescriptorProto{
					field(1, "key", optional, descriptorpb.FieldDescriptorProto_TYPE_STRING),
					field(2, "value", optional, descriptorpb.FieldDescriptorProto_TYPE_BYTES),
				},
			}},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("Payload")
}

// TestProtobufLibrariesReadPayloads reads every payload of the vectors with a
// Protobuf library, writes it with that library, and reads it here again.
func TestProtobufLibrariesReadPayloads(t *testing.T) {
	typ := payloadType(t)
	get := typ.Fields().ByName
	vectors, _ := readVectors(t)
	for _, v := range vectors.Records {
		m := dynamicpb.NewMessage(typ)
		if err := proto.Unmarshal(v.Plain, m); err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		got := formatcheck.Payload{
			SignedIn: m.Has(get("signed_in_at")), SignedInAt: m.Get(get("signed_in_at")).Int(),
			IdleTimeout: int64(m.Get(get("idle_timeout")).Uint()), Unknown: m.GetUnknown(),
		}
		attrs := make(map[string][]byte)
		m.Get(get("attrs")).Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			attrs[k.String()] = v.Bytes()
			return true
		})
		for _, name := range slices.Sorted(maps.Keys(attrs)) {
			got.Attrs = append(got.Attrs, formatcheck.Attr{Name: []byte(name), Value: attrs[name]})
		}
		methods := m.Get(get("methods")).List()
		for i := range methods.Len() {
			got.Methods = append(got.Methods, methods.Get(i).Bytes())
		}
		want := v.Payload
		want.Attrs = slices.SortedFunc(slices.Values(want.Attrs), func(a, b formatcheck.AttrVector) int {
			return slices.Compare([]byte(a.Name), []byte(b.Name))
		})
		if got := formatcheck.Describe(got); got.String() != want.String() {
			t.Errorf("%s: a Protobuf library reads %s, want %s", v.Name, got, want)
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePayload(b)
		if err != nil {
			t.Errorf("%s, as a Protobuf library writes it: %v", v.Name, err)
		}
		if got := formatcheck.Describe(neutral(p)); got.String() != want.String() {
			t.Errorf("%s, as a Protobuf library writes it: %s, want %s", v.Name, got, want)
		}
	}
}
