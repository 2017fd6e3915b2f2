package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"sync"
)

// LogLine is one line that the app wrote to the journal.
type LogLine struct {
	Unit       string `json:"unit"`
	Invocation string `json:"invocation"` // of the unit: changes at each restart
	Message    string `json:"message"`
	Cursor     string `json:"-"`
}

// followLogs reports what the app's units print, until the returned function
// is called. It goes on where an earlier one stopped, so a lost connection
// loses no line.
func (f *follower) followLogs(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	r, w := io.Pipe()
	h, cursor := f.host, f.cursor
	done.Go(func() {
		err := h.Logs(ctx, LogOptions{Follow: true, JSON: true, Cursor: cursor}, w)
		w.CloseWithError(err)
	})
	done.Go(func() {
		in := bufio.NewScanner(r)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			if l, ok := parseEntry(in.Bytes()); ok {
				f.cursor = l.Cursor
				if l.Message != "" {
					f.opts.Report(WatchEvent{Log: &l})
				}
			}
		}
		r.CloseWithError(in.Err()) // the writer must not wait for a reader that is gone
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// parseEntry reads an entry of journalctl -o json. What systemd says about a
// unit has a cursor but no message: the cycle's own line tells of it.
func parseEntry(line []byte) (LogLine, bool) {
	var e struct {
		Cursor     string          `json:"__CURSOR"`
		Unit       string          `json:"_SYSTEMD_UNIT"`
		Invocation string          `json:"_SYSTEMD_INVOCATION_ID"`
		Message    json.RawMessage `json:"MESSAGE"`
	}
	if json.Unmarshal(line, &e) != nil {
		return LogLine{}, false
	}
	l := LogLine{Unit: e.Unit, Invocation: e.Invocation, Cursor: e.Cursor}
	if e.Unit == "" || e.Unit == "init.scope" {
		return l, true
	}
	if json.Unmarshal(e.Message, &l.Message) != nil {
		var raw []byte // journalctl gives text that is not UTF-8 as an array of bytes
		var numbers []int
		if json.Unmarshal(e.Message, &numbers) == nil {
			for _, n := range numbers {
				raw = append(raw, byte(n))
			}
		}
		l.Message = string(raw)
	}
	return l, true
}
