package image

import (
	"reflect"
	"testing"
)

func TestCredentialsOfAUnit(t *testing.T) {
	u, err := ParseUnit("bowl@.service", []byte(`[Service]
LoadCredentialEncrypted=gone
LoadCredentialEncrypted=
LoadCredentialEncrypted=%p.a
LoadCredentialEncrypted=bowl.b:/etc/credstore.encrypted//bowl.b
LoadCredential=c:/run/c.sock
ImportCredential=bowl.*
ImportCredential=x.*:y.
SetCredentialEncrypted=bowl.d:xxxx
LoadCredentialEncrypted=bowl.d
`))
	if err != nil {
		t.Fatal(err)
	}
	type found struct {
		Credential
		stored string
	}
	var got []found
	for _, c := range u.Credentials() {
		got = append(got, found{c, c.Stored()})
	}
	want := []found{
		{Credential{"LoadCredentialEncrypted", 4, "bowl.a", "bowl.a"}, "bowl.a"},
		{Credential{"LoadCredentialEncrypted", 5, "bowl.b", "/etc/credstore.encrypted//bowl.b"}, "bowl.b"},
		{Credential{"LoadCredential", 6, "c", "/run/c.sock"}, ""},
		{Credential{"ImportCredential", 7, "", "bowl.*"}, "bowl.*"},
		{Credential{"ImportCredential", 8, "y.", "x.*"}, "x.*"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
