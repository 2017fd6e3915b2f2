package config

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"devbox/internal/hint"
)

// place is a position in the file, counted from 1.
type place struct{ line, column int }

// decoder turns the file's syntax tree into a [Config], collecting mistakes
// instead of stopping at one, and remembers where each field stands, so that
// later checks can point there. goccy/go-yaml's own strict decoder stops at
// the first unknown field.
type decoder struct {
	mistakes Mistakes
	values   map[string]place // by field: where its value begins
	keys     map[string]place // by field: where its key begins
	unread   map[string]bool  // fields whose value was no value of theirs
}

// decode reads data. The Config is nil if the file cannot be parsed at all.
func decode(data []byte) (*Config, *decoder) {
	d := &decoder{values: map[string]place{}, keys: map[string]place{}, unread: map[string]bool{}}
	top := place{1, 1}
	if len(data) > maxFile {
		d.add(top, "", fmt.Sprintf("larger than %d KiB", maxFile>>10), "is this the right file?")
		return nil, d
	}
	if line := tooDeep(data); line > 0 {
		d.add(place{line, 1}, "", fmt.Sprintf("more than %d brackets are open here", maxDepth), "close them")
		return nil, d
	}
	file, err := parse(data)
	if err != nil {
		d.syntax(err)
		return nil, d
	}
	c := new(Config)
	fill(reflect.ValueOf(c).Elem())
	var body ast.Node
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if body != nil {
			d.add(at(doc.Body), "", "a second YAML document", "keep everything in one, without a --- line in between")
			break
		}
		body = doc.Body
	}
	d.values[""] = top
	if body != nil {
		d.value(body, reflect.ValueOf(c).Elem(), "", tag{})
	} else {
		d.mapping(nil, reflect.ValueOf(c).Elem(), "")
	}
	return c, d
}

// tooDeep returns the line where more than maxDepth brackets are open, or 0.
func tooDeep(data []byte) int {
	line, depth := 1, 0
	for _, b := range data {
		switch b {
		case '\n':
			line++
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		}
		if depth > maxDepth {
			return line
		}
	}
	return 0
}

// parse guards against a parser that panics: the file comes from a person, and
// a broken one must end in a message (goccy/go-yaml has had such inputs).
func parse(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("not readable as YAML: %v", r)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

func (d *decoder) syntax(err error) {
	where, msg := place{1, 1}, err.Error()
	var ye yaml.Error
	if errors.As(err, &ye) {
		msg = ye.GetMessage()
		if t := ye.GetToken(); t != nil {
			where = atToken(t)
		}
	}
	d.add(where, "", "not YAML: "+msg, "check the quotes and the indentation (spaces, no tabs) here and on the line above")
}

func (d *decoder) add(where place, field, problem, cure string) {
	d.mistakes = append(d.mistakes, Mistake{Line: where.line, Column: where.column, Field: field, Problem: problem, Cure: cure})
}

// unreadable notes that a field has no value that could be read; what later
// checks find in it or below it would only be a consequence.
func (d *decoder) unreadable(where place, field, problem, cure string) {
	d.add(where, field, problem, cure)
	d.unread[field] = true
}

// wrong notes a mistake in the value of a field; where the field is not
// written, at the nearest field around it that is.
func (d *decoder) wrong(field, problem, cure string) {
	for f := field; ; {
		if d.unread[f] {
			return
		}
		if f == "" {
			break
		}
		f = f[:max(0, strings.LastIndexAny(f, ".["))]
	}
	d.add(nearestPlace(d.values, field), field, problem, cure)
}

// wrongKey is wrong for a mistake in the key itself.
func (d *decoder) wrongKey(field, problem, cure string) {
	d.add(nearestPlace(d.keys, field), field, problem, cure)
}

func nearestPlace(m map[string]place, field string) place {
	for {
		if p, ok := m[field]; ok {
			return p
		}
		i := strings.LastIndexAny(field, ".[")
		if i < 0 {
			return place{1, 1}
		}
		field = field[:i]
	}
}

// written says whether the field is in the file.
func (d *decoder) written(field string) bool {
	_, ok := d.values[field]
	return ok
}

// sorted returns the mistakes in the file's order, one per place and problem.
func (d *decoder) sorted(file string) Mistakes {
	slices.SortStableFunc(d.mistakes, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	for i := range d.mistakes {
		d.mistakes[i].File = file
	}
	return slices.Compact(d.mistakes)
}

// value decodes one node into v and reports whether it was of the right kind.
func (d *decoder) value(n ast.Node, v reflect.Value, field string, t tag) {
	if why := unsupported(n); why != "" {
		d.unreadable(at(n), field, why, "write the value out")
		return
	}
	_, null := n.(*ast.NullNode)
	if s, ok := v.Addr().Interface().(scalar); ok {
		if text, ok := d.scalar(n, field); ok {
			if err := s.parse(text); err != nil {
				problem, cure, _ := strings.Cut(err.Error(), "; ")
				d.unreadable(at(n), field, problem, cure)
			}
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		switch pairs, ok := mappingOf(n); {
		case null:
			d.mapping(nil, v, field)
		case ok:
			d.mapping(pairs, v, field)
		default:
			d.kind(n, field, "a mapping", fieldNames(v.Type()))
		}
	case reflect.Map:
		pairs, ok := mappingOf(n)
		if !ok && !null {
			d.kind(n, field, "a mapping", nil)
			return
		}
		d.entries(pairs, v, field)
	case reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		switch {
		case null:
		case !ok:
			d.kind(n, field, "a list", nil)
		default:
			v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
			for i, item := range seq.Values {
				f := fmt.Sprintf("%s[%d]", field, i)
				d.values[f] = at(item)
				fill(v.Index(i))
				d.value(item, v.Index(i), f, tag{})
			}
		}
	case reflect.Int:
		if text, ok := d.scalar(n, field); ok {
			i, err := strconv.Atoi(text)
			if err != nil || i < t.minimum {
				d.unreadable(at(n), field, fmt.Sprintf("%q is not a whole number from %d up", text, t.minimum), fmt.Sprintf("write a number such as %s", t.fallback))
			}
			v.SetInt(int64(i))
		}
	case reflect.String:
		text, ok := d.scalar(n, field)
		if !ok {
			return
		}
		v.SetString(text)
		if len(t.enum) > 0 && !slices.Contains(t.enum, text) {
			cure := "write one of " + strings.Join(t.enum, ", ")
			if near := hint.Nearest(text, t.enum); near != "" {
				cure = fmt.Sprintf("did you mean %q? %s", near, cure)
			}
			d.unreadable(at(n), field, fmt.Sprintf("%q is not a value for it", text), cure)
		}
	}
}

// mapping decodes the fields of a struct. No pairs is an empty mapping.
func (d *decoder) mapping(pairs []*ast.MappingValueNode, v reflect.Value, field string) {
	seen := map[string]bool{}
	known := fieldNames(v.Type())
	for _, p := range pairs {
		name, sub, ok := d.key(p, field, seen)
		if !ok {
			continue
		}
		fv, t, ok := fieldByName(v, name)
		if !ok {
			d.wrongKey(sub, "unknown field", unknownCure(name, field, known))
			continue
		}
		d.value(p.Value, fv, sub, t)
	}
	for _, name := range known {
		if _, t, _ := fieldByName(v, name); t.required && !seen[name] {
			d.wrong(join(field, name), "missing", "add `"+name+":`")
		}
	}
}

// entries decodes a mapping whose keys are the user's.
func (d *decoder) entries(pairs []*ast.MappingValueNode, v reflect.Value, field string) {
	seen := map[string]bool{}
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range pairs {
		name, sub, ok := d.key(p, field, seen)
		if !ok {
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		fill(item)
		d.value(p.Value, item, sub, tag{})
		v.SetMapIndex(reflect.ValueOf(name), item)
	}
}

// key returns the name of a pair and the field that it makes.
func (d *decoder) key(p *ast.MappingValueNode, field string, seen map[string]bool) (name, sub string, ok bool) {
	if p.Key == nil || p.Value == nil {
		d.wrong(field, "a key without a name or value", "write `key: value`")
		return "", "", false
	}
	var key ast.Node = p.Key
	if k, ok := key.(*ast.MappingKeyNode); ok && k.Value != nil {
		key = k.Value
	}
	if why := unsupported(key); why != "" {
		d.add(at(p.Key), field, why, "write the fields out")
		return "", "", false
	}
	name, ok = text(key)
	if !ok {
		d.add(at(p.Key), field, "a key that is not a plain word", "write `key: value`")
		return "", "", false
	}
	sub = join(field, name)
	if seen[name] {
		d.add(at(p.Key), sub, fmt.Sprintf("written twice, first on line %d", d.keys[sub].line), "keep one of them")
		return "", "", false
	}
	seen[name] = true
	d.keys[sub], d.values[sub] = at(p.Key), at(p.Value)
	return name, sub, true
}

func (d *decoder) scalar(n ast.Node, field string) (string, bool) {
	if _, null := n.(*ast.NullNode); null {
		d.unreadable(nearestPlace(d.keys, field), field, "has no value", "give it one or remove the line")
		return "", false
	}
	s, ok := text(n)
	if !ok {
		d.kind(n, field, "a single value", nil)
	}
	return s, ok
}

func (d *decoder) kind(n ast.Node, field, want string, fields []string) {
	cure := "see docs/devbox-yaml.md"
	if want == "a list" {
		cure = "put each entry on a line of its own behind `- `"
	}
	if len(fields) > 0 {
		cure = "its fields are " + strings.Join(fields, ", ")
	}
	d.unreadable(at(n), field, "must be "+want, cure)
}

// text is a scalar as it stands in the file, quotes and block markers removed.
func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		if n.Value == nil {
			return "", true
		}
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if t := n.GetToken(); t != nil {
			return t.Value, true
		}
	}
	return "", false
}

// unsupported names YAML that a file as small as this does without.
func unsupported(n ast.Node) string {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "YAML anchors, aliases and merges are not read here"
	case *ast.TagNode:
		return "YAML tags are not read here"
	}
	return ""
}

func mappingOf(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func at(n ast.Node) place {
	// The token of a block mapping is the colon of its first pair.
	if pairs, ok := mappingOf(n); ok && len(pairs) > 0 && pairs[0].Key != nil {
		if m, ok := n.(*ast.MappingNode); !ok || !m.IsFlowStyle {
			return at(pairs[0].Key)
		}
	}
	if n == nil || reflect.ValueOf(n).IsNil() {
		return place{1, 1}
	}
	return atToken(n.GetToken())
}

func atToken(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{1, 1}
	}
	return place{max(1, t.Position.Line), max(1, t.Position.Column)}
}

func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}
