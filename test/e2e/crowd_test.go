package e2e

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"devbox/test/harness"
	"devbox/test/play"
)

// What a crowd is.
const (
	crowdRooms   = 20
	crowdPlayers = 10
	crowdScreens = 50 // of each room: 1,000 streams in all
	crowdSeconds = 60
	slowScreens  = 20 // that do not read
)

// testCrowd has 1,000 screens follow 200 presses a second for a minute, on the
// two cores that they share with the app.
func testCrowd(t *testing.T, p *harness.Project) {
	// Not through the forwarded port, which is one SSH connection for all.
	at := strings.Fields(p.Inside(t, "hostname -I"))[0] + ":8080"
	c, err := play.Gather(t.Context(), "http://"+at, crowdRooms, crowdPlayers, crowdScreens)
	if err != nil {
		t.Fatal(err)
	}
	for n := range slowScreens {
		slow, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		if err := slow.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		if _, err := slow.Write([]byte("GET /rooms/" + c.Rooms[n%crowdRooms].Code + "/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	if err := c.Play(t.Context(), crowdSeconds, time.Second); err != nil {
		t.Error(err)
	}
	took := time.Since(begin)
	back, problems := c.Check()
	seen := c.Latencies()
	for _, bad := range problems[:min(len(problems), 10)] {
		t.Error(bad)
	}
	presses := 0
	for _, r := range c.Rooms {
		presses += r.Acknowledged()
	}
	if want := crowdRooms * crowdPlayers * crowdSeconds; presses != want || len(seen) != want*crowdScreens || len(problems) > 0 {
		t.Errorf("%d presses of %d, seen %d times; %d problems", presses, want, len(seen), len(problems))
	}
	peak, _ := strconv.ParseInt(p.Inside(t, "awk '/^VmHWM/ { print $2 * 1024 }' /proc/$(systemctl show -P MainPID bowl.service)/status"), 10, 64)
	t.Logf("%.0f presses/s, %d streams, p50 %s, p99 %s, most %s; the app had %d MB at most; screens came back %d times",
		float64(presses)/took.Seconds(), crowdRooms*crowdScreens, seen.At(0.5), seen.At(0.99), seen.At(1), peak>>20, back)
	if peak > 256<<20 {
		t.Errorf("the app had %d bytes", peak)
	}
	if rate := float64(presses) / took.Seconds(); rate < 180 {
		t.Errorf("%.0f presses/s", rate)
	}
	if health := p.Get(t, "/healthz"); !strings.Contains(health, `"streams":0`) {
		// The slow ones go when what is sent to them is not taken for 10 seconds.
		time.Sleep(15 * time.Second)
		if health = p.Get(t, "/healthz"); !strings.Contains(health, `"streams":0`) {
			t.Errorf("slow screens are still there: %s", health)
		}
	}
}
