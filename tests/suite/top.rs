//! `mesh-agent top` in a terminal of tmux's, beside real traffic.

use std::fs;
use std::io::{self, Write as _};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::agent::{self, AgentProcess};
use mesh_tests::observe::until;
use mesh_tests::patience::scaled;
use mesh_tests::town::{self, Town};
use mesh_tests::{Sandbox, host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(120);

/// A terminal; dropping it ends it and what runs in it.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(sandbox: &Sandbox, width: u16, height: u16) -> Self {
        let socket = sandbox.path("tmux").display().to_string();
        let terminal = Self { socket };
        let size = [width.to_string(), height.to_string()];
        let new = ["-f", "/dev/null", "new-session", "-d"];
        terminal.tmux(&[&new[..], &["-x", &size[0], "-y", &size[1], "sh"]].concat());
        terminal.sees("#");
        terminal.keys(&["PS1='ready$ '; clear", "Enter"]);
        until(SOON, "a shell", || terminal.screen().starts_with("ready$"));
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-S", &self.socket])
            .args(arguments)
            .output()
            .expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn sees(&self, text: &str) {
        let deadline = Instant::now() + scaled(SOON);
        while !self.screen().contains(text) {
            assert!(Instant::now() < deadline, "no {text}:\n{}", self.screen());
            sleep(Duration::from_millis(20));
        }
    }

    fn resize(&self, width: u16, height: u16) {
        let size = [width.to_string(), height.to_string()];
        self.tmux(&["resize-window", "-x", &size[0], "-y", &size[1]]);
    }

    /// First word of each line of the table.
    fn services(&self) -> Vec<String> {
        let screen = self.screen();
        let words = screen
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let first = words.filter(|word| word.contains('/'));
        first.map(str::to_owned).collect()
    }

    /// Whether the terminal is as a shell expects it: keys are shown, and lines end where they should.
    fn is_restored(&self) {
        self.keys(&[
            "stty -a | tr ' ;' '\\n\\n' | grep -x -e echo -e icanon -e isig | xargs echo is",
            "Enter",
        ]);
        self.sees("is isig icanon echo");
        self.keys(&["clear", "Enter"]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// The processes that are `top` on the sandbox's settings.
fn running(sandbox: &Sandbox) -> Vec<Pid> {
    let wanted = format!("\0top\0--config\0{}\0", sandbox.agent_toml().display());
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_top = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| line.ends_with(&wanted))
    };
    pids.filter(is_top).map(Pid::from_raw).collect()
}

fn has_tmux() -> bool {
    let here = Command::new("tmux").arg("-V").output().is_ok();
    if !here {
        let _ = writeln!(io::stderr(), "SKIPPED: needs tmux (Debian package tmux)");
    }
    here
}

fn town(sandbox: &Sandbox) -> (AgentProcess, Town) {
    let policy = Town::policy();
    sandbox.write_policy(town::FILE, &policy).expect("a policy");
    let agent = AgentProcess::start(sandbox).expect("the agent starts");
    let town = Town::open(sandbox).expect("a town");
    (agent, town)
}

#[test]
fn a_terminal_shows_services_sorts_resizes_and_is_left_as_it_was() {
    if !has_tmux() {
        return;
    }
    host::run_for(LIMIT, "top", |sandbox| {
        let (agent, _town) = town(sandbox);
        let terminal = Terminal::open(sandbox, 110, 24);
        let top = format!(
            "{} top --config {}",
            agent::binary().display(),
            sandbox.agent_toml().display()
        );
        terminal.keys(&[&top, "Enter"]);
        terminal.sees("9 services, over the last");
        terminal.sees("RATE/S*");
        until(SOON, "the busiest is on top", || {
            let services = terminal.services();
            services.len() == 9 && ["shop/web", "edge/gateway"].contains(&&*services[0])
        });
        terminal.keys(&["n"]);
        terminal.sees("SERVICE*");
        let services = terminal.services();
        assert!(services.is_sorted(), "{services:?}");
        terminal.keys(&["d"]);
        until(SOON, "denials are on top", || {
            let screen = terminal.screen();
            let line = screen.lines().find(|line| line.contains("shop/payments"));
            let denied = line.and_then(|line| line.split_whitespace().last()?.parse::<f64>().ok());
            terminal.services()[..2].contains(&"shop/payments".into())
                && denied.is_some_and(|d| d > 0.0)
        });
        terminal.keys(&["e"]);
        until(SOON, "what fails is on top", || {
            let services = terminal.services();
            services.first().is_some_and(|first| first == "data/ledger")
        });

        terminal.resize(60, 10);
        until(SOON, "it fits", || {
            let screen = terminal.screen();
            let lines: Vec<_> = screen.lines().collect();
            lines.len() == 10
                && lines[0].starts_with("mesh-agent top")
                && lines[9].starts_with("q quit")
        });
        terminal.resize(130, 30);
        until(SOON, "it is large again", || {
            let screen = terminal.screen();
            screen.lines().count() == 30 && screen.contains("DENIED/S")
        });

        agent.kill().expect("killed");
        terminal.sees("no answer for");
        assert_eq!(terminal.services().len(), 9, "what was known stays");
        let _agent = AgentProcess::start(sandbox).expect("the agent starts");
        terminal.sees("services, over the last");

        terminal.keys(&["q"]);
        until(SOON, "it ends", || running(sandbox).is_empty());
        terminal.sees("ready$");
        terminal.is_restored();

        // A plain terminal, and a signal in place of a key.
        terminal.keys(&[&format!("clear; TERM=vt100 NO_COLOR=1 {top}"), "Enter"]);
        // What tmux shows of before a change of size may look like it.
        until(SOON, "it runs again", || {
            let shown = terminal.screen();
            running(sandbox).len() == 1 && shown.starts_with("mesh-agent top - 9 services, over")
        });
        let pids = running(sandbox);
        kill(pids[0], Signal::SIGTERM).expect("it runs");
        until(SOON, "it ends", || running(sandbox).is_empty());
        terminal.sees("ready$");
        terminal.is_restored();

        // A terminal that goes away under it, as when a connection is lost.
        terminal.keys(&[&top, "Enter"]);
        until(SOON, "it runs again", || running(sandbox).len() == 1);
        terminal.tmux(&["kill-server"]);
        until(SOON, "it ends", || running(sandbox).is_empty());
    });
}

#[test]
fn without_a_terminal_it_is_one_shot() {
    host::run("top-once", |sandbox| {
        let nobody = agent::command(sandbox, &["top"]).expect("it runs");
        assert_eq!(nobody.status.code(), Some(4));
        let (_agent, _town) = town(sandbox);
        let table = agent::command(sandbox, &["top"]).expect("it runs");
        assert_eq!(table.status.code(), Some(0));
        let text = String::from_utf8(table.stdout).expect("text");
        assert_eq!(text.lines().count(), 10, "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let json = agent::command(sandbox, &["top", "-o", "json", "--window", "1"]);
        let json: Value = serde_json::from_slice(&json.expect("it runs").stdout).expect("JSON");
        let services = json["services"].as_array().expect("services");
        let web = services.iter().find(|one| one["service"] == "shop/web");
        let rate = &web.expect("the web")["inbound"]["rates"]["connections_per_second"];
        assert!(rate.as_f64().is_some_and(|rate| rate > 0.0), "{rate}");
        let wrong = agent::command(sandbox, &["top", "--window", "301"]).expect("it runs");
        assert_eq!(wrong.status.code(), Some(2));
    });
}
