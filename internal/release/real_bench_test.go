package release

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"devbox/internal/protocol"
)

// bulk is the second program of the full image, about as large as Litestream.
const bulk = 50 << 20

// BenchmarkRealSwitch measures what an activation costs on a real machine,
// phase by phase, beside the same steps done by hand in a shell.
func BenchmarkRealSwitch(b *testing.B) {
	m := realMachine(b)
	const app, port = "rel-bench", 18091
	service := "usr/lib/systemd/system/" + app + ".service"
	base := standard(app, port)
	base.bulk = bulk
	for _, kind := range []string{"image", "unit"} {
		b.Run(kind, func(b *testing.B) {
			m.fresh(b, app)
			c := m.serve(b, "")
			c.hello(app)
			settings := protocol.Settings{Health: protocol.Health{URL: fmt.Sprintf("http://127.0.0.1:%d/health", port)}}
			last := build(b, base)
			c.deploy(app, last, settings, protocol.Committed)
			took := map[string][]time.Duration{}
			for i := range b.N {
				next := base.with("usr/share/relapp/page", fmt.Sprintf("page %d", i))
				if kind == "unit" {
					next = base.with(service, base.files[service]+fmt.Sprintf("[Unit]\nDescription=%d\n", i))
				}
				img := build(b, next)
				begun := time.Now()
				got := c.receive(app, img, &last)
				if got.Error != "" || got.Lost {
					b.Fatalf("%+v", got)
				}
				took["receive (with encoding)"] = append(took["receive (with encoding)"], time.Since(begun))
				begun = time.Now()
				a := c.activate(app, img, settings)
				took["activate, seen by the client"] = append(took["activate, seen by the client"], time.Since(begun))
				if a.Result == nil || a.Result.Outcome != protocol.Committed {
					b.Fatalf("%+v", a)
				}
				own := time.Duration(0)
				for _, p := range slices.Concat(got.Phases, a.Result.Phases) {
					took[p.Name] = append(took[p.Name], p.Took)
					if !slices.Contains([]string{"restart", "attach", "reload", "receive"}, p.Name) {
						own += p.Took
					}
				}
				took["devbox's own part of activate"] = append(took["devbox's own part of activate"], own)
				last = img
				time.Sleep(300 * time.Millisecond) // a person is slower than this
			}
			for name, list := range took {
				slices.Sort(list)
				b.Logf("%-30s %8s", name, list[len(list)/2].Round(100*time.Microsecond))
			}
			b.Logf("by hand: %s", m.byHand(b, app, kind, b.N))
		})
	}
}

// byHand does the bare steps in a shell and returns their median.
func (m *machine) byHand(b *testing.B, app, kind string, n int) string {
	steps := "systemctl restart " + app + ".service"
	if kind == "unit" {
		steps = "sed -i \"s/^Description=.*/Description=hand $i/\" /etc/systemd/system.attached/" + app + ".service; " +
			"portablectl attach -q --force --no-reload /var/lib/portables/" + app + ".raw; systemctl daemon-reload; " + steps
	}
	out := m.sh(b, "cd /var/lib/portables; for i in $(seq "+strconv.Itoa(n)+"); do "+
		"cp --reflink=auto "+app+".raw .hand; sync .hand; sleep 0.3; systemctl reset-failed "+app+".service; t=$(date +%s%N); mv .hand "+app+".raw; "+steps+
		" >/dev/null 2>&1; echo $((($(date +%s%N)-t)/1000)); done")
	var all []int
	for _, f := range strings.Fields(out) {
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatalf("by hand: %s", out)
		}
		all = append(all, n)
	}
	slices.Sort(all)
	return (time.Duration(all[len(all)/2]) * time.Microsecond).Round(100 * time.Microsecond).String()
}
