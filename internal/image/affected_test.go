package image

import (
	"reflect"
	"testing"
)

func units(t *testing.T, files map[string]string) []Unit {
	t.Helper()
	var all []Unit
	for name, text := range files {
		u, err := ParseUnit(name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u)
	}
	return all
}

func TestAffected(t *testing.T) {
	bowl := map[string]string{
		"bowl.service":            "[Service]\nExecStart=/usr/bin/bowl -ui /usr/share/bowl\n",
		"bowl.socket":             "[Socket]\nListenStream=80\n",
		"bowl-litestream.service": "[Service]\nExecStart=/usr/bin/litestream -config /etc/litestream.yml\n[X-Devbox]\nReads=/etc/litestream.d\n",
		"bowl-job.timer":          "[Timer]\nOnCalendar=daily\n",
	}
	with := func(name, text string) map[string]string {
		m := map[string]string{}
		for k, v := range bowl {
			m[k] = v
		}
		if m[name] = text; text == "" {
			delete(m, name)
		}
		return m
	}
	const same, idle = "its unit file is the same", "nothing that it reads changed"
	const only = "reads only usr/bin/litestream, etc/litestream.d, etc/litestream.yml"
	stay := func(changes ...Effect) []Effect {
		all := []Effect{{Unit: "bowl-job.timer", Why: same}, {Unit: "bowl-litestream.service", Why: only}, {Unit: "bowl.service", Why: idle}, {Unit: "bowl.socket", Why: same}}
		for _, c := range changes {
			for i := range all {
				if all[i].Unit == c.Unit {
					all[i] = c
				}
			}
		}
		return all
	}
	restart := func(unit, why string) Effect { return Effect{Unit: unit, Restart: true, Why: why} }
	for _, tt := range []struct {
		name string
		new  map[string]string
		diff Diff
		want []Effect
	}{
		{"nothing", bowl, Diff{}, stay()},
		{"its binary", bowl, Diff{Changed: []string{"usr/bin/bowl"}}, stay(restart("bowl.service", "usr/bin/bowl changed"))},
		{"below a folder it reads", bowl, Diff{Added: []string{"usr/share/bowl/x.css"}}, stay(restart("bowl.service", "usr/share/bowl/x.css changed"))},
		{"a neighbour of that folder", bowl, Diff{Changed: []string{"usr/share/bowling"}},
			stay(restart("bowl.service", "usr/share/bowling changed, which no unit claims"))},
		{"another's config", bowl, Diff{Changed: []string{"etc/litestream.yml"}}, stay(restart("bowl-litestream.service", "etc/litestream.yml changed"))},
		{"a declared folder", bowl, Diff{Removed: []string{"etc/litestream.d/a"}}, stay(restart("bowl-litestream.service", "etc/litestream.d/a changed"))},
		{"a file of nobody", bowl, Diff{Changed: []string{"etc/hosts"}}, stay(restart("bowl.service", "etc/hosts changed, which no unit claims"))},
		{"an empty folder", bowl, Diff{Added: []string{"var/lib/x/"}}, stay()},
		{"a folder that it names", bowl, Diff{Changed: []string{"usr/share/bowl/"}}, stay(restart("bowl.service", "usr/share/bowl/ changed"))},
		{"unit files", with("bowl.service", bowl["bowl.service"]+"#\n"), Diff{Changed: []string{"usr/lib/systemd/system/bowl.service"}},
			stay(Effect{Unit: "bowl.service", Restart: true, Reload: true, Why: "unit file changed"})},
		{"a socket takes its service", with("bowl.socket", "[Socket]\nListenStream=81\n"), Diff{Changed: []string{"usr/lib/systemd/system/bowl.socket"}},
			stay(Effect{Unit: "bowl.socket", Restart: true, Reload: true, Why: "unit file changed"}, restart("bowl.service", "bowl.socket changed"))},
		{"a timer", with("bowl-job.timer", "[Timer]\nOnCalendar=weekly\n"), Diff{},
			stay(Effect{Unit: "bowl-job.timer", Restart: true, Reload: true, Why: "unit file changed"})},
		{"a new unit", with("bowl-new.service", "[Service]\nExecStart=/usr/bin/new\n"), Diff{Added: []string{"usr/bin/new", "usr/lib/systemd/system/bowl-new.service"}},
			append([]Effect{{Unit: "bowl-job.timer", Why: same}, {Unit: "bowl-litestream.service", Why: only},
				{Unit: "bowl-new.service", Added: true, Reload: true, Why: "new in this image"}}, stay()[2:]...)},
		{"a unit that left", with("bowl-job.timer", ""), Diff{Removed: []string{"usr/lib/systemd/system/bowl-job.timer"}},
			stay(Effect{Unit: "bowl-job.timer", Removed: true, Reload: true, Why: "no longer in the image"})},
	} {
		if got := Affected(units(t, bowl), units(t, tt.new), tt.diff); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.name, got, tt.want)
		}
	}
}

// A unit that is given a folder which all programs share does not answer for
// what others read there.
func TestSharedFolderClaimsNothing(t *testing.T) {
	all := units(t, map[string]string{
		"a.service": "[Service]\nExecStart=/usr/bin/a -etc /etc\n[X-Devbox]\nReads=\n",
		"b.service": "[Service]\nExecStart=/usr/bin/b\n",
	})
	got := Affected(all, all, Diff{Changed: []string{"etc/ssl/ca.pem"}})
	want := []Effect{
		{Unit: "a.service", Restart: true, Why: "etc/ssl/ca.pem changed"},
		{Unit: "b.service", Restart: true, Why: "etc/ssl/ca.pem changed, which no unit claims"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
}
