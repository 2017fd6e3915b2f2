package deploy

import (
	"encoding/json"
	"testing"
)

// Whatever a host sends as its journal: an entry or none, and a message only
// of a unit.
func FuzzJournalEntry(f *testing.F) {
	f.Add([]byte(`{"__CURSOR":"s=1;i=2","_SYSTEMD_UNIT":"shop.service","_SYSTEMD_INVOCATION_ID":"9f1c","MESSAGE":"hello"}`))
	f.Add([]byte(`{"_SYSTEMD_UNIT":"shop.service","MESSAGE":[104,-1,255,70000]}`))
	f.Add([]byte(`{"_SYSTEMD_UNIT":"init.scope","MESSAGE":{"a":[null]}}`))
	f.Add([]byte("-- No entries --"))
	f.Fuzz(func(t *testing.T, entry []byte) {
		l, ok := parseEntry(entry)
		if ok && !json.Valid(entry) || !ok && l != (LogLine{}) {
			t.Errorf("%q gives %+v, %t", entry, l, ok)
		}
		if l.Unit == "" && l.Message != "" {
			t.Errorf("%q gives a message of no unit: %+v", entry, l)
		}
	})
}
