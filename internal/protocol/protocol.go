// Package protocol is what devbox on the client and devbox-host on a host say
// to each other over one SSH session of `devbox-host serve`.
//
// The client writes requests, one JSON object a line, one at a time; a
// [Receive] request is followed at once by a delta stream (package
// sync/delta), which ends by itself. The host answers each request with any
// number of events and then one that has Done or Error set. After an Error in
// answer to a Receive, or one with [CodeProtocol], it ends the session: what
// the client sent meanwhile cannot be told apart. Everything that crosses here
// is untrusted on the host side: [ReadRequest] refuses what is not well-formed.
package protocol

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"
)

// Version is raised when either side could misread the other. A client that
// meets another version installs its own devbox-host first.
const Version = 4

// MaxLine bounds one JSON line in bytes, on both sides.
const MaxLine = 1 << 20

// Request is one line from the client. Exactly one field is set.
type Request struct {
	Hello    *Hello      `json:"hello,omitempty"`
	Receive  *Receive    `json:"receive,omitempty"`
	Activate *Activate   `json:"activate,omitempty"`
	Status   *StatusOf   `json:"status,omitempty"`
	Releases *ReleasesOf `json:"releases,omitempty"`
	Data     *DataOf     `json:"data,omitempty"`
	Recover  *Recover    `json:"recover,omitempty"`
	Forget   *Forget     `json:"forget,omitempty"`
}

// Hello opens a session for one app. The host first finishes or undoes an
// activation that was interrupted.
type Hello struct {
	Protocol int    `json:"protocol"`
	App      string `json:"app"`
}

// Receive announces an image, sent as a delta against Base.
type Receive struct {
	App    string `json:"app"`
	Digest string `json:"digest"`         // of the new image: hex, 64 digits (delta.Digest)
	Size   int64  `json:"size"`           // of the new image, bytes
	Base   string `json:"base,omitempty"` // digest of an image the host has; "" sends the whole image
}

// Activate asks for a received image to become the running release, or for one
// of the history to become it again: then Release is set, and Digest, Settings
// and Signature are that one's.
type Activate struct {
	App     string `json:"app"`
	Digest  string `json:"digest,omitempty"`
	Release string `json:"release,omitempty"` // "rN" of the history, or [Previous]
	// WithData has the data come back, too, that the Release ran on last, from a
	// snapshot. What there is of data is put aside as a snapshot itself.
	WithData bool     `json:"with_data,omitempty"`
	Settings Settings `json:"settings"`
	// Signature of SignedText by `ssh-keygen -Y sign -n devbox`, armored, for
	// hosts whose policy asks for one.
	Signature string `json:"signature,omitempty"`
	// Instead is the release that has to run now for this one to take its place,
	// as a plan told it, [NoRelease] for none; "" is whatever runs.
	Instead string `json:"instead,omitempty"`
	Keep    int    `json:"keep,omitempty"`    // how many releases keep their images, the running one included; 0 is the host's choice
	By      string `json:"by,omitempty"`      // who asked, for the history: user@client
	Source  string `json:"source,omitempty"`  // git commit or "working tree", for the history
	All     bool   `json:"all,omitempty"`     // restart every unit, changed or not
	DryRun  bool   `json:"dry_run,omitempty"` // answer with the plan, change nothing
}

// Previous is, as Activate.Release, the one that ran before the running one.
const Previous = "previous"

// NoRelease is, as Activate.Instead, that nothing runs.
const NoRelease = "none"

// SignedText is what a signature of an activation is about: who has it can run
// this image with these settings, and nothing else.
func SignedText(app, digest string, s Settings) ([]byte, error) {
	data, err := json.Marshal(s) // in one order: encoding/json sorts the keys of maps
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "devbox release\napp %s\nimage %s\nsettings %x\n", app, digest, sha256.Sum256(data)), nil
}

// Settings are kept with a release and come back with it on rollback.
type Settings struct {
	Profile string                       `json:"profile,omitempty"` // portable profile; "" is "default"
	Env     map[string]map[string]string `json:"env,omitempty"`     // unit -> variable -> value
	Health  Health                       `json:"health"`
	// Trial is how long the units must stay up, and the check be passed at the
	// end once more, before the release is committed; 0 is a moment.
	Trial time.Duration `json:"trial,omitempty"`
	State State         `json:"state,omitzero"`
}

// State says what a host is to know of the data that an app has stored.
type State struct {
	// Check is a program of the image and its arguments, which prints a [Data].
	Check []string `json:"check,omitempty"`
	// Snapshot is [BeforeActivate], or "" for none.
	Snapshot string `json:"snapshot,omitempty"`
}

// BeforeActivate is, as State.Snapshot, a copy of the data before each
// activation that changes what runs.
const BeforeActivate = "before-activate"

// Health says when a new release counts as good. At most one of URL and
// Command is set; with neither, units that are up and stay up are enough.
type Health struct {
	URL      string        `json:"url,omitempty"`     // fetched on the host; 2xx is healthy
	Expect   string        `json:"expect,omitempty"`  // text that the URL's answer must have; ${DEVBOX_VERSION} is the release's version
	Command  string        `json:"command,omitempty"` // run on the host by sh as an unprivileged user; exit 0 is healthy
	Deadline time.Duration `json:"deadline"`          // for units to be ready and healthy, together
}

// PrepareTime is how long oneshots that a service requires may take, such as the
// restore of a database: Health.Deadline does not count it. Mostly their own
// TimeoutStartSec= ends them before.
const PrepareTime = 10 * time.Minute

// StatusOf asks for the state of one app.
type StatusOf struct {
	App string `json:"app"`
}

// ReleasesOf asks for the history of one app.
type ReleasesOf struct {
	App string `json:"app"`
}

// DataOf asks what the running release's own check says of the app's data. The
// answer has a Data.
type DataOf struct {
	App string `json:"app"`
}

// Recover asks for an app to be put right: an interrupted activation undone or
// finished, missing unit files attached again, units that are down started.
// The answer has a Recovered.
type Recover struct {
	App string `json:"app"`
}

// Forget asks for an app to be taken off the host: units stopped and detached,
// images and history deleted. What the app stored (StateDirectory=) stays.
type Forget struct {
	App string `json:"app"`
}

// Recovered says what a Recover did; empty when nothing was wrong.
type Recovered struct {
	Done []string `json:"done,omitempty"`
}

// Event is one line from the host. One of the pointers may be set; Done marks
// the last event of a request, Error (with Hint) a request that failed.
type Event struct {
	Welcome   *Welcome   `json:"welcome,omitempty"`
	Plan      *Plan      `json:"plan,omitempty"`
	Phase     *Phase     `json:"phase,omitempty"`
	Result    *Result    `json:"result,omitempty"`
	Status    *Status    `json:"status,omitempty"`
	Releases  *[]Release `json:"releases,omitempty"` // newest first
	Data      *Data      `json:"data,omitempty"`
	Recovered *Recovered `json:"recovered,omitempty"`
	Done      bool       `json:"done,omitempty"`
	Error     string     `json:"error,omitempty"`
	Hint      string     `json:"hint,omitempty"`
	Code      string     `json:"code,omitempty"` // one of the Code constants, for errors a client acts on
}

// Codes of errors that a client can act on by itself.
const (
	CodeUnknownBase = "unknown-base" // of a Receive: send the whole image instead
	CodeNoImage     = "no-image"     // of an Activate: send the image first
	CodeBusy        = "busy"         // another activation holds the lock
	CodeProtocol    = "protocol"     // install the matching devbox-host
	CodeNoRelease   = "no-release"   // of an Activate: the history has no such release, or its image is gone
	CodePolicy      = "policy"       // the host's policy forbids it
	CodeNoSecret    = "no-secret"    // of an Activate: a unit names a secret that is not set, or another app's
	CodeChanged     = "changed"      // of an Activate: another release runs than Instead
)

// Welcome answers Hello.
type Welcome struct {
	Protocol  int      `json:"protocol"`
	Build     string   `json:"build"`               // version of this devbox-host
	Arch      string   `json:"arch"`                // the host's, as GOARCH names it
	Current   string   `json:"current,omitempty"`   // digest of the running release's image
	Images    []string `json:"images,omitempty"`    // digests that can serve as Base
	Recovered string   `json:"recovered,omitempty"` // what was done about an interrupted activation
}

// Plan is what an activation will do, and why.
type Plan struct {
	Release string        `json:"release,omitempty"` // id that the release has, or will have
	Of      string        `json:"of,omitempty"`      // id of the release of the history that it brings back
	Digest  string        `json:"digest,omitempty"`
	Source  string        `json:"source,omitempty"`
	Within  time.Duration `json:"within,omitempty"` // deadline and trial of its settings, together
	Data    time.Time     `json:"data,omitzero"`    // of when the snapshot is that comes back; zero: the data stays
	First   bool          `json:"first,omitempty"`  // nothing was attached before
	Reload  bool          `json:"reload,omitempty"` // unit files change: attach and daemon-reload; else a rename
	Restart []UnitWhy     `json:"restart,omitempty"`
	Stay    []UnitWhy     `json:"stay,omitempty"`
	Remove  []UnitWhy     `json:"remove,omitempty"`
	Changed []FileEdit    `json:"changed,omitempty"` // files of the image, at most 100
}

// Empty says that nothing would happen to any unit.
func (p Plan) Empty() bool { return !p.Reload && len(p.Restart)+len(p.Remove) == 0 }

// UnitWhy names a unit and the reason for what happens to it.
type UnitWhy struct {
	Unit string `json:"unit"`
	Why  string `json:"why"`
}

// FileEdit is a file of the image that differs.
type FileEdit struct {
	Path string `json:"path"`
	Edit string `json:"edit"` // "added", "removed" or "changed"
}

// Phase is a finished step and how long it took. A trial, which is long, is
// also told of when it begins: Took is 0 then.
type Phase struct {
	Name string        `json:"name"` // "receive", "compare", "snapshot", "fetch", "switch", "attach", "reload", "restart", "health", "trial", "commit", "rollback"
	Took time.Duration `json:"took"`
}

// Outcomes of an activation.
const (
	Committed   = "committed"   // the new release runs
	Planned     = "planned"     // a dry run: Plan says what would happen
	RolledBack  = "rolled-back" // the previous release runs again
	Unchanged   = "unchanged"   // it ran already, with the same settings
	Interrupted = "interrupted" // of the history: it was undone after a crash
	Failed      = "failed"      // neither could be brought up: Serving tells what is left
)

// Result ends an activation.
type Result struct {
	Outcome string   `json:"outcome"`
	Release string   `json:"release,omitempty"` // id of the release that was asked for
	Serving string   `json:"serving,omitempty"` // id of the release that runs now
	Plan    Plan     `json:"plan"`
	Phases  []Phase  `json:"phases,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	// Migration is what a release that comes back, or would, finds of its data.
	Migration *Migration `json:"migration,omitempty"`
}

// Migration is data that another release has given another schema than it had
// when the one that is to run on it was kept.
type Migration struct {
	Release string `json:"release"` // which was kept on From
	From    int64  `json:"from"`    // schema, see [Data]
	To      int64  `json:"to"`
}

func (m Migration) String() string {
	return fmt.Sprintf("%s was kept on data of schema %d, which has been migrated to %d since", m.Release, m.From, m.To)
}

// Failure is why a release was not kept.
type Failure struct {
	Unit  string   `json:"unit,omitempty"` // the unit that failed, if one did
	Cause string   `json:"cause"`          // one sentence: "exited at once with status 1", "not ready within 10s", …
	Log   []string `json:"log,omitempty"`  // the last lines of that unit's journal in that invocation
}

// Status is the state of one app, asked of systemd and the disk.
type Status struct {
	App      string       `json:"app"`
	Current  *Release     `json:"current,omitempty"`
	Previous *Release     `json:"previous,omitempty"`
	Units    []UnitStatus `json:"units,omitempty"`
	Problem  string       `json:"problem,omitempty"` // an interrupted activation, a missing unit file, …
}

// Data is what an app's own check says of what the app has stored. Each field
// may be missing.
type Data struct {
	Integrity string           `json:"integrity,omitempty"` // "ok", or what is wrong
	Schema    *int64           `json:"schema,omitempty"`    // which version of its layout the data has
	Rows      map[string]int64 `json:"rows,omitempty"`      // of each table
	Newest    time.Time        `json:"newest,omitzero"`     // when something was written last
	Problem   string           `json:"problem,omitempty"`   // why it is not well, or not known; the check itself cannot set it
	Log       []string         `json:"log,omitempty"`       // the last lines that a check which failed has logged
}

// Release is one entry of an app's history.
type Release struct {
	ID        string    `json:"id"` // "r12": counts up per app
	Digest    string    `json:"digest"`
	Settings  Settings  `json:"settings"`
	Of        string    `json:"of,omitempty"` // id of the release that this one brought back
	By        string    `json:"by,omitempty"`
	Source    string    `json:"source,omitempty"`
	Signature string    `json:"signature,omitempty"`
	SignedBy  string    `json:"signed_by,omitempty"` // whom the host's policy knows the signature's key as
	At        time.Time `json:"at"`
	Outcome   string    `json:"outcome,omitempty"` // Committed, RolledBack, Failed, or [Interrupted]
	Cause     string    `json:"cause,omitempty"`   // why it was not kept
	Gone      bool      `json:"gone,omitempty"`    // its image is no longer on the host; only in a list of releases
	Schema    *int64    `json:"schema,omitempty"`  // of the data, as its own check told once it was kept; see [Data]
	Data      time.Time `json:"data,omitzero"`     // of when the snapshot of the data is that was brought back with it
	// Snapshot is when the newest copy of the data was made that it ran on last;
	// only in a list of releases.
	Snapshot time.Time `json:"snapshot,omitzero"`
}

// UnitStatus is one unit as systemd reports it.
type UnitStatus struct {
	Unit    string    `json:"unit"`
	Active  string    `json:"active"` // ActiveState
	Sub     string    `json:"sub"`
	Since   time.Time `json:"since,omitzero"`
	MainPID int       `json:"main_pid,omitempty"`
	Memory  int64     `json:"memory,omitempty"` // bytes
	Problem string    `json:"problem,omitempty"`
	Log     []string  `json:"log,omitempty"` // the last lines of one that failed, or is not ready yet
}
