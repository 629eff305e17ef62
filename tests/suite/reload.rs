//! Changes of the files: taken over when they are whole.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mesh_tests::agent::AgentProcess;
use mesh_tests::observe::{NOTICE, status, until};
use mesh_tests::peer::Peer;
use mesh_tests::shop::{FILE, OPEN, POLICY, Shop, dial};
use mesh_tests::{Sandbox, host, kernel};
use nix::sys::signal::Signal;

/// A drop-in beside the policy.
const DROP_IN: &str = "20-more.toml";

fn start(sandbox: &Sandbox) -> AgentProcess {
    AgentProcess::start(sandbox).expect("the agent starts")
}

fn write(sandbox: &Sandbox, name: &str, text: &str) {
    sandbox.write_policy(name, text).expect("written");
}

fn revision(sandbox: &Sandbox) -> u64 {
    let header = kernel::policy(sandbox).expect("a header");
    header.expect("a policy").revision
}

#[track_caller]
fn becomes_open(peer: &mut Peer) {
    until(NOTICE, "the call is allowed", || dial(peer).is_ok());
}

#[track_caller]
fn becomes_closed(peer: &mut Peer) {
    until(NOTICE, "the call is denied", || {
        dial(peer) == Err("EPERM".into())
    });
}

#[test]
fn files_may_come_change_and_go_in_any_way() {
    host::run("dropins", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        shop.is_guarded();
        let intruder = &mut shop.intruder;
        let (path, shop_file) = (
            sandbox.path("conf.d").join(DROP_IN),
            sandbox.path("conf.d").join(FILE),
        );
        write(sandbox, DROP_IN, OPEN);
        becomes_open(intruder);
        fs::remove_file(&path).expect("removed");
        becomes_closed(intruder);
        fs::write(&path, OPEN).expect("written in place");
        becomes_open(intruder);
        fs::rename(&path, path.with_extension("off")).expect("renamed");
        becomes_closed(intruder);
        fs::hard_link(path.with_extension("off"), &path).expect("linked");
        becomes_open(intruder);
        fs::write(&path, "# nothing any more\n").expect("written in place");
        becomes_closed(intruder);
        fs::write(&shop_file, format!("{POLICY}{OPEN}")).expect("written in place");
        becomes_open(intruder);
        // As editors do it: the old file becomes the backup, a new one takes its name.
        fs::rename(&shop_file, shop_file.with_extension("toml~")).expect("renamed");
        fs::write(&shop_file, POLICY).expect("written");
        becomes_closed(intruder);
        symlink("20-more.off", path.with_file_name("30-link.toml")).expect("linked");
        write(sandbox, "20-more.off", OPEN);
        becomes_open(intruder);
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}

#[test]
fn what_is_not_policy_changes_nothing() {
    host::run("nopolicy", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let before = revision(sandbox);
        for name in [
            "notes.txt",
            ".10-shop.toml.swp",
            ".hidden.toml",
            "a.toml.bak",
        ] {
            write(sandbox, name, "this is no policy");
        }
        // The same text again is the same policy.
        write(sandbox, FILE, POLICY);
        sleep(Duration::from_millis(800));
        assert_eq!(revision(sandbox), before);
        assert_eq!(status(sandbox).expect("status").0, Some(0));
        shop.is_guarded();
    });
}

#[test]
fn half_a_file_is_not_applied() {
    host::run("half", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let before = revision(sandbox);
        let path = sandbox.path("conf.d").join(DROP_IN);
        let mut file = File::create(&path).expect("created");
        file.write_all(OPEN.as_bytes()).expect("written");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2600) {
            shop.is_guarded();
            sleep(Duration::from_millis(20));
        }
        assert_eq!(revision(sandbox), before);
        file.write_all(b"ports = [\"http\"]\n").expect("written");
        drop(file);
        becomes_open(&mut shop.intruder);

        // A file that is being written anew is empty at first.
        let before = revision(sandbox);
        let mut file = File::create(sandbox.path("conf.d").join(FILE)).expect("truncated");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1200) {
            assert_eq!(dial(&mut shop.checkout), Ok("v1".into()));
            sleep(Duration::from_millis(20));
        }
        file.write_all(&POLICY.as_bytes()[..200]).expect("written");
        sleep(Duration::from_millis(500));
        assert_eq!(revision(sandbox), before);
        file.write_all(&POLICY.as_bytes()[200..]).expect("written");

        // Who asks for it by a signal gets what is there.
        fs::remove_file(&path).expect("removed");
        agent.signal(Signal::SIGHUP).expect("signalled");
        becomes_closed(&mut shop.intruder);
        drop(file);
        sleep(Duration::from_millis(400));
        shop.is_guarded();
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}

#[test]
fn sighup_applies_what_is_there_and_nothing_twice() {
    host::run("sighup", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let before = revision(sandbox);
        for _ in 0..3 {
            agent.signal(Signal::SIGHUP).expect("signalled");
            sleep(Duration::from_millis(100));
        }
        assert_eq!(revision(sandbox), before, "the files are the same");
        write(sandbox, DROP_IN, OPEN);
        agent.signal(Signal::SIGHUP).expect("signalled");
        becomes_open(&mut shop.intruder);
        sleep(Duration::from_millis(500));
        assert_eq!(
            revision(sandbox),
            before + 1,
            "once for the signal and the file"
        );
    });
}

#[test]
fn a_storm_of_changes_ends_in_the_last_one() {
    host::run("storm", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let _agent = start(sandbox);
        let before = revision(sandbox);
        for number in 0..1000 {
            let open = if number % 2 == 0 { "" } else { OPEN };
            write(sandbox, DROP_IN, &format!("# {number}\n{open}"));
        }
        becomes_open(&mut shop.intruder);
        assert_eq!(dial(&mut shop.checkout), Ok("v1".into()));
        sleep(Duration::from_millis(600));
        let applied = revision(sandbox) - before;
        assert!(applied < 20, "{applied} of 1000 were applied");
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}

#[test]
fn more_events_than_the_kernel_keeps_end_in_the_last_state() {
    host::run("overflow", |sandbox| {
        let mut shop = Shop::open(sandbox).expect("a shop");
        let agent = start(sandbox);
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
        let most: u32 = most.expect("readable").trim().parse().expect("a number");
        if most > 100_000 {
            // It would take too long.
            return;
        }
        agent.signal(Signal::SIGSTOP).expect("signalled");
        let name = |name: &str| sandbox.path("conf.d").join(name);
        File::create(name("0.toml")).expect("created");
        for number in 0..most / 2 + 500 {
            let (from, to) = (number % 2, (number + 1) % 2);
            fs::rename(name(&format!("{from}.toml")), name(&format!("{to}.toml")))
                .expect("renamed");
        }
        write(sandbox, DROP_IN, OPEN);
        shop.is_guarded();
        agent.signal(Signal::SIGCONT).expect("signalled");
        becomes_open(&mut shop.intruder);
        assert_eq!(status(sandbox).expect("status").0, Some(0));
    });
}
