package release

import (
	"errors"
	"strings"
	"testing"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// A release whose unit names a secret that nobody has set is refused before
// anything is touched, and taken once it is set.
func TestAReleaseWithoutItsSecret(t *testing.T) {
	f, h, _ := first(t)
	two := f.put(h, "two", map[string]string{"bowl.service": "[Service]\nType=notify\nExecStart=/x\nLoadCredentialEncrypted=bowl.key\n" + installed})
	_, err := f.activate(h, two, protocol.Settings{})
	var coded *CodedError
	if !errors.As(err, &coded) || coded.Code != protocol.CodeNoSecret || !strings.Contains(err.Error(), "bowl.service wants the secret key") ||
		!strings.Contains(hint.Of(err), "devbox secret set") {
		t.Errorf("%v (hint %q)", err, hint.Of(err))
	}
	if len(f.did) > 0 {
		t.Errorf("did %v", f.did)
	}
	f.write("etc/credstore.encrypted/bowl.key", "sealed")
	if r, err := f.activate(h, two, protocol.Settings{}); err != nil || r.Outcome != protocol.Committed {
		t.Errorf("%+v, %v", r, err)
	}
}
