package config

import (
	"bytes"
	_ "embed"
	"strings"
	"text/template"
)

//go:embed init.yaml
var initText string

// InitOptions say what a new devbox.yaml is for.
type InitOptions struct {
	Name    string // of the app; [NameFor] makes one of a folder's name
	Command string // for build.command; "" compiles the Go package in the folder
}

// Init returns the text of a new devbox.yaml with comments. It loads without a
// mistake once the tree and the cloud-config that it names exist.
func Init(o InitOptions) []byte {
	if o.Command == "" {
		o.Command = `go build -trimpath -ldflags="-s -w" -o "$DEVBOX_STAGE/usr/bin/` + o.Name + `" .`
	}
	var b bytes.Buffer
	t := template.Must(template.New(FileName).Parse(initText))
	if err := t.Execute(&b, o); err != nil {
		panic(err) // the template and its data are both of this package
	}
	return b.Bytes()
}

// NameFor makes a valid name of any text, such as a folder's name; "app" if
// nothing of it can be used.
func NameFor(text string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(text) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9' && b.Len() > 0:
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String()[:min(b.Len(), 32)], "-")
	if name == "" {
		return "app"
	}
	return name
}
