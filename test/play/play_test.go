package play

import (
	"strings"
	"testing"
)

func TestEach(t *testing.T) {
	var got []string
	err := each(strings.NewReader("retry: 250\nevent: hello\ndata: {}\n\n:\n\nid: 7-ab\nevent: event\ndata: {\"seq\":7}\n\nid: 8\nevent: event\ndata: half"), func(id, kind string, data []byte) error {
		got = append(got, id+" "+kind+" "+string(data))
		return nil
	})
	if want := []string{" hello {}", `7-ab event {"seq":7}`}; err != nil || strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%q, %v", got, err)
	}
}
