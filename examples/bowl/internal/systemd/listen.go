// Package systemd is what the app says to the service manager and gets from it. Every part does nothing, or does it by
// itself, when the app was not started by systemd.
package systemd

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// Sockets are the listeners that systemd holds open for the app, by their FileDescriptorName=.
type Sockets struct {
	named map[string][]net.Listener
}

// Inherit takes the sockets that systemd passed, once. Without socket activation there are none.
func Inherit() (Sockets, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return Sockets{}, fmt.Errorf("take sockets from systemd: %w", err)
	}
	return Sockets{named: named}, nil
}

// Listen gives the sockets called name, or listens on address when systemd passed none at all. Sockets without that
// name among them are a mistake in a unit file, not a reason to open a port that nobody asked for.
func (s Sockets) Listen(name, address string) ([]net.Listener, error) {
	if len(s.named) == 0 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		return []net.Listener{l}, nil
	}
	listeners := s.named[name]
	if len(listeners) == 0 {
		names := make([]string, 0, len(s.named))
		for n := range s.named {
			names = append(names, n)
		}
		slices.Sort(names)
		return nil, fmt.Errorf("systemd passed sockets named %s but none named %q: set FileDescriptorName=%s in the socket unit",
			strings.Join(names, ", "), name, name)
	}
	for _, l := range listeners {
		if l == nil {
			return nil, fmt.Errorf("socket %q from systemd is not a stream socket: use ListenStream= in the socket unit", name)
		}
	}
	return listeners, nil
}
