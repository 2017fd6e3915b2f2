package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
)

// Probe is a program of an app's image that looks at what the app has stored.
type Probe struct {
	Name  string   // of the unit to run it in
	Image string   // the path that the app is attached under
	Like  string   // the service whose user, state folders and environment it gets
	Args  []string // the program, by its path in the image, and its arguments
	Env   []string // "NAME=value", beside those of Like
}

// likeProps are the properties that a probe has from a service, as
// org.freedesktop.systemd1(5) gives and takes them.
var likeProps = []string{"User", "Group", "DynamicUser", "StateDirectory", "StateDirectoryMode"}

const (
	// probeTime is how long a probe may take.
	probeTime = 10 * time.Second
	// probeSize is how much it may print, bytes.
	probeSize = 64 << 10
)

// Probe implements [System]. systemd is asked for what the service runs with, and
// not its unit file: the profile and a person's own drop-ins count, too. A user
// of the same name is the same one, so what the app has stored keeps its owner.
func (s *Systemd) Probe(ctx context.Context, p Probe) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	like, err := s.props(ctx, p.Like, map[string][]string{unitIface: {"LoadState"}, serviceIface: append([]string{"Environment"}, likeProps...)})
	if err != nil {
		return nil, err
	}
	if state := prop[string](like, "LoadState"); state != "loaded" { // it would say of no user that it is root's
		return nil, fmt.Errorf("%s is %s, and so it is not known as which user to look at the data", p.Like, state)
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	props := append(confined(probeTime),
		property("Description", "devbox look at the data"),
		property("RootImage", p.Image),
		property("MountAPIVFS", true),
		property("PrivateTmp", true),
		property("PrivateNetwork", true),
		property("Environment", append(prop[[]string](like, "Environment"), p.Env...)),
		property("StandardOutputFileDescriptor", dbus.UnixFD(in.Fd())),
		// It would go where the output does, if systemd took the two for the same.
		property("StandardOutput", "null"),
		property("StandardError", "journal"),
		property("ExecStartEx", []execCommand{{p.Args[0], p.Args, []string{"no-env-expand"}}}),
	)
	for _, name := range likeProps {
		if v, ok := like[name]; ok && v.Value() != "" {
			props = append(props, property(name, v.Value()))
		}
	}
	read := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(io.LimitReader(out, probeSize+1))
		read <- data
	}()
	err = s.runUnit(ctx, transientName(p.Name), "the check "+p.Args[0], props)
	in.Close()
	// systemd closes its own copy once the unit has ended.
	_ = out.SetReadDeadline(time.Now().Add(time.Second))
	data := <-read
	if len(data) > probeSize {
		return nil, errors.Join(fmt.Errorf("the check %s printed more than %d KiB", p.Args[0], probeSize>>10), err)
	}
	return data, err
}
