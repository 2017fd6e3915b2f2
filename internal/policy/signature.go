package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"devbox/internal/hint"
)

// namespace of the signatures, as in `ssh-keygen -Y sign -n devbox`: one that
// was made for something else does not count.
const namespace = "devbox"

// verifyTime bounds one run of ssh-keygen.
const verifyTime = 10 * time.Second

// Signer checks the signature of a text, armored as `ssh-keygen -Y sign` makes
// it, and returns the principal of allowed signers whose key made it. Where the
// policy asks for no signatures it returns "".
func (p *Policy) Signer(ctx context.Context, text []byte, signature string) (string, error) {
	if p.signers == "" {
		return "", nil
	}
	if signature == "" {
		return "", hint.Errorf("name the key to sign with in devbox.yaml (targets.NAME.signing_key); it must be in "+p.signers+" of the host",
			"this host runs only what is signed, and this is not")
	}
	if _, err := readTrusted(p.root, p.signers); err != nil {
		return "", hint.Wrap(fmt.Errorf("allowed signers: %w", err), "have root of the host put "+p.signers+" right, which "+path+" names")
	}
	tool, err := exec.LookPath("ssh-keygen")
	if err != nil {
		return "", hint.Errorf("have root of the host run `apt-get install openssh-client`",
			"this host runs only what is signed, and has no ssh-keygen to check signatures with")
	}
	signers := filepath.Join(p.root, p.signers)
	out, err := keygen(ctx, tool, signature, nil, "find-principals", "-f", signers)
	if err != nil {
		return "", hint.Wrap(fmt.Errorf("no allowed signer has made the signature: %w", err),
			"sign with a key of "+p.signers+" of the host, or have root of the host add yours")
	}
	// A key may stand there under several names, each on a line of the output.
	for principal := range strings.Lines(out) {
		principal = strings.TrimSpace(principal)
		if _, err = keygen(ctx, tool, signature, text, "verify", "-n", namespace, "-f", signers, "-I", principal); err == nil {
			return principal, nil
		}
	}
	if err == nil {
		err = errors.New("it names nobody")
	}
	return "", hint.Wrap(fmt.Errorf("the signature is not one of this app, image and settings: %w", err), "deploy it again, signed by a key that "+p.signers+" of the host allows for "+namespace)
}

// keygen runs `ssh-keygen -Y what` about a signature, which it reads from a
// pipe, and returns what it prints.
func keygen(ctx context.Context, tool, signature string, text []byte, what string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, tool, append(append([]string{"-Y", what}, args...), "-s", "/dev/fd/3")...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Stdin = bytes.NewReader(text)
	cmd.ExtraFiles = []*os.File{r} // descriptor 3
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	go func() {
		defer w.Close()
		_, _ = w.WriteString(signature) // one that reads it not to its end says why
	}()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("ssh-keygen: %w", context.Cause(ctx))
		}
		return "", fmt.Errorf("ssh-keygen says %q", strings.Join(strings.Fields(errs.String()), " "))
	}
	return out.String(), nil
}
