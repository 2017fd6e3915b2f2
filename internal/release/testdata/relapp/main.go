// Command relapp is what the tests of package release run on a real machine: a
// server that behaves as the file /etc/relapp/mode of its image says.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		check(os.Args[1:])
	}
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
	migrate(read("/usr/share/relapp/schema"))
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
		if text, ok := strings.CutPrefix(r.URL.Path, "/store/"); ok {
			if err := store(text); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
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
	// Who has asked is answered: a test counts the visitors that are not.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = srv.Shutdown(ctx)
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

func stored(name string) string { return filepath.Join(os.Getenv("STATE_DIRECTORY"), name) }

// store adds a line to what the app has stored, on disk for good.
func store(text string) error {
	f, err := os.OpenFile(stored("lines"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, text); err != nil {
		return err
	}
	return f.Sync()
}

// migrate gives the data the schema of this version, unless it has a later one.
func migrate(schema string) {
	if is, _ := strconv.Atoi(read(stored("schema"))); schema != "" {
		if want, _ := strconv.Atoi(schema); want > is {
			_ = os.WriteFile(stored("schema"), []byte(schema), 0o600)
		}
	}
}

// check says what there is to say of the data, as the words that it is given
// want it.
func check(words []string) {
	switch words[0] {
	case "check":
		lines := read(stored("lines"))
		fmt.Printf(`{"integrity":"ok","schema":%s,"rows":{"lines":%d}}`+"\n", cmp.Or(read(stored("schema")), "0"), len(strings.Fields(lines)))
	case "who":
		_, neterr := net.DialTimeout("tcp", words[1], time.Second)
		_, hosterr := os.Stat("/etc/shadow")
		werr := os.WriteFile("/usr/x", nil, 0o600)
		fmt.Printf(`{"integrity":%q}`+"\n", strings.TrimSpace(fmt.Sprintln(os.Getuid() != 0, neterr != nil, hosterr != nil, werr != nil, os.Getenv("GREETING"), os.Getenv("DEVBOX_RELEASE"), words[2])))
	case "hang":
		time.Sleep(time.Hour)
	case "flood":
		for {
			if _, err := os.Stdout.Write(make([]byte, 64<<10)); err != nil {
				os.Exit(1)
			}
		}
	default:
		fmt.Println(`{"integrity":"row 3 is torn"}`)
		fmt.Fprintln(os.Stderr, "relapp: row 3 cannot be read")
		os.Exit(7)
	}
	os.Exit(0)
}
