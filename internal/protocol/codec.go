package protocol

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ErrTooLong is a line of more than MaxLine bytes.
var ErrTooLong = fmt.Errorf("line is longer than %d bytes", MaxLine)

// ReadRequest reads one request and validates it. It reads nothing past the
// end of its line, so that what follows can be read from r. io.EOF means that
// the client has closed its side between two requests.
func ReadRequest(r *bufio.Reader) (Request, error) {
	var req Request
	if err := readLine(r, &req); err != nil {
		if errors.Is(err, io.EOF) {
			return req, err
		}
		return req, fmt.Errorf("read request: %w", err)
	}
	return req, req.Validate()
}

// ReadEvent reads one event. io.EOF means that the host has closed its side.
func ReadEvent(r *bufio.Reader) (Event, error) {
	var e Event
	if err := readLine(r, &e); err != nil {
		if errors.Is(err, io.EOF) {
			return e, err
		}
		return e, fmt.Errorf("read event: %w", err)
	}
	return e, nil
}

// WriteEvent writes e as one line. An event that would be too long for the
// other side loses what makes it long: the list of changed files and the log,
// the settings and signatures of a history, the environment of what runs.
func WriteEvent(w io.Writer, e Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	if len(line) >= MaxLine {
		if line, err = json.Marshal(shorten(e)); err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
		if len(line) >= MaxLine {
			return fmt.Errorf("encode event: %w", ErrTooLong)
		}
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

func shorten(e Event) Event {
	if e.Plan != nil {
		plan := *e.Plan
		plan.Changed = nil
		e.Plan = &plan
	}
	if e.Result != nil {
		result := *e.Result
		result.Plan.Changed = nil
		if result.Failure != nil {
			failure := *result.Failure
			failure.Log = nil
			result.Failure = &failure
		}
		e.Result = &result
	}
	if e.Releases != nil {
		releases := slices.Clone(*e.Releases)
		for i := range releases {
			releases[i].Settings, releases[i].Signature = Settings{}, ""
		}
		e.Releases = &releases
	}
	if e.Status != nil {
		status := *e.Status
		for _, r := range []**Release{&status.Current, &status.Previous} {
			if *r != nil {
				release := **r
				release.Settings.Env, release.Signature = nil, ""
				*r = &release
			}
		}
		e.Status = &status
	}
	return e
}

// readLine decodes the one JSON object on the next line of r into v.
func readLine(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > MaxLine {
			return ErrTooLong
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) && len(line) > 0 {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("not one JSON object on a line")
		}
		return err
	}
	if rest := bytes.TrimSpace(line[dec.InputOffset():]); len(rest) > 0 {
		return errors.New("more than one JSON value on a line")
	}
	return nil
}
