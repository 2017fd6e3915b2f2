package vm

import "syscall"

// endWithUs has the kernel ask a child to end when this process is killed.
func endWithUs(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGTERM }
