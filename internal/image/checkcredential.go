package image

import (
	"path"
	"strings"
)

// credentials finds lines that do not get the service what `devbox secret`
// keeps for it. A secret NAME is called APP.NAME on every host, in its file's
// name and inside, and systemd refuses one under another name.
func (c *checker) credentials(u Unit) {
	for _, l := range u.Credentials() {
		p := Problem{Path: u.Path, Line: l.Line, Field: l.Field}
		stored := l.Stored()
		own := strings.HasPrefix(stored, c.Name+".")
		switch {
		case l.Field == "ImportCredential" && own && l.ID != "":
			p.Text = "systemd does not load a secret under another name than it has inside (status 243/CREDENTIALS)"
			p.Cure = "leave out :" + l.ID
		case l.Field == "ImportCredential":
			if rest, all := strings.CutSuffix(stored, "*"); !all || strings.Contains(rest, ".") {
				continue
			}
			p.Text, p.Warning = "it may take secrets of other apps on the host, too", true
			p.Cure = "write ImportCredential=" + c.Name + ".*"
		case l.Field == "LoadCredential" && (own || path.IsAbs(l.Source) && stored != ""):
			p.Text, p.Warning = "it gives the service what it finds undecrypted", !path.IsAbs(l.Source)
			p.Cure = "write LoadCredentialEncrypted=" + path.Base(l.Source)
		case l.Field == "LoadCredentialEncrypted" && own && l.ID != stored:
			p.Text = "systemd does not load a secret under another name than it has inside (status 243/CREDENTIALS)"
			p.Cure = "write LoadCredentialEncrypted=" + stored
		case l.Field == "LoadCredentialEncrypted" && !path.IsAbs(l.Source) && !strings.Contains(stored, "."):
			p.Text, p.Warning = "a secret of this app is called "+c.Name+"."+stored+"; if nothing else puts "+stored+" there, the service starts without it", true
			p.Cure = "write LoadCredentialEncrypted=" + c.Name + "." + stored
		default:
			continue
		}
		c.add(p)
	}
	for _, o := range u.setting("Service", "SetCredential") {
		c.add(Problem{Path: u.Path, Line: o.line, Field: o.name, Warning: true,
			Text: "what stands there is part of the image and can be read by everyone on the host",
			Cure: "if it is a secret, use `devbox secret set` and LoadCredentialEncrypted="})
	}
}
