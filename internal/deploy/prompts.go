package deploy

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"

	"devbox/internal/remote"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// memory asks a person for each pass phrase and password once, though several
// connections need it.
type memory struct {
	ask   remote.Options
	mu    sync.Mutex
	known map[string]string
}

func remember(o remote.Options) *memory { return &memory{ask: o, known: map[string]string{}} }

// options are those for one connection: what is asked again during it was wrong.
func (m *memory) options() remote.Options {
	o := m.ask
	used := map[string]bool{}
	recall := func(key string, ask func() (string, error)) (string, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if answer, ok := m.known[key]; ok && !used[key] {
			used[key] = true
			return answer, nil
		}
		answer, err := ask()
		if err == nil {
			m.known[key], used[key] = answer, true
		}
		return answer, err
	}
	if m.ask.Passphrase != nil {
		o.Passphrase = func(ctx context.Context, file string) ([]byte, error) {
			answer, err := recall("file "+file, func() (string, error) {
				b, err := m.ask.Passphrase(ctx, file)
				return string(b), err
			})
			return []byte(answer), err
		}
	}
	if m.ask.Answer != nil {
		o.Answer = func(ctx context.Context, q remote.Question) (string, error) {
			return recall(q.User+"@"+q.Host+" "+q.Prompt, func() (string, error) { return m.ask.Answer(ctx, q) })
		}
	}
	return o
}

// offered are the public keys that a connection to hop would offer, as far as
// that can be told without asking for a pass phrase.
func offered(hop remote.Hop) (keys []ssh.PublicKey) {
	if conn, err := net.Dial("unix", hop.AgentSocket); hop.AgentSocket != "" && err == nil {
		defer conn.Close()
		held, _ := agent.NewClient(conn).List()
		for _, k := range held {
			if key, err := ssh.ParsePublicKey(k.Blob); err == nil {
				keys = append(keys, key)
			}
		}
	}
	for _, file := range hop.IdentityFiles {
		text, err := os.ReadFile(file + ".pub")
		if err == nil {
			if key, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
				keys = append(keys, key)
				continue
			}
		}
		if text, err = os.ReadFile(file); err != nil {
			continue
		}
		var locked *ssh.PassphraseMissingError
		if key, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
			keys = append(keys, key)
		} else if signer, err := ssh.ParsePrivateKey(text); err == nil {
			keys = append(keys, signer.PublicKey())
		} else if errors.As(err, &locked) && locked.PublicKey != nil {
			keys = append(keys, locked.PublicKey)
		}
	}
	return keys
}
