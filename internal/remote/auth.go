package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// credentials are what one hop is offered, and the record of it for the error.
type credentials struct {
	hop     Hop
	o       Options
	paused  func(func()) // runs a prompt with the dial's clock stopped
	agent   net.Conn
	tried   []string
	skipped []string
	banner  bytes.Buffer
}

func (c *credentials) close() {
	if c.agent != nil {
		c.agent.Close()
	}
}

func (c *credentials) methods(ctx context.Context) []ssh.AuthMethod {
	methods := []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return c.signers(ctx), nil })}
	if c.o.Answer != nil {
		const tries = 3
		challenge := func(_, _ string, questions []string, echos []bool) ([]string, error) {
			return c.challenge(ctx, questions, echos)
		}
		password := func() (string, error) { return c.password(ctx) }
		methods = append(methods,
			ssh.RetryableAuthMethod(ssh.KeyboardInteractive(challenge), tries),
			ssh.RetryableAuthMethod(ssh.PasswordCallback(password), tries))
	}
	return methods
}

// signers gives the keys in the order that wastes the fewest of the server's
// MaxAuthTries: keys that a file names, agent's copy first, then the agent's
// others.
func (c *credentials) signers(ctx context.Context) []ssh.Signer {
	fromAgent := c.agentKeys(ctx)
	var out []ssh.Signer
	for _, file := range c.hop.IdentityFiles {
		public, private := c.fileKey(ctx, file)
		if public == nil {
			continue
		}
		i := slices.IndexFunc(fromAgent, func(s ssh.Signer) bool { return bytes.Equal(s.PublicKey().Marshal(), public.Marshal()) })
		switch {
		case i >= 0:
			out = append(out, fromAgent[i])
			fromAgent = slices.Delete(fromAgent, i, i+1)
			c.tried = append(c.tried, file+" (in the agent)")
		case private != nil:
			out = append(out, private)
			c.tried = append(c.tried, file)
		}
	}
	if !c.hop.IdentitiesOnly {
		for _, s := range fromAgent {
			out = append(out, s)
			c.tried = append(c.tried, "agent key "+ssh.FingerprintSHA256(s.PublicKey()))
		}
	}
	return out
}

func (c *credentials) agentKeys(ctx context.Context) []ssh.Signer {
	if c.hop.AgentSocket == "" {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.hop.AgentSocket)
	if err != nil {
		c.skipped = append(c.skipped, fmt.Sprintf("the agent's keys (%v)", err))
		return nil
	}
	c.agent = conn
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		c.skipped = append(c.skipped, fmt.Sprintf("the agent's keys (%v)", err))
	}
	return signers
}

// fileKey reads an identity file. The signer is nil if the file holds only a
// public key, or an encrypted one and there is nobody to ask.
func (c *credentials) fileKey(ctx context.Context, file string) (ssh.PublicKey, ssh.Signer) {
	skip := func(why string) { c.skipped = append(c.skipped, file+" ("+why+")") }
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		// Defaults that are not there are no news.
		if c.hop.IdentitiesOnly || filepath.Dir(file) != filepath.Join(c.o.Home, ".ssh") {
			skip("no such file")
		}
		return publicOf(file), nil
	}
	if err != nil {
		skip(err.Error())
		return nil, nil
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return public, nil
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err == nil {
		return signer.PublicKey(), signer
	}
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		skip(err.Error())
		return nil, nil
	}
	public := locked.PublicKey
	if public == nil {
		public = publicOf(file)
	}
	if c.o.Passphrase == nil {
		skip("encrypted, and nobody to ask for the passphrase")
		return public, nil
	}
	if public == nil {
		// An old PEM file does not say which key it holds: ask now.
		signer, err := c.unlock(ctx, file, text)
		if err != nil {
			skip(err.Error())
			return nil, nil
		}
		return signer.PublicKey(), signer
	}
	return public, &lockedKey{public: public, unlock: func() (ssh.Signer, error) { return c.unlock(ctx, file, text) }}
}

func publicOf(file string) ssh.PublicKey {
	text, err := os.ReadFile(file + ".pub")
	if err != nil {
		return nil
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil
	}
	return public
}

func (c *credentials) unlock(ctx context.Context, file string, text []byte) (signer ssh.Signer, err error) {
	const tries = 3
	for range tries {
		var asking error
		c.paused(func() {
			var phrase []byte
			if phrase, asking = c.o.Passphrase(ctx, file); asking == nil {
				// Slow by design (bcrypt), and not the host's time either.
				signer, err = ssh.ParsePrivateKeyWithPassphrase(text, phrase)
			}
		})
		if asking != nil {
			return nil, fmt.Errorf("ask for the passphrase of %s: %w", file, asking)
		}
		if err == nil {
			return signer, nil
		}
	}
	return nil, fmt.Errorf("unlock %s: %w", file, err)
}

func (c *credentials) ask(ctx context.Context, prompt string, echo bool) (answer string, err error) {
	q := Question{Host: c.hop.Alias, User: c.hop.User, Prompt: prompt, Echo: echo}
	c.paused(func() { answer, err = c.o.Answer(ctx, q) })
	return answer, err
}

func (c *credentials) password(ctx context.Context) (string, error) {
	c.tried = append(c.tried, "password")
	return c.ask(ctx, fmt.Sprintf("%s@%s's password: ", c.hop.User, c.hop.Alias), false)
}

func (c *credentials) challenge(ctx context.Context, questions []string, echos []bool) ([]string, error) {
	if len(questions) > 0 {
		c.tried = append(c.tried, "keyboard-interactive")
	}
	answers := make([]string, len(questions))
	for i, q := range questions {
		var err error
		if answers[i], err = c.ask(ctx, q, echos[i]); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// lockedKey is an encrypted key whose passphrase is asked for only when the
// server has said that it would take the key.
type lockedKey struct {
	public ssh.PublicKey
	unlock func() (ssh.Signer, error)
}

func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

func (k *lockedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

func (k *lockedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	signer, err := k.unlock()
	if err != nil {
		return nil, err
	}
	if s, ok := signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return signer.Sign(rand, data)
}
