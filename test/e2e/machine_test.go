// Package e2e goes through devbox as a person does, on a real machine of the
// nspawn driver: real systemd, portabled, SSH and disk.
package e2e

import (
	"testing"

	"devbox/internal/vm"
	"devbox/test/harness"
)

// TestNspawn is one machine from its making to its end. The parts run in this
// order, and each leaves a machine that is well.
func TestNspawn(t *testing.T) {
	if testing.Short() {
		t.Skip("needs minutes, and -short was given")
	}
	if err := vm.NspawnReady(); err != nil {
		t.Skipf("needs systemd-nspawn: %v", err)
	}
	p := harness.New(t, harness.Options{})
	for _, part := range []struct {
		name string
		run  func(*testing.T, *harness.Project)
	}{
		{"interrupted", testInterrupted},
		{"up", testUp}, {"watch", testWatch}, {"journal", testJournal}, {"commands", testCommands}, {"saves under load", testSaves},
		{"failures", testFailures}, {"bad input", testBadInput}, {"disk full", testDiskFull},
		{"killed", testKilled}, {"down and up", testDownUp},
		{"logs", testLogs}, {"secrets", testSecrets}, {"cloud-config", testCloudConfig},
		{"replica", testReplica}, {"bad replicas", testBadReplicas},
		{"store down at boot", testStoreDownAtBoot}, {"drill", testDrill}, {"match killed", testMatchKilled}, {"crowd", testCrowd}, {"locked in", testLockedIn},
		{"restart", testRestart}, {"destroy", testDestroy},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, p) }) && part.name == "up" {
			t.Fatal("without a machine there is nothing more to test")
		}
	}
}
