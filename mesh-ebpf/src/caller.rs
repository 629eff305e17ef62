//! Who calls: from the current process's cgroup and user to a subject of the policy.

use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_uid_gid,
};
use mesh_common::{Reason, SocketState, Subject, header_flag};

use crate::maps::{CGROUPS, InForce, SUBJECTS, UIDS};

/// How far up an unseen cgroup's ancestors are looked at.
const MAX_DEPTH: i32 = 16;

/// A process, or one that was.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    pub(crate) cgroup: u64,
    pub(crate) uid: u32,
}

impl Process {
    /// The one that made a socket.
    #[inline(always)]
    pub(crate) fn creator(state: &SocketState) -> Self {
        Self {
            cgroup: state.creator_cgroup,
            uid: state.creator_uid,
        }
    }

    /// The one that makes the call.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: the helper has no preconditions.
        let cgroup = unsafe { bpf_get_current_cgroup_id() };
        Self {
            cgroup,
            uid: bpf_get_current_uid_gid() as u32,
        }
    }

    /// The subject of this process; [`Subject::UNKNOWN`] if its cgroup has not been seen.
    #[inline(always)]
    pub(crate) fn subject(&self, policy: &InForce) -> u32 {
        let subject = cgroup_subject(policy, self.cgroup);
        if subject == Subject::HOST.0 && policy.header.flags & header_flag::UID_SELECTORS != 0 {
            return policy.get(&UIDS, &self.uid).unwrap_or(subject);
        }
        subject
    }

    /// The subject of this process as the creator of a socket: without a cgroup it was of no
    /// service.
    #[inline(always)]
    pub(crate) fn maker(&self, policy: &InForce) -> u32 {
        if self.cgroup == 0 {
            Subject::HOST.0
        } else {
            self.subject(policy)
        }
    }
}

/// A subject with what the policy says of it. Every field is always set: the verifier rejects
/// what the compiler makes of payloads that are only sometimes there.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    /// [`Subject::UNKNOWN`] when `error` says why.
    pub(crate) subject: u32,
    pub(crate) namespace: u32,
    pub(crate) flags: u32,
    pub(crate) error: Reason,
}

impl Caller {
    /// The current process as a caller.
    #[inline(always)]
    pub(crate) fn current(policy: &InForce, process: &Process) -> Self {
        let mut subject = process.subject(policy);
        if subject == Subject::UNKNOWN.0 {
            subject = cgroup_subject(policy, inherited(policy));
        }
        Self::of(policy, subject)
    }

    /// The caller on another node that the agent calls for on a socket of its own.
    #[inline(always)]
    pub(crate) fn proven(policy: &InForce, state: &SocketState) -> Self {
        let mut caller = Self::of(policy, state.source);
        if state.epoch != policy.header.id_epoch as u32 || state.source < Subject::FIRST_NAMED {
            caller.subject = Subject::UNKNOWN.0;
            caller.error = Reason::MissingEntry;
        }
        caller
    }

    /// `subject` as a caller.
    #[inline(always)]
    pub(crate) fn of(policy: &InForce, subject: u32) -> Self {
        let mut caller = Self {
            subject,
            namespace: 0,
            flags: 0,
            error: Reason::UnknownCaller,
        };
        if subject >= Subject::FIRST_NAMED {
            match policy.get(&SUBJECTS, &subject) {
                Some(info) => {
                    caller.namespace = info.namespace;
                    caller.flags = info.flags;
                }
                None => {
                    caller.subject = Subject::UNKNOWN.0;
                    caller.error = Reason::MissingEntry;
                }
            }
        }
        caller
    }
}

#[inline(always)]
pub(crate) fn cgroup_subject(policy: &InForce, cgroup: u64) -> u32 {
    // SAFETY: entries are not reused while the program runs (no preallocation); copied at once.
    let Some(identity) = (unsafe { CGROUPS.get(cgroup) }) else {
        return Subject::UNKNOWN.0;
    };
    identity.subject[(policy.slot & 1) as usize]
}

/// The cgroup whose service an unseen one belongs to: its nearest ancestor that has been seen;
/// 0 if there is none. Only a service is inherited: below a cgroup of no service there may be
/// one that just was not seen.
#[inline(never)]
pub(crate) fn inherited(policy: &InForce) -> u64 {
    if policy.header.flags & header_flag::NESTED_SELECTORS != 0 {
        return 0;
    }
    let mut nearest = 0;
    let mut subject = Subject::UNKNOWN.0;
    for level in 0..MAX_DEPTH {
        // SAFETY: the helper takes any level and returns 0 where there is none.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if ancestor == 0 {
            break;
        }
        let seen = cgroup_subject(policy, ancestor);
        if seen != Subject::UNKNOWN.0 {
            nearest = ancestor;
            subject = seen;
        }
    }
    if subject < Subject::FIRST_NAMED {
        0
    } else {
        nearest
    }
}
