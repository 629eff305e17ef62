//! The latest denials: decoded records come in, one entry for each distinct denial goes out.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How many distinct denials are remembered.
pub const CAPACITY: usize = 100;

/// A denial, or a would-be one, as people see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DenialView {
    /// When it last happened, seconds since 1970.
    pub time_unix_seconds: f64,
    /// `denied` or `would-deny`.
    pub verdict: String,
    /// Why, such as `policy`.
    pub reason: String,
    /// The rule that decided, `default`, or `-` where the reason is not policy.
    pub rule: String,
    /// Where the rule is, if it is in a file.
    pub file: Option<String>,
    /// Its line there.
    pub line: Option<u32>,
    /// Who called.
    pub source_service: String,
    /// Who was called; `-` outside the mesh.
    pub destination_service: String,
    /// What was dialled or bound, `address:port`; the kind of a socket that was refused.
    pub dialled: String,
    /// `tcp`, `udp` or another protocol of a socket that was refused.
    pub protocol: String,
    /// Where it came from, for a packet that was refused.
    #[serde(default)]
    pub peer: Option<String>,
    /// The process that called last.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its name, as it calls itself.
    pub comm: String,
    /// Its cgroup, if it still exists.
    pub cgroup: Option<String>,
    /// The hook that decided.
    pub hook: String,
    /// What exactly was wrong and what to do, where the reason does not say.
    #[serde(default)]
    pub detail: Option<String>,
    /// How often it happened since it was first remembered.
    pub count: u64,
}

impl DenialView {
    /// Whether `other` is the same denial happening again: any process of the same cgroup.
    fn is_again(&self, other: &Self) -> bool {
        let Self {
            time_unix_seconds: _,
            pid: _,
            count: _,
            verdict,
            reason,
            rule,
            file,
            line,
            source_service,
            destination_service,
            dialled,
            protocol,
            peer,
            uid,
            comm,
            cgroup,
            hook,
            detail,
        } = self;
        *verdict == other.verdict
            && *reason == other.reason
            && *rule == other.rule
            && *file == other.file
            && *line == other.line
            && *source_service == other.source_service
            && *destination_service == other.destination_service
            && *dialled == other.dialled
            && *protocol == other.protocol
            && *peer == other.peer
            && *uid == other.uid
            && *comm == other.comm
            && *cgroup == other.cgroup
            && *hook == other.hook
            && *detail == other.detail
    }
}

/// The latest denials, newest first, at most [`CAPACITY`].
#[derive(Clone, Debug, Default)]
pub struct Recent(VecDeque<DenialView>);

impl Recent {
    /// Remembers a denial; returns whether it is a new one rather than a repetition.
    pub fn record(&mut self, mut denial: DenialView) -> bool {
        let known = self.0.iter().position(|entry| entry.is_again(&denial));
        if let Some(entry) = known.and_then(|at| self.0.remove(at)) {
            denial.count += entry.count;
        }
        self.0.push_front(denial);
        self.0.truncate(CAPACITY);
        known.is_none()
    }

    /// Newest first.
    pub fn list(&self) -> Vec<DenialView> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(dialled: &str, pid: u32) -> DenialView {
        DenialView {
            dialled: dialled.into(),
            pid,
            count: 1,
            ..DenialView::default()
        }
    }

    #[test]
    fn repetitions_are_counted_and_come_first() {
        let mut recent = Recent::default();
        assert!(recent.record(denial("a", 1)));
        assert!(recent.record(denial("b", 2)));
        assert!(!recent.record(denial("a", 3)));
        let list = recent.list();
        let shown: Vec<_> = list.iter().map(|d| (&*d.dialled, d.pid, d.count)).collect();
        assert_eq!(shown, [("a", 3, 2), ("b", 2, 1)]);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut recent = Recent::default();
        for port in 0..500 {
            recent.record(denial(&port.to_string(), 1));
        }
        let list = recent.list();
        assert_eq!(list.len(), CAPACITY);
        assert_eq!(list[0].dialled, "499");
    }
}
