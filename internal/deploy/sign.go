package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"devbox/internal/hint"
	"devbox/internal/protocol"
)

// sign signs what an activation runs, if the target has a key for that, with
// ssh-keygen(1): it knows agents, security keys and pass phrases.
func (t *Target) sign(ctx context.Context, a protocol.Activate) (string, error) {
	if t.SigningKey == "" {
		return "", nil
	}
	key := t.SigningKey
	if rest, ok := strings.CutPrefix(key, "~/"); ok {
		key = filepath.Join(t.project.Paths.Home, rest)
	} else {
		key = t.project.Config.Abs(key)
	}
	if _, err := os.Stat(key); errors.Is(err, fs.ErrNotExist) {
		return "", hint.Errorf(fmt.Sprintf("make one with `ssh-keygen`, or correct targets.%s.signing_key", t.Name), "there is no key %s to sign with", key)
	}
	text, err := protocol.SignedText(t.project.Config.Name, a.Digest, a.Settings)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "ssh-keygen", "-q", "-Y", "sign", "-n", "devbox", "-f", key)
	var signature, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &signature, &said
	if err := cmd.Run(); err != nil {
		// It has the terminal's Ctrl-C too, and may be faster.
		if interrupted(cmd) {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if errors.Is(err, exec.ErrNotFound) {
			return "", hint.Errorf("install openssh-client", "sign the release: %w", err)
		}
		return "", hint.Errorf("if the key has a pass phrase, load it into your agent: `ssh-add "+key+"`",
			"sign the release with %s: %w: %s", key, err, strings.TrimSpace(said.String()))
	}
	return signature.String(), nil
}

func interrupted(cmd *exec.Cmd) bool {
	if cmd.ProcessState == nil {
		return false
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGINT
}
