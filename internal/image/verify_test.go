package image

import "testing"

// What systemd-analyze says of the user's units is about a unit of the image,
// or left out.
func FuzzParseVerify(f *testing.F) {
	f.Add("/tmp/root/usr/lib/systemd/system/bowl.service:3: Unknown key 'Foo' in section [Service], ignoring.\n")
	f.Add("bowl.service: Command /usr/bin/x is not executable: No such file or directory\nother.service: x\n: \n")
	f.Add("/x:99999999999999999999: y\n")
	units := []Unit{{Name: "bowl.service", Path: "usr/lib/systemd/system/bowl.service"}}
	f.Fuzz(func(t *testing.T, out string) {
		for _, p := range parseVerify(out, "/tmp/root", units) {
			if p.Path != units[0].Path || p.Line < 0 || !p.Warning {
				t.Errorf("%q gives %+v", out, p)
			}
		}
	})
}
