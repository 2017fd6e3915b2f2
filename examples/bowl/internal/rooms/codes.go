package rooms

import (
	"crypto/rand"
	"crypto/sha256"
	"strings"
)

// letters are those of codes: no digits, so that none is taken for a letter, and no vowels, so that no code is a word.
const letters = "BCDFGHJKLMNPQRSTVWXZ"

const (
	codeLen      = 6  // of a room: one of 64 million
	moderatorLen = 12 // of a moderator code: 51 bits, too many to try over a network
	playerLen    = 10
)

// random is a word of n letters.
func random(n int) string {
	word := make([]byte, 0, n)
	var b [1]byte
	for len(word) < n {
		_, _ = rand.Read(b[:])                         // never fails (crypto/rand)
		if int(b[0]) < 256/len(letters)*len(letters) { // a remainder would make some letters likelier
			word = append(word, letters[int(b[0])%len(letters)])
		}
	}
	return string(word)
}

// Clean is a code as it was meant: people write it in small letters, with spaces or hyphens. It is empty where s cannot be
// the code of a room.
func Clean(s string) string {
	if s = clean(s); len(s) == codeLen {
		return s
	}
	return ""
}

func clean(s string) string {
	if len(s) > 64 {
		return ""
	}
	s = strings.ToUpper(strings.NewReplacer(" ", "", "-", "").Replace(s))
	if strings.Trim(s, letters) != "" {
		return ""
	}
	return s
}

// NewTicket is a random word that lets one browser become one player, however often it asks.
func NewTicket() string { return random(24) }

// playerID is the public name of the player that a ticket makes. The ticket cannot be found from it.
func playerID(room, ticket string) string {
	sum := sha256.Sum256([]byte("player\x00" + room + "\x00" + ticket))
	id := make([]byte, playerLen)
	for i := range id {
		id[i] = letters[int(sum[i])%len(letters)]
	}
	return string(id)
}

func moderatorHash(room, code string) []byte {
	sum := sha256.Sum256([]byte("moderator\x00" + room + "\x00" + code))
	return sum[:]
}
