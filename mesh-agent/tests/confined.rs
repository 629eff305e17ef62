//! What somebody can do who has taken over a thread of the agent: each attempt is made by a process of its own that
//! has confined itself as the agent does, by the thread that was there and by one that comes later.
//!
//! Without the test harness, which would have threads already.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode, Output};
use std::thread;

use aya::programs::ProgramType;
use aya::sys::is_program_supported;
use mesh_agent::config::AgentConfig;
use mesh_agent::sandbox::{self, Files};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::unistd::{Pid, getppid, setuid};

/// What comes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Works,
    /// With one of these errors.
    Fails(&'static [Errno]),
    /// The process is ended.
    Kills,
}

const DENIED: End = End::Fails(&[Errno::EACCES, Errno::EPERM]);
const REFUSED: End = End::Fails(&[Errno::EPERM]);

/// What is tried, what comes of it, and whether that takes Landlock.
struct Attempt {
    name: &'static str,
    end: End,
    landlock: bool,
    what: fn(&Place) -> io::Result<()>,
}

/// The files of an agent, and others; and a process outside.
struct Place {
    directory: PathBuf,
    outside: Pid,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn config(&self) -> AgentConfig {
        let path = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "[paths]\nconfig_dir = {:?}\nstate_dir = {:?}\nrun_dir = {:?}\nbpffs = {:?}\n[tunnel]\ncertificates = {:?}\n[access_log]\nfile = {:?}\n",
            path("agent/conf.d"),
            path("agent/state"),
            path("agent/run"),
            path("agent/bpf"),
            path("agent/tls"),
            path("log/access.jsonl"),
        );
        AgentConfig::parse("agent.toml", &text).unwrap_or_else(|_| panic!("{text}"))
    }
}

const fn attempt(name: &'static str, end: End, what: fn(&Place) -> io::Result<()>) -> Attempt {
    Attempt {
        name,
        end,
        landlock: false,
        what,
    }
}

/// One that only Landlock stops.
const fn file(name: &'static str, what: fn(&Place) -> io::Result<()>) -> Attempt {
    Attempt {
        name,
        end: DENIED,
        landlock: true,
        what,
    }
}

const ATTEMPTS: &[Attempt] = &[
    // What the agent does.
    attempt("read-policy", End::Works, |place| {
        fs::read(place.path("agent/conf.d/a.toml")).map(drop)
    }),
    attempt("save-state", End::Works, |place| {
        fs::write(place.path("agent/state/next"), "x")?;
        fs::rename(
            place.path("agent/state/next"),
            place.path("agent/state/last"),
        )
    }),
    attempt("rotate-log", End::Works, |place| {
        let log = place.path("log/access.jsonl");
        File::options()
            .append(true)
            .create(true)
            .open(log)
            .map(drop)
    }),
    attempt("listen", End::Works, |_| {
        TcpListener::bind("127.0.0.1:0").map(drop)
    }),
    attempt("journal", End::Works, |_| UnixDatagram::unbound().map(drop)),
    attempt("thread", End::Works, |_| {
        thread::Builder::new()
            .spawn(|| ())?
            .join()
            .map_err(|_panic| io::Error::other("it panicked"))
    }),
    attempt("cgroups", End::Works, |_| {
        fs::read("/proc/self/cgroup").map(drop)
    }),
    attempt("udp", End::Works, |_| {
        UdpSocket::bind("127.0.0.1:0").map(drop)
    }),
    // Files.
    file("shadow", |_| File::open("/etc/shadow").map(drop)),
    file("secret", |place| File::open(place.path("secret")).map(drop)),
    file("list-root", |_| fs::read_dir("/root").map(drop)),
    file("policy", |place| {
        fs::write(place.path("agent/conf.d/a.toml"), "")
    }),
    file("new-policy", |place| {
        fs::write(place.path("agent/conf.d/b.toml"), "")
    }),
    file("plant", |place| fs::write(place.path("planted"), "")),
    file("read-log", |place| {
        fs::read(place.path("log/old")).map(drop)
    }),
    file("write-proc", |_| fs::write("/proc/self/oom_score_adj", "0")),
    file("environment", |place| {
        fs::read(format!("/proc/{}/environ", place.outside)).map(drop)
    }),
    file("memory", |place| {
        File::options()
            .write(true)
            .open(format!("/proc/{}/mem", place.outside))
            .map(drop)
    }),
    file("namespaces", |place| {
        fs::metadata(format!("/proc/{}/ns/net", place.outside)).map(drop)
    }),
    file("link", |place| {
        fs::hard_link(place.path("secret"), place.path("agent/state/x"))
    }),
    // Calls.
    attempt(
        "exec",
        End::Kills,
        |_| Err(Command::new("/bin/true").exec()),
    ),
    attempt("ptrace", End::Kills, |place| {
        Ok(ptrace::attach(place.outside)?)
    }),
    attempt("unshare", End::Kills, |_| {
        Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
    }),
    attempt("umount", End::Kills, |_| Ok(umount("/proc")?)),
    attempt("module", End::Kills, |_| {
        let file = File::open("/proc/self/stat")?;
        Ok(finit_module(file, c"", ModuleInitFlags::empty())?)
    }),
    attempt("mount", REFUSED, |place| {
        let (at, none) = (place.path("agent/bpf"), None::<&str>);
        Ok(mount(
            Some("tmpfs"),
            &at,
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )?)
    }),
    attempt("setns", REFUSED, |_| {
        let own = File::open("/proc/self/ns/net")?;
        Ok(setns(own.as_fd(), CloneFlags::CLONE_NEWNET)?)
    }),
    attempt("kill", REFUSED, |place| {
        Ok(kill(place.outside, Signal::SIGCONT)?)
    }),
    attempt("setuid", REFUSED, |_| Ok(setuid(1.into())?)),
    attempt("packets", REFUSED, |_| {
        open(AddressFamily::Packet, SockType::Raw, None)
    }),
    attempt("raw", REFUSED, |_| {
        open(AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp))
    }),
    attempt("vsock", REFUSED, |_| {
        open(AddressFamily::Vsock, SockType::Stream, None)
    }),
    attempt("load-program", REFUSED, |_| {
        match is_program_supported(ProgramType::CgroupSkb) {
            Ok(true) => Ok(()),
            _ => Err(Errno::EPERM.into()),
        }
    }),
];

fn open(family: AddressFamily, kind: SockType, protocol: Option<SockProtocol>) -> io::Result<()> {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let [_, inside, name, thread, place] = &arguments[..]
        && inside == INSIDE
    {
        let place = Place {
            directory: place.into(),
            outside: getppid(),
        };
        return try_inside(name, thread == LATER, place);
    }
    if !nix::unistd::Uid::effective().is_root() {
        let _ = writeln!(io::stderr(), "SKIPPED: needs root");
        return ExitCode::SUCCESS;
    }
    let place = make_place();
    let mut failed = 0;
    let landlock = inside("none", FIRST, &place).stdout == b"landlock";
    if !landlock {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: needs Landlock (half of the attempts)"
        );
    }
    let possible = ATTEMPTS
        .iter()
        .filter(|attempt| landlock || !attempt.landlock);
    for attempt in possible {
        for thread in [FIRST, LATER] {
            let output = inside(attempt.name, thread, &place);
            if !fits(attempt.end, &output) {
                println!("{} ({thread}): {output:?}", attempt.name);
                failed += 1;
            }
        }
    }
    // Nothing else stops them.
    for attempt in ATTEMPTS.iter().filter(|attempt| attempt.landlock) {
        if let Err(error) = (attempt.what)(&place) {
            println!("{} (outside): {error}", attempt.name);
            failed += 1;
        }
    }
    let _ = fs::remove_dir_all(&place.directory);
    println!(
        "{} attempts by two threads each, {failed} failed",
        ATTEMPTS.len()
    );
    ExitCode::from(u8::from(failed > 0))
}

const INSIDE: &str = "inside";
const FIRST: &str = "the first thread";
const LATER: &str = "a later thread";

fn make_place() -> Place {
    let directory = env::temp_dir().join(format!("mesh-confined-{}", process::id()));
    let place = Place {
        directory,
        outside: getppid(),
    };
    for name in ["conf.d", "state", "run", "bpf", "tls", "../log"] {
        fs::create_dir_all(place.path("agent").join(name)).expect("a directory");
    }
    for name in ["secret", "agent/conf.d/a.toml", "log/old"] {
        fs::write(place.path(name), "").expect("written");
    }
    fs::set_permissions(place.path("secret"), fs::Permissions::from_mode(0o600)).expect("a mode");
    place
}

/// Makes an attempt in a process of its own.
fn inside(name: &str, thread: &str, place: &Place) -> Output {
    Command::new(env::current_exe().expect("this program"))
        .args([INSIDE, name, thread])
        .arg(&place.directory)
        .output()
        .expect("started")
}

fn fits(end: End, output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stdout);
    match end {
        End::Works => said == "works",
        End::Kills => output.status.signal() == Some(Signal::SIGSYS as i32),
        End::Fails(errors) => errors.iter().any(|error| said == format!("{error:?}")),
    }
}

/// Confines itself, makes the attempt and prints what comes of it.
fn try_inside(name: &str, later: bool, place: Place) -> ExitCode {
    let files = Files::of(&place.config(), Path::new("/sys/fs/cgroup"));
    let sandbox = sandbox::enter(&files).expect("confined");
    let Some(attempt) = ATTEMPTS.iter().find(|attempt| attempt.name == name) else {
        print!(
            "{}",
            if sandbox.landlock.is_some() {
                "landlock"
            } else {
                ""
            }
        );
        return ExitCode::SUCCESS;
    };
    let what = attempt.what;
    let result = if later {
        thread::spawn(move || what(&place))
            .join()
            .expect("a thread")
    } else {
        what(&place)
    };
    match result {
        Ok(()) => print!("works"),
        Err(error) => print!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))),
    }
    ExitCode::SUCCESS
}
