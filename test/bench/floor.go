package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// prepareSwitch lays image $1 ready beside the attached one, with the file that
// says its version.
const prepareSwitch = `
cd /var/lib/devbox/bowl
ln -f "images/bowl_$1.raw" /var/lib/portables/.bench.raw
printf 'DEVBOX_VERSION=%s\n' "$1" >.bench.env
`

// The bare steps, timed by the machine's clock, which is this computer's.
const (
	switchImage = prepareSwitch + `
date +%s%N
mv .bench.env release.env
mv -T /var/lib/portables/.bench.raw /var/lib/portables/bowl.raw
systemctl restart bowl.service
`
	attachImage = prepareSwitch + `
date +%s%N
mv .bench.env release.env
mv -T /var/lib/portables/.bench.raw /var/lib/portables/bowl.raw
portablectl attach --force --no-reload --quiet --profile=default /var/lib/portables/bowl.raw bowl >&2
systemctl daemon-reload
systemctl restart bowl.service
`
)

// measureFloor goes by hand to the image of the version before, which the host
// has, and back to the running one, so that devbox finds what it left.
func (b *bench) measureFloor(ctx context.Context, into *saved, before string) error {
	script := switchImage
	if into.Reload {
		script = attachImage
	}
	running := b.version
	took, err := b.byHand(ctx, script, running, before)
	if err != nil {
		return err
	}
	into.Floor.add(took)
	_, err = b.byHand(ctx, script, before, running)
	return err
}

// byHand runs script for version to, and returns how long after the script's
// first step that version answered. The way to the machine does not count.
func (b *bench) byHand(ctx context.Context, script, from, to string) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		out string
		err error
	}
	ended := make(chan end, 1)
	go func() {
		out, err := b.root(ctx, script, to)
		if err != nil {
			cancel()
		}
		ended <- end{out, err}
	}()
	at, version, err := b.untilVersion(ctx, from)
	e := <-ended
	if e.err != nil {
		return 0, e.err
	}
	if err != nil {
		return 0, err
	}
	if version != to {
		return 0, fmt.Errorf("version %s answers instead of %s", version, to)
	}
	nanos, err := strconv.ParseInt(e.out, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("time of the machine: %w", err)
	}
	return at.Sub(time.Unix(0, nanos)), nil
}
