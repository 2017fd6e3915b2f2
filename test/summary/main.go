// Command summary reads what `go test -json` wrote and sums it up: why tests
// were skipped, and in the last line how many passed, failed and were skipped.
// With -all it exits with 1 if any was skipped, or if there was none at all.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

// event is a line of test2json's output.
type event struct {
	Action, Package, Test, Output string
}

// test is a test, or a package where it has no name.
type test struct{ pkg, name string }

// rank decides where several stages ran a test: one that failed failed, and one
// that only one of them could run is not skipped.
var rank = map[string]int{"skip": 1, "pass": 2, "fail": 3}

func main() {
	all := flag.Bool("all", false, "no test may be skipped")
	flag.Parse()
	said := map[test][]string{}
	ended := map[test]string{}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			continue // a line that a program wrote past the tests
		}
		t := test{e.Package, e.Test}
		switch {
		case e.Action == "output":
			said[t] = append(said[t], strings.TrimSpace(e.Output))
		case rank[e.Action] > rank[ended[t]]:
			ended[t] = e.Action
		}
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	counts := report(ended, said)
	if *all && (counts["skip"] > 0 || counts["pass"] == 0) {
		fmt.Fprintln(os.Stderr, "summary: every test was to run")
		os.Exit(1)
	}
}

func report(ended map[test]string, said map[test][]string) (counts map[string]int) {
	broken := map[string]bool{} // packages of which a test failed
	for t, action := range ended {
		if t.name != "" && action == "fail" {
			broken[t.pkg] = true
		}
	}
	counts = map[string]int{}
	var skips []string
	for t, action := range ended {
		// A package counts only where it failed without a test, as by not compiling.
		if t.name == "" && (action != "fail" || broken[t.pkg]) {
			continue
		}
		counts[action]++
		if action == "skip" {
			skips = append(skips, fmt.Sprintf("skipped    %s %s: %s", t.pkg, t.name, reason(said[t])))
		}
	}
	slices.Sort(skips)
	for _, line := range skips {
		fmt.Println(line)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", counts["pass"], counts["fail"], counts["skip"])
	return counts
}

// reason is what a test said when it skipped: "file_test.go:12: needs root".
func reason(said []string) string {
	for _, line := range said {
		if _, text, found := strings.Cut(line, ": "); found && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return text
		}
	}
	return "no reason given"
}
