// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// field is one field of an API, read from the API's own descriptors: protobuf for Istio, Go types for Kubernetes.
type field struct {
	name       string         // as in JSON
	mark       string         // "[]" of a list, "{}" of a map, else ""
	fields     func() []field // of the message it holds; nil = a leaf
	values     []string       // of an enum
	deprecated bool
}

// apiKinds are the kinds whose fields a case may cover, with the parts of the object that hold them.
func apiKinds() map[string][]field {
	spec := func(m interface{ ProtoReflect() protoreflect.Message }) []field {
		d := m.ProtoReflect().Descriptor()
		return []field{{name: "spec", fields: func() []field { return protoFields(d) }}}
	}
	return map[string][]field{
		"Gateway":                 spec(&networking.Gateway{}),
		"VirtualService":          spec(&networking.VirtualService{}),
		"DestinationRule":         spec(&networking.DestinationRule{}),
		"Sidecar":                 spec(&networking.Sidecar{}),
		"PeerAuthentication":      spec(&security.PeerAuthentication{}),
		"Service":                 goFields(reflect.TypeFor[corev1.Service]()),
		"Pod":                     goFields(reflect.TypeFor[corev1.Pod]()),
		"Deployment":              goFields(reflect.TypeFor[appsv1.Deployment]()),
		"HorizontalPodAutoscaler": goFields(reflect.TypeFor[autoscalingv2.HorizontalPodAutoscaler]()),
		"EndpointSlice":           goFields(reflect.TypeFor[discoveryv1.EndpointSlice]()),
	}
}

// protoFields reads a message's fields. Wrappers and other well-known types are leaves: JSON has one value for them.
func protoFields(d protoreflect.MessageDescriptor) []field {
	var out []field
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := field{name: fd.JSONName()}
		if o, ok := fd.Options().(interface{ GetDeprecated() bool }); ok {
			f.deprecated = o.GetDeprecated()
		}
		value := fd
		switch {
		case fd.IsMap():
			f.mark, value = "{}", fd.MapValue()
		case fd.IsList():
			f.mark = "[]"
		}
		if e := value.Enum(); e != nil {
			for j := range e.Values().Len() {
				f.values = append(f.values, string(e.Values().Get(j).Name()))
			}
		}
		if m := value.Message(); m != nil && !strings.HasPrefix(string(m.FullName()), "google.protobuf.") {
			f.fields = func() []field { return protoFields(m) }
		}
		out = append(out, f)
	}
	return out
}

// goLeaves are structs that JSON writes as one value.
var goLeaves = []reflect.Type{ //nolint:gochecknoglobals // a constant list
	reflect.TypeFor[resource.Quantity](), reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime](),
	reflect.TypeFor[metav1.FieldsV1](), reflect.TypeFor[json.RawMessage](),
}

func goFields(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
		ft := sf.Type
		if name == "" && (sf.Anonymous || strings.Contains(options, "inline")) {
			out = append(out, goFields(ft)...)
			continue
		}
		if name == "" || name == "-" {
			continue
		}
		f := field{name: name}
		for ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		switch {
		case ft.Kind() == reflect.Map:
			f.mark, ft = "{}", ft.Elem()
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() != reflect.Uint8:
			f.mark, ft = "[]", ft.Elem()
		}
		for ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct && !slices.Contains(goLeaves, ft) {
			f.fields = func() []field { return goFields(ft) }
		}
		out = append(out, f)
	}
	return out
}

// resolve reports whether a Covers entry names a leaf of its API: Kind.part.part, a list's part ending in [] and a map's
// in {}, and after = a value that an enum must know.
func resolve(entry string) error {
	path, value, hasValue := strings.Cut(entry, "=")
	parts := strings.Split(path, ".")
	fields, known := apiKinds()[parts[0]]
	if !known {
		return fmt.Errorf("covers %s: no kind %q; known are %s", entry, parts[0], strings.Join(slices.Sorted(maps.Keys(apiKinds())), ", "))
	}
	var at *field
	for i, part := range parts[1:] {
		j := slices.IndexFunc(fields, func(f field) bool { return f.name+f.mark == part })
		if j < 0 {
			return fmt.Errorf("covers %s: %s has no field %q; it has %s", entry, strings.Join(parts[:i+1], "."), part, names(fields))
		}
		at, fields = &fields[j], nil
		if at.fields != nil {
			fields = at.fields()
		}
	}
	switch {
	case at == nil || fields != nil:
		return fmt.Errorf("covers %s: not a single field; name one of %s", entry, names(fields))
	case hasValue && at.values != nil && !slices.Contains(at.values, value):
		return fmt.Errorf("covers %s: no such value; known are %s", entry, strings.Join(at.values, ", "))
	}
	return nil
}

func names(fields []field) string {
	var out []string
	for _, f := range fields {
		out = append(out, f.name+f.mark)
	}
	return strings.Join(out, ", ")
}
