package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
func (a *app) check(ctx context.Context, h protocol.Health) error {
	switch {
	case h.URL != "":
		return checkURL(ctx, h.URL)
	case h.Command != "":
		return a.sys.Try(ctx, "devbox-health-"+a.name, h.Command)
	}
	return nil
}

// checkURL is healthy on 2xx. It goes straight to the URL: no proxy of the
// environment, no redirect to elsewhere, a new connection each time so that an
// old process that is still draining cannot answer for the new one.
func checkURL(ctx context.Context, target string) error {
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
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	if resp.StatusCode/100 != 2 {
		text := ""
		if resp.StatusCode/100 == 3 {
			text = " (redirects are not followed)"
		}
		return fmt.Errorf("GET %s answered %d%s", target, resp.StatusCode, text)
	}
	return nil
}
