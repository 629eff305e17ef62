//! Capabilities: those that are not named here are given up for good.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// A capability and why it is kept.
type Kept = (CapabilitySet, &'static str);

/// What the agent keeps.
pub(super) const AGENT: &[Kept] = &[
    // Every map and link, later ones too.
    (CapabilitySet::BPF, "CAP_BPF"),
    // Attaching to network hooks of cgroups, and cutting flows (SOCK_DESTROY).
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
];

/// What the usher keeps.
pub(super) const USHER: &[Kept] = &[
    // setns(), and mount() of a BPF file system.
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    // /proc/PID/ns of processes that are not root's or have more capabilities.
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    // open_by_handle_at(), for a cgroup by its id.
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    // A socket cuts flows only if whoever made it could.
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
];

/// Gives up all capabilities but these; the names of those that are left.
pub(super) fn keep(kept: &[Kept]) -> io::Result<Vec<&'static str>> {
    let wanted = kept.iter().map(|(capability, _)| *capability).collect();
    clear_ambient_capability_set()?;
    let own = capabilities(None)?;
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if CapabilitySet::intersects(&wanted, capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // This is past the last one.
            Err(rustix::io::Errno::INVAL) => break,
            // Without CAP_SETPCAP only whoever started this can. Nothing can be gained by it
            // with no_new_privs and without execve.
            Err(rustix::io::Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let left = own.permitted & wanted;
    let sets = CapabilitySets {
        effective: left,
        permitted: left,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    let named = kept
        .iter()
        .filter(|(capability, _)| left.contains(*capability));
    Ok(named.map(|(_, name)| *name).collect())
}
