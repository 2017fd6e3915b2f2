// Package release runs on a host: it receives images, makes one of them what an
// app runs, and brings the one before back if that fails.
//
// What there is of an app lies under /var/lib/devbox/APP. The image that runs
// is also linked as /var/lib/portables/APP.raw; a switch is a rename over that
// link, so each start of a service finds wholly the old or wholly the new
// image. Unit files go in through portabled.
//
// An activation writes its intent to a journal first and drops it last. The
// rename of state.json between the two commits it: before, an interruption is
// undone; after, it is completed. Undoing takes no path of its own: it looks at
// what is there, plans how to get to the release before, and does that. At boot
// alone, where portabled is not to be had, it writes back what the journal has.
package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"devbox/internal/protocol"
)

// Host is this machine, as far as releases go.
type Host struct {
	sys       System
	tree      string
	user      string // who asks, "" or "root" for root itself
	sheltered sync.Once
}

// New makes a Host of a systemd and of the file tree below root, which is "/".
// The user who asks is the one that sudo says had it started, in a variable that
// sudo lets nobody choose.
func New(sys System, root string) *Host {
	return &Host{sys: sys, tree: root, user: os.Getenv("SUDO_USER")}
}

// app is one app on a host.
type app struct {
	*Host
	place
	name string
}

// open makes an app of a name that came from outside, if the policy lets it.
func (h *Host) open(name string) (*app, error) {
	if err := protocol.ValidApp(name); err != nil {
		return nil, err
	}
	if err := h.allow(name); err != nil {
		return nil, err
	}
	return &app{Host: h, place: place{h.tree, name}, name: name}, nil
}

// Apps lists the apps that this host has something of, of those that the user
// who asks may touch.
func (h *Host) Apps() ([]string, error) {
	entries, err := os.ReadDir(place{root: h.tree}.dir())
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	may := func(string) bool { return true }
	if !h.isRoot() {
		p, err := h.policy()
		if err != nil {
			return nil, err
		}
		may = func(name string) bool { return p.App(name, h.user) == nil }
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && protocol.ValidApp(e.Name()) == nil && may(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// report passes events on and measures phases.
type report struct {
	event  func(protocol.Event)
	phases []protocol.Phase
	since  time.Time
}

func newReport(event func(protocol.Event)) *report {
	if event == nil {
		event = func(protocol.Event) {}
	}
	return &report{event: event, since: time.Now()}
}

// phase ends the step that began when the last one ended.
func (r *report) phase(name string) {
	now := time.Now()
	p := protocol.Phase{Name: name, Took: now.Sub(r.since)}
	r.since = now
	r.phases = append(r.phases, p)
	r.event(protocol.Event{Phase: &p})
}

// Welcome says what the app has on this host, for the answer to a Hello.
func (h *Host) Welcome(ctx context.Context, name string) (protocol.Welcome, error) {
	a, err := h.open(name)
	if err != nil {
		return protocol.Welcome{}, err
	}
	st, err := a.readState()
	if err != nil {
		return protocol.Welcome{}, err
	}
	w := protocol.Welcome{Protocol: protocol.Version}
	if st.Current != nil {
		_, err := a.sumsOf(ctx, st.Current.Digest)
		switch {
		case err == nil:
			w.Current = st.Current.Digest
		case !errors.Is(err, errNoImage): // without it the client sends a whole one
			return w, fmt.Errorf("read the running image: %w", err)
		}
	}
	w.Images, err = a.digests()
	return w, err
}
