// Package image makes and reads the one file that devbox ships: a portable
// service image (portablectl(1), "Portable Services" in systemd's manual).
//
// [Stage] collects what goes in as a [Tree] in memory, [Tree.Check] says what
// would go wrong on a host, [Pack] writes the image, [Open] reads one back,
// [Compare] finds what differs between two, and [Affected] decides which units
// that concerns. The same inputs always give the same bytes.
package image
