//! The usher: a process of its own that does for the agent what takes more rights than the agent keeps.
//!
//! Comes in: questions, over one socket. Goes out: which network namespaces there are, sockets that are in them,
//! paths of cgroups, opened tracepoints. The agent talks to the network and holds keys, so it can neither enter a namespace nor look
//! into other processes; the usher can, and nobody but the agent talks to it. It stays outside of the
//! agent's Landlock domain, because the kernel shows processes outside of a domain to nobody inside
//! (`/proc/PID/ns`, `ptrace_may_access`).

mod client;
mod serve;
mod wire;

pub use self::client::Usher;
pub use self::serve::serve;
