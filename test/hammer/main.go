// Command hammer fetches a page again and again until its standard input ends,
// then prints what it saw as JSON. Tests run it inside of a machine.
package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"devbox/test/visit"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	report := visit.Hammer(ctx, os.Args[1], 4, 10*time.Millisecond)
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		os.Exit(1)
	}
}
