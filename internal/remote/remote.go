// Package remote keeps one SSH connection to a host and does over it what the
// rest of devbox needs: commands, files and TCP connections. Dev machines and
// production hosts are reached by the same code.
//
// Host keys are always verified. The package looks nothing up by itself: home
// folder, config files, agent socket and prompts come in [Options].
package remote

import (
	"context"
	"time"
)

// Endpoint says which host to reach. What is left zero comes from the SSH
// config, then from OpenSSH's defaults.
type Endpoint struct {
	Host          string   // alias in the SSH config, host name or address
	Port          int      // 0: the config's, else 22
	User          string   // "": the config's, else Options.LocalUser
	IdentityFiles []string // when given, only these keys are offered
	KnownHosts    []string // when given, only these files are consulted; a new key goes to the first
	HostKeyAlias  string   // name of the host in known_hosts, where it is not Host
	ConfigFile    string   // read instead of Options.ConfigFiles, like ssh -F
}

// Options are the client's side of a connection: what belongs to the person
// and to the machine that devbox runs on.
type Options struct {
	Home        string   // for ~, %d and the default keys and known_hosts
	ConfigFiles []string // SSH configs in order of precedence; missing ones are skipped
	LocalUser   string   // user name when nothing names one, and %u
	AgentSocket string   // value of SSH_AUTH_SOCK; "": no agent

	// Passphrase asks for the passphrase of an encrypted key file. It is called
	// only for a key that the server would accept. Nil: the key is skipped.
	Passphrase func(ctx context.Context, file string) ([]byte, error) `json:"-"`
	// Answer asks one question of the server: a password, or a
	// keyboard-interactive prompt. Nil: only keys are tried.
	Answer func(ctx context.Context, q Question) (string, error) `json:"-"`
	// ConfirmHostKey decides on a host that no known_hosts file names; on true
	// the key is appended to the first known_hosts file. Nil: refuse.
	ConfirmHostKey func(ctx context.Context, unknown *HostKeyUnknownError) (bool, error) `json:"-"`

	Timeout        time.Duration // of connecting and authenticating, per hop, prompts not counted; 0: 15 s
	KeepAlive      time.Duration // interval; 0: 5 s, negative: none
	KeepAliveTries int           // intervals without an answer that end the connection; 0: 3
}

// Question is one thing the server asks the person.
type Question struct {
	Host, User string
	Prompt     string // as the server words it
	Echo       bool   // the answer may be shown while typing
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 5 * time.Second
	}
	if o.KeepAliveTries == 0 {
		o.KeepAliveTries = 3
	}
	return o
}
