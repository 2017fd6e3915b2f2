package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"devbox/internal/protocol"
)

// defaultDeadline is for a release whose settings name none.
const defaultDeadline = 10 * time.Second

func deadlineOf(h protocol.Health) time.Duration {
	if h.Deadline > 0 {
		return h.Deadline
	}
	return defaultDeadline
}

// check asks once whether the release is healthy.
func (a *app) check(ctx context.Context, r protocol.Release, expect []string) error {
	h := r.Settings.Health
	switch {
	case h.URL != "":
		return checkURL(ctx, h.URL, expect)
	case h.Command != "":
		env := []string{versionVar + "=" + short(r.Digest), releaseVar + "=" + r.ID}
		return a.sys.Try(ctx, "devbox-health-"+a.name, h.Command, env)
	}
	return nil
}

// expected are the texts of which the answer must have one. A service that was
// not restarted is part of the release and has the version still that it was
// started with: stay names those.
func (a *app) expected(ctx context.Context, r protocol.Release, stay []string) ([]string, error) {
	text := r.Settings.Health.Expect
	if text == "" {
		return nil, nil
	}
	const variable = "${" + versionVar + "}"
	all := []string{strings.ReplaceAll(text, variable, short(r.Digest))}
	if !strings.Contains(text, variable) {
		return all, nil
	}
	for _, unit := range stay {
		st, err := a.sys.Unit(ctx, unit)
		if err != nil {
			return nil, err
		}
		if version := a.startedWith(st.MainPID); version != "" {
			all = append(all, strings.ReplaceAll(text, variable, version))
		}
	}
	return all, nil
}

// startedWith is the version in the environment of a process, "" if that cannot
// be told.
func (a *app) startedWith(pid int) string {
	data, err := os.ReadFile(filepath.Join(a.root, "proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return ""
	}
	for v := range strings.SplitSeq(string(data), "\x00") {
		if version, ok := strings.CutPrefix(v, versionVar+"="); ok {
			return version
		}
	}
	return ""
}

// maxAnswer is how much of an answer is looked at, bytes.
const maxAnswer = 64 << 10

// checkURL is healthy on 2xx with one of the texts in it, if there are any. It goes straight to the URL: no proxy of the
// environment, no redirect to elsewhere, a new connection each time so that an
// old process that is still draining cannot answer for the new one.
func checkURL(ctx context.Context, target string, expect []string) error {
	client := http.Client{
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "devbox-host")
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("no answer")
		}
		return fmt.Errorf("GET %s: %w", target, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		text := ""
		if resp.StatusCode/100 == 3 {
			text = " (redirects are not followed)"
		}
		return fmt.Errorf("GET %s answered %d%s", target, resp.StatusCode, text)
	}
	if len(expect) == 0 || slices.ContainsFunc(expect, func(text string) bool { return bytes.Contains(body, []byte(text)) }) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("GET %s: the answer broke off: %w", target, err)
	}
	return fmt.Errorf("GET %s answered %q, which has no %q", target, clip(string(body)), clip(expect[0]))
}

// clip is the beginning of a text, for a message.
func clip(text string) string {
	const most = 100 // runes
	text = printable(strings.Join(strings.Fields(strings.ToValidUTF8(text, "�")), " "))
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
