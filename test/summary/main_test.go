package main

import (
	"os/exec"
	"strings"
	"testing"
)

// What two stages wrote is summed up: a test that one of them skipped and the
// other ran is not skipped, one that failed once has failed.
func TestSummary(t *testing.T) {
	const in = `{"Action":"output","Package":"a","Test":"T1","Output":"    a_test.go:3: needs root\n"}
{"Action":"skip","Package":"a","Test":"T1"}
{"Action":"pass","Package":"a","Test":"T2"}
{"Action":"output","Package":"a","Test":"T3","Output":"=== RUN   T3\n"}
{"Action":"output","Package":"a","Test":"T3","Output":"    a_test.go:9: needs a machine: none\n"}
{"Action":"skip","Package":"a","Test":"T3"}
{"Action":"pass","Package":"a"}
not JSON
{"Action":"pass","Package":"a","Test":"T1"}
{"Action":"fail","Package":"a","Test":"T2"}
{"Action":"fail","Package":"a"}
{"Action":"fail","Package":"does-not-compile"}
`
	cmd := exec.CommandContext(t.Context(), "go", "run", ".")
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "skipped    a T3: needs a machine: none\n1 passed, 2 failed, 1 skipped\n"
	if string(out) != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}
