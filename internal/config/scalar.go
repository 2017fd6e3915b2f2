package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"
)

// scalar is a type that is written as one word and read from that word as it
// stands in the file: YAML would make 493 of 0755 and could make a number of
// 8080:80. Errors name the cure after a semicolon.
type scalar interface {
	parse(text string) error
}

// Size is a number of bytes, written with a unit: 512MiB, 2GiB.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes Size
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func (s *Size) parse(text string) error {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || n == 0 || n > uint64(math.MaxInt64/u.bytes) {
			break
		}
		*s = Size(n) * u.bytes
		return nil
	}
	return fmt.Errorf("%q is not a size; write a whole number and a unit of MiB or GiB, such as 2GiB", text)
}

// String writes the size as it is read.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s >= u.bytes && s%u.bytes == 0 {
			return fmt.Sprintf("%d%s", s/u.bytes, u.name)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Duration is a time span written as Go writes it: 500ms, 10s, 2m.
type Duration time.Duration

func (d *Duration) parse(text string) error {
	v, err := time.ParseDuration(text)
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is not a time span; write one such as 10s or 1m30s", text)
	}
	*d = Duration(v)
	return nil
}

// String writes the duration as it is read.
func (d Duration) String() string { return time.Duration(d).String() }

// Mode is a file's permission bits. Zero means 0755 for what is
// executable in the source, else 0644.
type Mode fs.FileMode

func (m *Mode) parse(text string) error {
	v, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
	switch {
	case err != nil || v == 0 || v > 0o7777:
		return fmt.Errorf("%q is not a file mode; write octal digits such as 0644 or 0755", text)
	case v > 0o777:
		return fmt.Errorf("%q sets setuid, setgid or sticky bits; systemd grants privileges in the unit instead, write 0755", text)
	}
	*m = Mode(v)
	return nil
}

// String writes the mode as it is read.
func (m Mode) String() string { return fmt.Sprintf("%#04o", uint32(m)) }

// Port forwards a port of this computer's 127.0.0.1 into the dev machine.
type Port struct {
	Client int // on this computer
	Guest  int // in the machine
}

func (p *Port) parse(text string) error {
	client, guest, two := strings.Cut(text, ":")
	if !two {
		guest = client
	}
	c, errC := portNumber(client)
	g, errG := portNumber(guest)
	if err := errors.Join(errC, errG); err != nil {
		return fmt.Errorf(`%q is not a port; write "8080", or "8080:80" for 8080 here and 80 in the machine`, text)
	}
	*p = Port{c, g}
	return nil
}

// String writes the port as it is read.
func (p Port) String() string {
	if p.Client == p.Guest {
		return strconv.Itoa(p.Client)
	}
	return fmt.Sprintf("%d:%d", p.Client, p.Guest)
}

func portNumber(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return int(n), err
}
