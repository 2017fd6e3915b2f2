package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"sync"
	"time"
)

// LogLine is one line that the app wrote to the journal.
type LogLine struct {
	Unit       string `json:"unit"`
	Invocation string `json:"invocation"` // of the unit: changes at each restart
	Message    string `json:"message"`
	Cursor     string `json:"-"`
}

// skipLogs lets followLogs begin behind what is in the journal now.
func (f *follower) skipLogs(ctx context.Context) error {
	var last bytes.Buffer
	if err := f.host.Logs(ctx, LogOptions{Lines: 1, JSON: true}, &last); err != nil {
		return err
	}
	if l, ok := parseEntry(last.Bytes()); ok {
		f.cursor = l.Cursor
	}
	return nil
}

// logsAgain is how long after its end the journal is followed again.
const logsAgain = time.Second

// followLogs reports what the app's units print, until the returned function
// is called. It begins behind the last entry that was reported or skipped, so
// that neither a lost connection nor anything else loses a line or repeats one.
func (f *follower) followLogs(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	h := f.host
	done.Go(func() {
		for told := false; ; told = true {
			o := LogOptions{Follow: true, JSON: true, Cursor: f.cursor}
			if o.Cursor == "" {
				o.Lines = math.MaxInt32 // the journal had nothing of the app: all is new
			}
			err := h.Logs(ctx, o, &lineWriter{line: f.reportEntry})
			if ctx.Err() != nil || h.Conn.Err() != nil {
				return
			}
			if !told {
				f.note("following the journal ended, trying again: %v", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(logsAgain):
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

func (f *follower) reportEntry(line []byte) {
	l, ok := parseEntry(line)
	if !ok {
		return
	}
	f.cursor = l.Cursor
	if l.Message != "" {
		f.opts.Report(WatchEvent{Log: &l})
	}
}

// lineWriter hands out each whole line written to it.
type lineWriter struct {
	part []byte
	line func([]byte)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for {
		line, rest, whole := bytes.Cut(w.part, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		w.line(line)
		w.part = rest
	}
}

// tooLong stands for a message that journalctl leaves out of its JSON.
const tooLong = "(more than 4 KiB: `devbox logs` has it)"

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
	if string(e.Message) == "null" {
		l.Message = tooLong
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
