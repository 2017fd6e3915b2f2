// Command hammer fetches a page again and again until its standard input ends,
// then prints what it saw as JSON. Tests run it inside of a machine.
package main

import (
	"encoding/json"
	"os"
	"time"

	"devbox/test/harness"
)

func main() {
	report := harness.Hammer(harness.FromStdin(), os.Args[1], 4, 10*time.Millisecond)
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		os.Exit(1)
	}
}
