package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"devbox/internal/hint"
)

// tag is what the struct tag `jsonschema:"…"` says about a field. The decoder
// reads the same tag as the schema's generator, so the two cannot disagree.
type tag struct {
	required bool
	fallback string // the default; "" is none
	enum     []string
	minimum  int
}

func tagOf(f reflect.StructField) tag {
	var t tag
	for part := range strings.SplitSeq(f.Tag.Get("jsonschema"), ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "required":
			t.required = true
		case "default":
			t.fallback = value
		case "enum":
			t.enum = append(t.enum, value)
		case "minimum":
			t.minimum, _ = strconv.Atoi(value)
		}
	}
	return t
}

// fill sets every default below v, which is still empty.
func fill(v reflect.Value) {
	if _, ok := v.Addr().Interface().(scalar); ok || v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		f, t := v.Field(i), tagOf(v.Type().Field(i))
		if t.fallback == "" {
			fill(f)
			continue
		}
		s, own := f.Addr().Interface().(scalar)
		switch {
		case own:
			if err := s.parse(t.fallback); err != nil {
				panic(fmt.Sprintf("default of %s: %v", v.Type().Field(i).Name, err))
			}
		case f.Kind() == reflect.Int:
			n, _ := strconv.Atoi(t.fallback)
			f.SetInt(int64(n))
		case f.Kind() == reflect.Slice:
			f.Set(reflect.ValueOf([]string{t.fallback}))
		default:
			f.SetString(t.fallback)
		}
	}
}

func yamlName(f reflect.StructField) string {
	if name := f.Tag.Get("yaml"); name != "-" {
		return name
	}
	return ""
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		if name := yamlName(t.Field(i)); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func fieldByName(v reflect.Value, name string) (reflect.Value, tag, bool) {
	for i := range v.NumField() {
		if f := v.Type().Field(i); name != "" && yamlName(f) == name {
			return v.Field(i), tagOf(f), true
		}
	}
	return reflect.Value{}, tag{}, false
}

// unknownCure suggests what an unknown field was meant to be: a misspelt one
// of the same mapping, or one that belongs elsewhere.
func unknownCure(name, parent string, known []string) string {
	if near := hint.Nearest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	var elsewhere []string
	walkFields(reflect.TypeFor[Config](), "", func(field string) {
		if field[strings.LastIndex(field, ".")+1:] == name {
			elsewhere = append(elsewhere, field)
		}
	})
	if len(elsewhere) > 0 {
		return "it belongs at " + strings.Join(elsewhere, " or ")
	}
	what := "the fields here are "
	if parent != "" {
		what = "the fields of " + parent + " are "
	}
	return what + strings.Join(known, ", ")
}

// walkFields calls f with every field of the file that has a fixed name, as
// "machine.base.KEY.url": KEY stands for the user's own keys, [] for any entry.
func walkFields(t reflect.Type, parent string, f func(field string)) {
	if _, ok := reflect.New(t).Interface().(scalar); ok {
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if name := yamlName(t.Field(i)); name != "" {
				f(join(parent, name))
				walkFields(t.Field(i).Type, join(parent, name), f)
			}
		}
	case reflect.Slice:
		walkFields(t.Elem(), parent+"[]", f)
	case reflect.Map:
		walkFields(t.Elem(), parent+".KEY", f)
	}
}
