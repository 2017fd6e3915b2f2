package image

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// searchPath is where systemd looks for a program without a slash
// (systemd.service(5)); Debian's has sbin too.
var searchPath = []string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"}

// inSearchPath finds the program that a bare name means, "" if there is none.
func inSearchPath(fsys fs.FS, name string) string {
	for _, dir := range searchPath {
		file := path.Join(dir, name)
		if _, err := fs.Stat(fsys, file); err == nil {
			return file
		}
	}
	return ""
}

func (c *checker) execs(u Unit) {
	lines := u.execLines()
	if len(lines) == 0 && u.Last("Service", "SuccessAction") == "" {
		c.add(Problem{Path: u.Path, Text: "the service runs nothing", Cure: "add ExecStart= in [Service]"})
	}
	for _, e := range lines {
		p := Problem{Path: u.Path, Line: e.line, Field: e.option.name}
		// With "-" systemd goes on without the program.
		p.Warning = strings.Contains(e.prefix, "-")
		text, cure := c.exec(&u, e)
		if text != "" {
			p.Text, p.Cure = text, cure
			c.add(p)
		}
	}
}

func (c *checker) exec(u *Unit, e execLine) (text, cure string) {
	file := strings.TrimPrefix(e.path, "/")
	if file == "" {
		name := u.expand(e.name)
		if name == "" || strings.ContainsAny(name, "%/$") {
			return "", "" // known only on the host
		}
		if file = inSearchPath(c.fsys, name); file == "" {
			return fmt.Sprintf("%s is in no folder of programs in the image", name), "add it to the image, or write its whole path"
		}
	}
	if overHost("/" + file) {
		return "", ""
	}
	return c.runnable(file)
}

// runnable checks that a file of the tree is a program that the host can run.
func (c *checker) runnable(file string) (text, cure string) {
	info, err := fs.Stat(c.fsys, file)
	switch {
	case err != nil:
		return fmt.Sprintf("/%s is not in the image", file), "let the build put it there, or correct the path"
	case !info.Mode().IsRegular():
		return fmt.Sprintf("/%s is a %s", file, kind(info.Mode().Type())), "name a program"
	case info.Mode()&0o111 == 0:
		return fmt.Sprintf("/%s is not executable", file), "run `chmod +x` on it in the build, or set its mode to 0755"
	}
	return c.program(file, 0)
}

// maxInterpreters is how many scripts may run each other, as in Linux.
const maxInterpreters = 4

// program checks that the host can run file.
func (c *checker) program(file string, depth int) (text, cure string) {
	f, err := c.fsys.Open(file)
	if err != nil {
		return fmt.Sprintf("/%s cannot be read: %v", file, err), "make it readable"
	}
	defer f.Close()
	head, err := bufio.NewReaderSize(io.LimitReader(f, 4096), 4096).Peek(4096)
	if err != nil && err != io.EOF {
		return fmt.Sprintf("/%s cannot be read: %v", file, err), "make it readable"
	}
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		return c.script(file, head, depth)
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return c.elf(file, f, head)
	case len(head) == 0:
		return fmt.Sprintf("/%s is empty", file), "let the build make it"
	}
	return fmt.Sprintf("/%s is neither a Linux program nor a script with `#!`", file), "build it with GOOS=linux, or begin it with #!/path/of/interpreter"
}

func (c *checker) script(file string, head []byte, depth int) (text, cure string) {
	line, _, _ := strings.Cut(string(head[2:]), "\n")
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return fmt.Sprintf("/%s names no interpreter after `#!`", file), "begin it with #!/path/of/interpreter"
	}
	with := strings.TrimPrefix(path.Clean(fields[0]), "/")
	if _, err := fs.Stat(c.fsys, with); err != nil {
		return fmt.Sprintf("/%s is a script for %s, which is not in the image", file, fields[0]), "add the interpreter to the image, or use a static program"
	}
	if depth >= maxInterpreters {
		return fmt.Sprintf("/%s is a script for a script for a script …", file), "name a program as the interpreter"
	}
	return c.program(with, depth+1)
}

// machines are the ELF machines that a host of a GOARCH runs.
var machines = map[string][]elf.Machine{
	"amd64":   {elf.EM_X86_64, elf.EM_386},
	"386":     {elf.EM_386},
	"arm64":   {elf.EM_AARCH64},
	"arm":     {elf.EM_ARM},
	"riscv64": {elf.EM_RISCV},
	"ppc64le": {elf.EM_PPC64},
	"s390x":   {elf.EM_S390},
	"loong64": {elf.EM_LOONGARCH},
}

func (c *checker) elf(file string, f fs.File, head []byte) (text, cure string) {
	r, err := readerAt(f, head)
	if err != nil {
		return fmt.Sprintf("/%s cannot be read: %v", file, err), "make it readable"
	}
	program, err := elf.NewFile(r)
	if err != nil {
		return fmt.Sprintf("/%s is a broken program: %v", file, err), "build it again"
	}
	if want, ok := machines[c.Arch]; ok && !containsMachine(want, program.Machine) {
		return fmt.Sprintf("/%s is built for %s, and the host is %s", file, archOf(program.Machine), c.Arch),
			fmt.Sprintf("build it with GOARCH=%s (devbox sets it for the build command)", c.Arch)
	}
	for _, p := range program.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		name, err := io.ReadAll(p.Open())
		if err != nil {
			return fmt.Sprintf("/%s is a broken program: %v", file, err), "build it again"
		}
		loader := string(bytes.TrimRight(name, "\x00"))
		if _, err := fs.Stat(c.fsys, strings.TrimPrefix(path.Clean(loader), "/")); err != nil {
			return fmt.Sprintf("/%s is linked dynamically, and its loader %s is not in the image", file, loader),
				"build it with CGO_ENABLED=0, or add the loader and its libraries to the image"
		}
	}
	return "", ""
}

// BuiltFor is the GOARCH of a program of an image, or elf(5)'s name of its machine;
// "" for what is no program itself, such as a script.
func BuiltFor(fsys fs.FS, file string) (string, error) {
	f, err := fsys.Open(strings.TrimPrefix(file, "/"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 20)
	if _, err := io.ReadFull(f, head); err != nil || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return "", nil
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	return archOf(elf.Machine(order.Uint16(head[18:]))), nil // e_machine
}

func containsMachine(all []elf.Machine, m elf.Machine) bool {
	for _, a := range all {
		if a == m {
			return true
		}
	}
	return false
}

func archOf(m elf.Machine) string {
	for _, arch := range []string{"amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "s390x", "loong64"} {
		if machines[arch][0] == m {
			return arch
		}
	}
	return m.String()
}

// readerAt reads anywhere in f. Only small files are read into memory: those
// that devbox makes itself.
func readerAt(f fs.File, head []byte) (io.ReaderAt, error) {
	if file, ok := f.(*treeFile); ok {
		if r, ok := file.ReadCloser.(io.ReaderAt); ok {
			return r, nil
		}
	}
	rest, err := io.ReadAll(io.LimitReader(f, maxUnit))
	if err != nil {
		return nil, err
	}
	return bytes.NewReader(append(bytes.Clone(head), rest...)), nil
}
