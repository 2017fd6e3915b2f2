package deploy

import (
	"devbox/internal/ui"
	"devbox/internal/vm"
)

// Needs are the programs that devbox calls on this computer for the project,
// beside those of its machine.
func (p *Project) Needs() []vm.Need {
	all := []vm.Need{{Tool: "ssh", Package: "openssh-client"}} // `devbox ssh`
	if p.Config.Image.Format == "squashfs" {
		all = append(all, vm.Need{Tool: "mksquashfs", Package: "squashfs-tools"})
	}
	return all
}

// noteUnused says which settings of machine its driver has no use for.
func (p *Project) noteUnused(u *ui.UI, driver string) {
	if driver == vm.DriverNspawn && len(p.Config.Machine.Base) > 0 {
		u.Say("note: machine.base has no effect here: it is for virtual machines (driver lima), and a container is made from Debian's packages")
	}
}
