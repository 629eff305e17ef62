//! System calls: those on the list, with arguments that make sense, and no others.
//!
//! What is not on the list fails with `EPERM`: a library may try something and do without it. What only somebody
//! would try who has taken over a thread ends the process at once ([`DEADLY`]); the service manager starts another,
//! and what is enforced stays in force meanwhile.

mod lists;

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;
use std::process;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

use self::lists::{AGENT, BPF_COMMANDS, COMMON, DEADLY, IOCTLS, NEW_NAMESPACES, PRCTLS, USHER};

/// Whose calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Agent,
    Usher,
}

/// A call and what its arguments must be; several rules for one call are alternatives.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters the calls of all threads from now on.
pub(super) fn filter(whose: Whose) -> io::Result<()> {
    // Whoever cannot be stopped at an argument is told that there is no such call: the C library takes
    // clone() then.
    let unknown = [(libc::SYS_clone3, Vec::new())].into();
    let deadly = DEADLY.iter().map(|call| (*call, Vec::new())).collect();
    let kill = SeccompAction::KillProcess;
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let eperm = SeccompAction::Errno(libc::EPERM as u32);
    // The strictest of them decides. After the last none can be added.
    let filters = [
        SeccompFilter::new(unknown, SeccompAction::Allow, enosys, arch()?),
        SeccompFilter::new(deadly, SeccompAction::Allow, kill, arch()?),
        SeccompFilter::new(allowed(whose)?, eperm, SeccompAction::Allow, arch()?),
    ];
    for filter in filters {
        let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(failed)?;
        apply_filter_all_threads(&program).map_err(failed)?;
    }
    Ok(())
}

fn arch() -> io::Result<seccompiler::TargetArch> {
    ARCH.try_into().map_err(failed)
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}

fn allowed(whose: Whose) -> io::Result<Rules> {
    let own = match whose {
        Whose::Agent => AGENT,
        Whose::Usher => USHER,
    };
    let mut rules: Rules = COMMON
        .iter()
        .chain(own)
        .map(|call| (*call, Vec::new()))
        .collect();
    // Of this process only: abort() and the like.
    rules.insert(libc::SYS_tgkill, vec![equals(0, u64::from(process::id()))?]);
    // No memory that can be executed.
    let not_executable = || Ok::<_, io::Error>(vec![lacks(2, libc::PROT_EXEC as u64)?]);
    rules.insert(libc::SYS_mmap, not_executable()?);
    rules.insert(libc::SYS_mprotect, not_executable()?);
    match whose {
        Whose::Agent => agents(&mut rules)?,
        Whose::Usher => ushers(&mut rules)?,
    }
    Ok(rules)
}

fn agents(rules: &mut Rules) -> io::Result<()> {
    rules.insert(libc::SYS_clone, vec![lacks(0, NEW_NAMESPACES)?]);
    rules.insert(libc::SYS_bpf, one_of(0, BPF_COMMANDS)?);
    rules.insert(libc::SYS_ioctl, one_of(1, IOCTLS)?);
    rules.insert(libc::SYS_prctl, one_of(0, PRCTLS)?);
    rules.insert(
        libc::SYS_socket,
        one_of(0, families(&[libc::AF_UNIX]).as_slice())?,
    );
    Ok(())
}

fn ushers(rules: &mut Rules) -> io::Result<()> {
    let namespace = equals(1, libc::CLONE_NEWNET as u64)?;
    rules.insert(libc::SYS_setns, vec![namespace]);
    rules.insert(libc::SYS_socket, one_of(0, families(&[]).as_slice())?);
    // To read only.
    let writes = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;
    rules.insert(libc::SYS_openat, vec![lacks(2, writes)?]);
    Ok(())
}

fn families(more: &[i32]) -> Vec<u64> {
    let all = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    all.iter()
        .chain(more)
        .map(|family| *family as u64)
        .collect()
}

/// The argument is this.
fn equals(argument: u8, value: u64) -> io::Result<SeccompRule> {
    rule(argument, SeccompCmpOp::Eq, value)
}

/// The argument has none of these bits.
fn lacks(argument: u8, bits: u64) -> io::Result<SeccompRule> {
    rule(argument, SeccompCmpOp::MaskedEq(bits), 0)
}

fn one_of(argument: u8, values: &[u64]) -> io::Result<Vec<SeccompRule>> {
    values
        .iter()
        .map(|value| equals(argument, *value))
        .collect()
}

/// All of these arguments are 32 bits wide for the kernel, or have nothing in the others that matters.
fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let width = SeccompCmpArgLen::Dword;
    let condition = SeccompCondition::new(argument, width, operator, value).map_err(failed)?;
    SeccompRule::new(vec![condition]).map_err(failed)
}
