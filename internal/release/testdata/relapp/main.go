// Command relapp is what the tests of package release run on a real machine: a
// server that behaves as the file /etc/relapp/mode of its image says.
package main

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	mode := read("/etc/relapp/mode")
	fmt.Printf("relapp: mode %s, release %s\n", mode, os.Getenv("DEVBOX_RELEASE"))
	switch mode {
	case "exit":
		fmt.Println("relapp: cannot open the database: it is on fire")
		os.Exit(3)
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "hang":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Hour)
	}
	if os.Getenv("LISTEN_FDS") == "" {
		// The unit without a socket.
		fmt.Println("relapp: working")
		if mode == "late" {
			time.Sleep(150 * time.Millisecond)
			os.Exit(4)
		}
		time.Sleep(time.Hour)
	}
	if mode == "shortly" {
		notify("READY=1")
		time.Sleep(20 * time.Millisecond)
		panic("it was well for a moment")
	}
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		fmt.Println("relapp:", err)
		os.Exit(1)
	}
	page := read("/usr/share/relapp/page")
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && mode == "sick" {
			http.Error(w, "sick", http.StatusServiceUnavailable)
			return
		}
		if name, ok := strings.CutPrefix(r.URL.Path, "/credential/"); ok {
			value, err := os.ReadFile(filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), name))
			fmt.Fprintf(w, "%x %v\n", sha256.Sum256(value), err) // the value itself is looked for elsewhere
			return
		}
		fmt.Fprintf(w, "%s %s %s %s\n", page, os.Getenv("DEVBOX_VERSION"), os.Getenv("DEVBOX_RELEASE"), os.Getenv("GREETING"))
	})}
	go func() { _ = srv.Serve(l) }()
	if mode != "unready" {
		notify("READY=1")
	}
	if mode == "later" {
		go func() {
			time.Sleep(2 * time.Second)
			fmt.Println("relapp: the disk is full by now")
			os.Exit(5)
		}()
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	_ = srv.Close()
}

func read(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func notify(state string) {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
