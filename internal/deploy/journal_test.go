package deploy

import (
	"slices"
	"testing"
)

func TestJournalEntries(t *testing.T) {
	const head = `{"__CURSOR":"s=1;i=2","_SYSTEMD_UNIT":"shop.service","_SYSTEMD_INVOCATION_ID":"9f1c","MESSAGE":`
	line := func(message string) LogLine {
		return LogLine{Unit: "shop.service", Invocation: "9f1c", Message: message, Cursor: "s=1;i=2"}
	}
	for _, c := range []struct {
		name, entry string
		want        LogLine
		ok          bool
	}{
		{"text", head + `"hello \"you\""}`, line(`hello "you"`), true},
		{"text that is not UTF-8 comes as bytes", head + `[104,105,255]}`, line("hi\xff"), true},
		{"a message too long for journalctl is null", head + `null}`, line(tooLong), true},
		{"bytes that are none", head + `{"a":1}}`, line(""), true},
		{"systemd's own words keep the place only", `{"__CURSOR":"s=3","_SYSTEMD_UNIT":"init.scope","UNIT":"shop.service","MESSAGE":"Started shop.service."}`,
			LogLine{Unit: "init.scope", Cursor: "s=3"}, true},
		{"the kernel has no unit", `{"__CURSOR":"s=4","MESSAGE":"oom"}`, LogLine{Cursor: "s=4"}, true},
		{"no JSON", "-- No entries --", LogLine{}, false},
		{"cut off", `{"__CURSOR":"s=5",`, LogLine{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parseEntry([]byte(c.entry))
			if got != c.want || ok != c.ok {
				t.Errorf("got %+v, %t; want %+v, %t", got, ok, c.want, c.ok)
			}
		})
	}
}

func TestLinesComeWhole(t *testing.T) {
	var got []string
	w := &lineWriter{line: func(line []byte) { got = append(got, string(line)) }}
	for _, part := range []string{"a", "b\nc\n", "", "\nd"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := []string{"ab", "c", ""}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q: a line that was cut off comes again from the cursor", got, want)
	}
}
