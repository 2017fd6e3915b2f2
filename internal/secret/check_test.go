package secret

import (
	"strings"
	"testing"

	"devbox/internal/hint"
	"devbox/internal/image"
)

func TestCheckBeforeUnitsRun(t *testing.T) {
	for _, c := range []struct {
		name, lines string
		want, hint  string
	}{
		{"nothing", "", "", ""},
		{"one that is set", "LoadCredentialEncrypted=bowl.key", "", ""},
		{"one that another store has", "LoadCredentialEncrypted=bowl.run", "", ""},
		{"one with a fallback", "LoadCredentialEncrypted=bowl.nope\nSetCredential=bowl.nope:x", "", ""},
		{"not devbox's", "LoadCredentialEncrypted=nope\nLoadCredentialEncrypted=x:/srv/x\nLoadCredential=bowl.nope", "", ""},
		{"a pattern asks for none", "ImportCredential=bowl.*", "", ""},
		{"one that is not set", "LoadCredentialEncrypted=bowl.nope", "bowl.service wants the secret nope, which is not set on this host", "devbox secret set [TARGET] nope"},
		{"by its path", "LoadCredentialEncrypted=bowl.nope:/etc/credstore.encrypted/bowl.nope", "wants the secret nope", "nope"},
		{"two", "LoadCredentialEncrypted=bowl.b\nLoadCredentialEncrypted=bowl.a.b", "the secret b, which is not set on this host; bowl.service wants the secret a.b", "TARGET] b`, `devbox"},
		{"another app's", "LoadCredentialEncrypted=shop.key", "bowl.service takes shop.key, which is a secret of the app shop", "bowl.NAME"},
		{"another app's, by its path", "LoadCredentialEncrypted=x:/etc/credstore.encrypted/shop.key", "a secret of the app shop", ""},
		{"another app's, undecrypted", "LoadCredential=x:/etc/credstore.encrypted/shop.key", "a secret of the app shop", ""},
		{"everyone's", "ImportCredential=*", "a secret of the app shop", ""},
		{"no app's", "LoadCredentialEncrypted=ssh.key", "", ""},
		{"an app whose name begins so", "LoadCredentialEncrypted=bowl-x.key", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := on(t, nil)
			for _, name := range []string{"etc/credstore.encrypted/bowl.key", "run/credstore.encrypted/bowl.run", "etc/credstore.encrypted/shop.key", "etc/credstore.encrypted/ssh.key"} {
				write(t, s.root, name, "x")
			}
			u, err := image.ParseUnit("bowl.service", []byte("[Service]\nExecStart=/bin/x\n"+c.lines+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			err = Check(s.root, "bowl", []image.Unit{u})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(hint.Of(err), c.hint)) {
				t.Errorf("%v, hint %q", err, hint.Of(err))
			}
		})
	}
}

// Two units want the same one, and one cure is enough.
func TestOneCureForASecret(t *testing.T) {
	var units []image.Unit
	for _, name := range []string{"bowl.service", "bowl-side.service"} {
		u, err := image.ParseUnit(name, []byte("[Service]\nExecStart=/bin/x\nLoadCredentialEncrypted=bowl.nope\n"))
		if err != nil {
			t.Fatal(err)
		}
		units = append(units, u)
	}
	err := Check(on(t, nil).root, "bowl", units)
	if err == nil || !strings.Contains(err.Error(), "bowl-side.service wants") || hint.Of(err) != "run `devbox secret set [TARGET] nope`" {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

// A credential's name is one app's alone: a name of an app has no dot.
func TestWhoseACredentialIs(t *testing.T) {
	for credential, want := range map[string]string{
		"bowl.key": "bowl key", "bowl.a.b": "bowl a.b", "a.bowl.key": "a bowl.key", "bowl-x.key": "bowl-x key",
		"bowl": "", "bowl.": "", ".key": "", "bowl..key": "", "Bowl.key": "", "": "",
	} {
		app, name, ok := owner(credential)
		if got := strings.TrimSpace(app + " " + name); ok != (want != "") || ok && (got != want || Credential(app, name) != credential) {
			t.Errorf("%q: %q %q %v", credential, app, name, ok)
		}
	}
}
