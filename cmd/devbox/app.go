package main

import (
	"fmt"
	"os"
	"path/filepath"

	"devbox/internal/config"
	"devbox/internal/deploy"
	"devbox/internal/hint"
	"devbox/internal/ui"

	"github.com/spf13/cobra"
)

// app is what every command shares: its streams and the global flags.
type app struct {
	stdin  *os.File
	stdout *os.File
	stderr *os.File
	ui     *ui.UI

	dir  string // -C
	json bool   // --json

	again string // what to do after a Ctrl-C
}

func newApp(stdin, stdout, stderr *os.File) *app {
	return &app{
		stdin: stdin, stdout: stdout, stderr: stderr,
		again: "run the same command again: it goes on from here",
		ui:    ui.New(stdout, stderr, ui.Options{TTY: ui.IsTerminal(stderr)}),
	}
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "devbox",
		Short: "from a saved file to production, for one person with one server",
		Long: `devbox gives you a machine at home like your server, and keeps your app running
on it as you type. Both machines are a Debian 13 that runs your app as a systemd
portable service; both are set up by the same cloud-config.

  devbox init     write devbox.yaml and the files it names
  devbox up       bring the machine up, with the app on it
  devbox watch    build, ship and restart what changed at every save
  devbox deploy   the same image to a server, kept only if it is well there`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			a.ui = ui.New(a.stdout, a.stderr, ui.Options{JSON: a.json, TTY: ui.IsTerminal(a.stderr)})
		},
	}
	root.PersistentFlags().StringVarP(&a.dir, "directory", "C", ".", "the project's folder")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print results as JSON, one value a line")
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return badInput{hint.Wrap(err, fmt.Sprintf("see `%s --help`", c.CommandPath()))}
	})
	root.AddCommand(
		newInit(a), newDoctor(a),
		newUp(a), newDown(a), newDestroy(a),
		newProvision(a),
		newBuild(a), newCheck(a), newWatch(a),
		newDeploy(a), newRollback(a), newReleases(a), newDiff(a),
		newDrill(a), newStatus(a), newLogs(a), newSSH(a), newSecret(a),
		newSchema(a), newVersion(a), newForward(a),
	)
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		refuseArgs(c)
	}
	return root
}

// noSuchCommand gets what is no command's name, and says which name is near.
func noSuchCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cure := "see `devbox --help`"
	root.SuggestionsMinimumDistance = 2
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		cure = fmt.Sprintf("did you mean `devbox %s`? %s", near[0], cure)
	}
	return badInput{hint.Errorf(cure, "there is no command %q", args[0])}
}

// refuseArgs makes wrong arguments of c, and of the commands below it, exit as
// wrong use does.
func refuseArgs(c *cobra.Command) {
	check := c.Args
	if check == nil {
		check = cobra.NoArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return badInput{hint.Wrap(err, fmt.Sprintf("see `%s --help`", c.CommandPath()))}
		}
		return nil
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	for _, sub := range c.Commands() {
		refuseArgs(sub)
	}
}

// project loads devbox.yaml from the project's folder or one above it.
func (a *app) project() (*deploy.Project, error) {
	file, err := config.Find(a.dir)
	if err != nil {
		return nil, badInput{err}
	}
	cfg, err := config.Load(file)
	if err != nil {
		return nil, badInput{err}
	}
	paths, err := userPaths()
	if err != nil {
		return nil, err
	}
	return &deploy.Project{Config: cfg, Paths: paths, Version: version, SSH: a.sshOptions(paths.Home)}, nil
}

// userPaths are devbox's own folders by the XDG base directory rules, the same
// on every system.
func userPaths() (deploy.Paths, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return deploy.Paths{}, hint.Wrap(err, "set HOME to your home folder")
	}
	xdg := func(name, fallback string) string {
		if dir := os.Getenv(name); filepath.IsAbs(dir) {
			return filepath.Join(dir, "devbox")
		}
		return filepath.Join(home, fallback, "devbox")
	}
	exe, err := os.Executable()
	if err != nil {
		return deploy.Paths{}, fmt.Errorf("find devbox's own program file: %w", err)
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	return deploy.Paths{
		Home:       home,
		Cache:      xdg("XDG_CACHE_HOME", ".cache"),
		State:      xdg("XDG_STATE_HOME", filepath.Join(".local", "state")),
		Executable: exe,
	}, nil
}
