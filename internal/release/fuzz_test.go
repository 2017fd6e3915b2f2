package release

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
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
