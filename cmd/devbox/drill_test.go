package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSecretsOfARehearsal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("a=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := secretFiles([]string{"s3=" + file})
	if err != nil || len(all) != 1 || string(all["s3"]) != "a=b" {
		t.Errorf("%q, %v", all, err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"s3", "s3=" + empty, "../s3=" + file, "s3=" + file + ".none", "=" + file} {
		if _, err := secretFiles([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
