package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// guest is a URL of the machine at its own address: straight over the virtual
// cable, the forward to this computer's ports is not counted.
func (b *bench) guest(port int, path string) string {
	return fmt.Sprintf("http://%s%s", net.JoinHostPort(b.admin.Host, fmt.Sprint(port)), path)
}

// pollPause is between two requests. It does not limit how precise the figures
// are: while a service restarts a request waits in its socket, and the new
// process answers it at once.
const pollPause = 5 * time.Millisecond

// answerTime is how long a new version may take to answer.
const answerTime = 2 * time.Minute

// until asks url on ever new connections until accept takes an answer, and
// returns when that came and what it was.
func until(ctx context.Context, url string, accept func(body string) bool) (time.Time, string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, errors.New("no such answer in time"))
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var body string
	var err error
	for {
		if body, err = get(ctx, &client, url); err == nil && accept(body) {
			return time.Now(), body, nil
		}
		select {
		case <-time.After(pollPause):
		case <-ctx.Done():
			return time.Time{}, "", fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("answer %s", resp.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// untilVersion waits for another version than old.
func (b *bench) untilVersion(ctx context.Context, old string) (time.Time, string, error) {
	return until(ctx, b.guest(8080, "/version"), func(body string) bool { return body != "" && body != old })
}
