package release

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"devbox/internal/protocol"
)

// Whatever an app writes to the journal: text that steers no terminal, and
// lines of bounded length.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"_SYSTEMD_INVOCATION_ID":"9f1c","MESSAGE":"one\ntwo\u001b[2J\r\n"}` + "\n" + `{"MESSAGE":"after it"}` + "\n"))
	f.Add([]byte(`{"INVOCATION_ID":"9f1c","MESSAGE":[27,255,-1,70000]}` + "\n{\n" + `{"_SYSTEMD_INVOCATION_ID":"9f1c","MESSAGE":null}`))
	f.Add([]byte(`{"_SYSTEMD_INVOCATION_ID":"9f1c","MESSAGE":"` + strings.Repeat("x", 2*maxLogLine) + `"}`))
	f.Fuzz(func(t *testing.T, out []byte) {
		for _, line := range messages(out, "9f1c") {
			if strings.ContainsFunc(line, unicode.IsControl) || !utf8.ValidString(line) || utf8.RuneCountInString(line) > maxLogLine+1 {
				t.Errorf("%q gives %q", out, line)
			}
		}
	})
}

// Whatever a client sends: the session ends, and nothing is written but below
// the folder of one app.
func FuzzParseData(f *testing.F) {
	f.Add([]byte(`{"integrity":"ok","schema":3,"rows":{"press":12003},"newest":"2026-11-24T08:00:14Z"}`))
	f.Add([]byte(`{"integrity":"\u001b[2J","rows":{"a\nb":1}} {}`))
	f.Fuzz(func(t *testing.T, out []byte) {
		d, err := parseData(out)
		if err == nil && printable(d.Integrity) != d.Integrity {
			t.Errorf("%q goes to a terminal", d.Integrity)
		}
		for table, n := range d.Rows {
			if n < 0 || printable(table) != table {
				t.Errorf("%d rows of %q", n, table)
			}
		}
	})
}

func FuzzServe(f *testing.F) {
	hello := fmt.Sprintf(`{"hello":{"protocol":%d,"app":"bowl"}}`, protocol.Version) + "\n"
	digest := digestOf("ab")
	for _, s := range []string{
		`{"releases":{"app":"bowl"}}`, `{"status":{"app":"bowl"}}`, `{"recover":{"app":"bowl"}}`, `{"forget":{"app":"bowl"}}`,
		`{"activate":{"app":"bowl","release":"r1","settings":{"health":{"deadline":0}}}}`,
		`{"activate":{"app":"bowl","release":"previous","keep":3,"settings":{"health":{"deadline":0}}}}`,
		`{"activate":{"app":"bowl","digest":"` + digest + `","settings":{"profile":"trusted","health":{"deadline":0}}}}`,
		`{"receive":{"app":"bowl","digest":"` + digest + `","size":4096}}` + "\nxxxx",
	} {
		f.Add([]byte(hello + s + "\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fake := newFake(t)
		_ = New(fake, fake.root).Serve(context.Background(), bytes.NewReader(data), io.Discard, "test")
		err := filepath.WalkDir(fake.root, func(name string, d fs.DirEntry, err error) error {
			inside, ok := strings.CutPrefix(name, filepath.Join(fake.root, stateDir)+"/")
			if app, _, _ := strings.Cut(inside, "/"); err == nil && !d.IsDir() && (!ok || strings.ContainsAny(app, ". ")) && !strings.HasPrefix(name, fake.root+"/usr/lib/") {
				t.Errorf("%q wrote %s", data, name)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
