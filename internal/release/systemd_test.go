package release

import (
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// A socket goes from listening to running whenever its service starts anew; it
// has been open all the time.
func TestSinceWhen(t *testing.T) {
	for active, want := range map[string]int64{"active": 100, "failed": 200} {
		st := stateOf(map[string]dbus.Variant{
			"ActiveState": dbus.MakeVariant(active), "ActiveEnterTimestamp": dbus.MakeVariant(uint64(100)), "StateChangeTimestamp": dbus.MakeVariant(uint64(200)),
		})
		if !st.Since.Equal(time.UnixMicro(want)) {
			t.Errorf("%s since %v, want %d µs", active, st.Since, want)
		}
	}
}
