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
	const want = "skipped    a T3: needs a machine: none\n1 passed, 2 failed, 1 skipped\n"
	if out, code := summary(t, in); out != want || code != 0 {
		t.Errorf("exit %d, got\n%swant\n%s", code, out, want)
	}
	if out, code := summary(t, in, "-all"); out != want || code == 0 {
		t.Errorf("with -all: exit %d, got\n%swant\n%s", code, out, want)
	}
}

// With -all a skip counts, and so does a run without a test.
func TestEveryTestIsToRun(t *testing.T) {
	const ran = `{"Action":"pass","Package":"a","Test":"T1"}` + "\n"
	for in, want := range map[string]int{
		ran: 0, "": 1, ran + `{"Action":"skip","Package":"b","Test":"T2"}`: 1,
		ran + `{"Action":"skip","Package":"without-tests"}`: 0,
	} {
		if out, code := summary(t, in, "-all"); code != want {
			t.Errorf("exit %d, not %d, of\n%s%s", code, want, in, out)
		}
	}
}

func summary(t *testing.T, in string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "."}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	text, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}
