package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
)

var update = flag.Bool("update", false, "write the schema and the golden files instead of comparing them")

// generate makes the schema from the structs, their tags and their comments.
func generate(t *testing.T) []byte {
	t.Helper()
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		ExpandedStruct:             true,
		Anonymous:                  true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			word := func(types ...string) *jsonschema.Schema {
				s := new(jsonschema.Schema)
				for _, kind := range types {
					s.OneOf = append(s.OneOf, &jsonschema.Schema{Type: kind})
				}
				return s
			}
			switch t {
			case reflect.TypeFor[Size]():
				return &jsonschema.Schema{Type: "string", Pattern: `^[1-9][0-9]* *(KiB|MiB|GiB|TiB)$`}
			case reflect.TypeFor[Duration]():
				return &jsonschema.Schema{Type: "string", Pattern: `^([0-9.]+(ns|us|µs|ms|s|m|h))+$`}
			case reflect.TypeFor[Mode](), reflect.TypeFor[Port]():
				return word("string", "integer")
			}
			return nil
		},
	}
	if err := r.AddGoComments("devbox/internal/config", ".", jsonschema.WithFullComment()); err != nil {
		t.Fatal(err)
	}
	// The package path of AddGoComments is the base joined with ".".
	for key, comment := range r.CommentMap {
		r.CommentMap[strings.Replace(key, "config/.", "config", 1)] = strings.Join(strings.Fields(comment), " ")
	}
	s := r.Reflect(new(Config))
	s.ID = ""
	s.Title = FileName
	s.Description = "How devbox builds, ships and runs one app."
	for _, one := range []string{"amd64", "arm64"} {
		machine := s.Definitions["Machine"].Properties
		base, ok := machine.Get("base")
		if !ok {
			t.Fatal("no machine.base in the schema")
		}
		if base.Properties == nil {
			base.Properties = jsonschema.NewProperties()
			base.Properties.Set(one, base.AdditionalProperties)
		} else {
			base.Properties.Set(one, base.AdditionalProperties)
			base.AdditionalProperties = jsonschema.FalseSchema
		}
	}
	env, _ := s.Properties.Get("env")
	there, _ := s.Definitions["Target"].Properties.Get("env")
	for _, env := range []*jsonschema.Schema{env, there} {
		env.AdditionalProperties.AdditionalProperties = &jsonschema.Schema{OneOf: []*jsonschema.Schema{
			{Type: "string"}, {Type: "number"}, {Type: "boolean"}}}
	}
	watch, _ := s.Definitions["Watch"].Properties.Get("paths")
	watch.Default = []string{"."}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func TestSchemaIsInStep(t *testing.T) {
	want := generate(t)
	if *update {
		if err := os.WriteFile("devbox.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, Schema()) {
		t.Errorf("devbox.schema.json differs from the structs; run go test ./internal/config -run TestSchema -update\n%s", want)
	}
}

// Every field has a description, and docs/devbox-yaml.md names it.
func TestEveryFieldIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/devbox-yaml.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, example := range strings.Split(string(doc), "```yaml\n")[1:] {
		example, _, _ = strings.Cut(example, "```")
		if !strings.Contains(example, "name:") {
			continue
		}
		path := repo(t, example, "deployment/portable/", "deployment/bowl.conf", "cloud-init/server.yaml")
		if _, err := Load(path); err != nil {
			t.Errorf("example %d of docs/devbox-yaml.md: %v", i+1, err)
		}
	}
	n := 0
	walkFields(reflect.TypeFor[Config](), "", func(field string) {
		n++
		field = strings.ReplaceAll(strings.ReplaceAll(field, "base.KEY", "base.ARCH"), "targets.KEY", "targets.NAME")
		if !bytes.Contains(doc, []byte("`"+field+"`")) {
			t.Errorf("docs/devbox-yaml.md does not mention `%s`", field)
		}
	})
	if n < 25 {
		t.Errorf("walked only %d fields", n)
	}
	var s struct {
		Properties map[string]struct{ Description string }
		Defs       map[string]struct {
			Properties map[string]struct{ Description string }
		} `json:"$defs"`
	}
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	s.Defs["Config"] = struct {
		Properties map[string]struct{ Description string }
	}{s.Properties}
	for def, d := range s.Defs {
		for name, p := range d.Properties {
			if p.Description == "" {
				t.Errorf("the schema does not describe %s.%s", def, name)
			}
		}
	}
}
