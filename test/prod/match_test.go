package prod

import (
	"math/rand/v2"
	"testing"
	"time"

	"devbox/test/play"
)

// testMatchCut cuts the power in the middle of matches: what was answered is on
// the disk, and players and screens go on after the boot.
func testMatchCut(t *testing.T, s *site) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	crowd, err := play.Gather(t.Context(), "http://"+s.address+":8080", 3, 4, 3)
	if err != nil {
		t.Fatal(err)
	}
	const questions = 30
	played := make(chan error, 1)
	go func() { played <- crowd.Play(t.Context(), questions, 200*time.Millisecond) }()
	for range 2 {
		time.Sleep(time.Second + time.Duration(random.Int64N(int64(time.Second))))
		if err := s.server.PowerCut(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.server.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.answers(t)
	}
	if err := <-played; err != nil {
		t.Error(err)
	}
	back, problems := crowd.Check()
	for _, bad := range problems {
		t.Error(bad)
	}
	for _, r := range crowd.Rooms {
		if r.Acknowledged() != 4*questions {
			t.Errorf("room %s: %d presses were answered, of %d", r.Code, r.Acknowledged(), 4*questions)
		}
	}
	if back < 2*9 {
		t.Errorf("screens came back %d times: were they cut off?", back)
	}
}
