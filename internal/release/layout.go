package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Where things are on a host, below root ("/" but in tests).
const (
	stateDir    = "var/lib/devbox"
	portableDir = "var/lib/portables"
	attachedDir = "etc/systemd/system.attached"
	unitDir     = "etc/systemd/system"
	dataDir     = "var/lib" // where StateDirectory= is (systemd.exec(5))

	dropInName  = "50-devbox.conf"
	profileName = "10-profile.conf"
	markerName  = "20-portable.conf"
)

// place knows the paths of one app.
type place struct {
	root string
	app  string
}

func (p place) dir(elem ...string) string {
	return filepath.Join(append([]string{p.root, stateDir, p.app}, elem...)...)
}

func (p place) lock() string     { return p.dir("lock") }
func (p place) journal() string  { return p.dir("journal.json") }
func (p place) state() string    { return p.dir("state.json") }
func (p place) env() string      { return p.dir("release.env") }
func (p place) images() string   { return p.dir("images") }
func (p place) releases() string { return p.dir("releases") }

func (p place) snapshots() string { return p.dir("snapshots") }

// stored is a folder below /var/lib.
func (p place) stored(dir string) string { return filepath.Join(p.root, dataDir, dir) }

// snapshot is that of the data before the activation of a release.
func (p place) snapshot(before string) string { return p.dir("snapshots", before) }

func (p place) image(version string) string {
	return filepath.Join(p.images(), p.app+"_"+version+".raw")
}

func (p place) sums(version string) string {
	return filepath.Join(p.images(), p.app+"_"+version+".sums")
}

// attached is the path that the app is attached under, whatever its release.
func (p place) attached() string { return filepath.Join(p.root, portableDir, p.app+".raw") }

// portableLink is what portabled leaves for an image outside of its own folder.
func (p place) portableLink() string {
	return filepath.Join(p.root, "etc/portables", p.app+".raw")
}

func (p place) unit(name string) string  { return filepath.Join(p.root, attachedDir, name) }
func (p place) unitD(name string) string { return p.unit(name) + ".d" }
func (p place) dropIn(name string) string {
	return filepath.Join(p.root, unitDir, name+".d", dropInName)
}

// writeSynced puts data under name so that after a power cut there is either
// what was there before or all of data.
func writeSynced(name string, data []byte) error {
	if err := replaceFile(name, data); err != nil {
		return err
	}
	return syncPath(filepath.Dir(name))
}

// replaceFile is writeSynced without the folder: the rename itself may be lost.
func replaceFile(name string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", name, err), removeIfThere(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}

// syncPath puts a file or folder on disk.
func syncPath(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

// linkOver makes name a hard link to target, replacing what is there, and
// syncs the folder.
func linkOver(target, name string) error {
	temp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".devbox")
	if err := removeIfThere(temp); err != nil {
		return err
	}
	if err := os.Link(target, temp); err != nil {
		return err
	}
	// rename(2) does nothing if both are links to the same file.
	if sameFile(target, name) {
		return removeIfThere(temp)
	}
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	return syncPath(filepath.Dir(name))
}

// replaceLink makes name a symbolic link to target, replacing what is there. It
// does not sync the folder.
func replaceLink(target, name string) error {
	temp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".devbox")
	if err := removeIfThere(temp); err != nil {
		return err
	}
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	return nil
}

// removeLink removes the link of an enabled unit, and its folder if that was
// the last, as systemctl does.
func removeLink(name string) error {
	if err := removeIfThere(name); err != nil {
		return err
	}
	if _, ok := wantedBy(name); ok {
		_ = os.Remove(filepath.Dir(name))
	}
	return nil
}

// makeDir is os.MkdirAll, and syncs each folder that it makes a new one in.
func makeDir(name string, mode fs.FileMode) error {
	err := os.Mkdir(name, mode)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDir(filepath.Dir(name), 0o755); err == nil {
			err = os.Mkdir(name, mode)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncPath(filepath.Dir(name))
}

func sameFile(a, b string) bool {
	ai, aerr := os.Stat(a)
	bi, berr := os.Stat(b)
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
