// Package delta moves an image to a host that has an older one: only what the
// older one lacks crosses the wire.
//
// [Encode] writes a stream that [Apply] turns into the image again, given the
// same base. The stream ends by itself; Apply reads not one byte past it.
//
//	header   magic, size of the image and of the base, their digests
//	copy     a range of the base
//	data     a chunk of new bytes: as they are, compressed, or compressed
//	         with a range of the base as dictionary
//	end
//
// The operations are in order of the image's offsets and cover it without
// gaps. All integers are little-endian. Everything in a stream is untrusted.
package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Bounds of a stream. Together with maxWorkers they bound Apply's memory.
const (
	maxChunk = 1 << 20 // of raw bytes in one data operation
	maxDict  = 2 << 20 // of base bytes used as its dictionary

	maxWorkers = 4
)

var magic = [8]byte{'d', 'v', 'b', 'x', 'd', 'l', 't', 1} // the last byte is the version

const headerSize = 8 + 8 + 8 + 32 + 32

type header struct {
	size, baseSize int64
	base, image    Digest // base is zero if there is none
}

func (h header) append(b []byte) []byte {
	b = append(b, magic[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.size))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.baseSize))
	b = append(b, h.base[:]...)
	return append(b, h.image[:]...)
}

// Errors of Apply. Each comes wrapped with what was found.
var (
	ErrCorrupt   = errors.New("not a well-formed delta")
	ErrVersion   = errors.New("delta of another version")
	ErrWrongBase = errors.New("delta is against another base")
	ErrTooLarge  = errors.New("image exceeds the limit")
	ErrDigest    = errors.New("image does not have the announced digest")
)

func parseHeader(b *[headerSize]byte) (header, error) {
	if [7]byte(b[:7]) != [7]byte(magic[:7]) {
		return header{}, fmt.Errorf("%w: no magic number", ErrCorrupt)
	}
	if b[7] != magic[7] {
		return header{}, fmt.Errorf("%w: %d, this program reads %d", ErrVersion, b[7], magic[7])
	}
	h := header{
		size:     int64(binary.LittleEndian.Uint64(b[8:])),
		baseSize: int64(binary.LittleEndian.Uint64(b[16:])),
		base:     Digest(b[24:56]),
		image:    Digest(b[56:88]),
	}
	if h.size < 0 || h.baseSize < 0 {
		return header{}, fmt.Errorf("%w: negative size", ErrCorrupt)
	}
	return h, nil
}

type kind byte

const (
	kindEnd kind = iota
	kindCopy
	kindData
)

type codec byte

const (
	codecRaw  codec = iota
	codecZstd       // without a dictionary, or with the base's bytes at off as one
)

// maxCopy bounds one copy, to fit 32 bits; Encode splits longer ones.
const maxCopy = 1 << 30

const opSize = 24

// op has a fixed size so that a stream is read in exact pieces.
type op struct {
	kind    kind
	codec   codec
	length  uint32 // bytes of the image that it makes
	payload uint32 // bytes that follow it
	dict    uint32 // bytes of the base that are the dictionary; 0 for none
	off     int64  // of a copy or of the dictionary, in the base
}

func (o op) append(b []byte) []byte {
	b = append(b, byte(o.kind), byte(o.codec), 0, 0)
	b = binary.LittleEndian.AppendUint32(b, o.length)
	b = binary.LittleEndian.AppendUint32(b, o.payload)
	b = binary.LittleEndian.AppendUint32(b, o.dict)
	return binary.LittleEndian.AppendUint64(b, uint64(o.off))
}

// parseOp refuses what cannot be part of a delta for an image with left bytes
// to go, against a base of baseSize bytes.
func parseOp(b *[opSize]byte, left, baseSize int64) (op, error) {
	o := op{
		kind:    kind(b[0]),
		codec:   codec(b[1]),
		length:  binary.LittleEndian.Uint32(b[4:]),
		payload: binary.LittleEndian.Uint32(b[8:]),
		dict:    binary.LittleEndian.Uint32(b[12:]),
		off:     int64(binary.LittleEndian.Uint64(b[16:])),
	}
	refuse := func(format string, args ...any) (op, error) {
		return op{}, fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	inBase := func(length uint32) bool {
		return o.off >= 0 && o.off <= baseSize && int64(length) <= baseSize-o.off
	}
	if b[2] != 0 || b[3] != 0 {
		return refuse("reserved bytes are set")
	}
	if int64(o.length) > left {
		return refuse("operation of %d bytes where %d are left", o.length, left)
	}
	switch o.kind {
	case kindEnd:
		if o != (op{}) {
			return refuse("end with operands")
		}
		if left != 0 {
			return refuse("end with %d bytes missing", left)
		}
	case kindCopy:
		switch {
		case o.codec != 0 || o.payload != 0 || o.dict != 0:
			return refuse("copy with a payload")
		case o.length == 0 || o.length > maxCopy:
			return refuse("copy of %d bytes", o.length)
		case !inBase(o.length):
			return refuse("copy of %d bytes at %d of a base of %d", o.length, o.off, baseSize)
		}
	case kindData:
		switch {
		case o.length == 0 || o.length > maxChunk:
			return refuse("chunk of %d bytes", o.length)
		case o.codec == codecRaw && (o.payload != o.length || o.dict != 0 || o.off != 0):
			return refuse("raw chunk of %d bytes with a payload of %d", o.length, o.payload)
		case o.codec == codecZstd && (o.payload == 0 || o.payload >= o.length):
			return refuse("compressed chunk of %d bytes with a payload of %d", o.length, o.payload)
		case o.codec > codecZstd:
			return refuse("unknown codec %d", o.codec)
		case o.dict > maxDict || o.dict == 0 && o.off != 0 || !inBase(o.dict):
			return refuse("dictionary of %d bytes at %d of a base of %d", o.dict, o.off, baseSize)
		}
	default:
		return refuse("unknown operation %d", o.kind)
	}
	return o, nil
}
