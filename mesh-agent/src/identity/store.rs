//! The bundle that is in force, and its replacement while connections live.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::UnixTime;
use tokio::sync::watch;

use super::bundle::{Bundle, Loaded, Problem};
use super::certificate::Fingerprint;
use super::name::Identity;

/// Holds the bundle that is in force. Cheap to ask; replaced by [`Self::reload`].
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    bundle: watch::Sender<Arc<Bundle>>,
    seen: Mutex<Seen>,
}

/// What the directory was like when it was last read.
#[derive(Debug)]
struct Seen {
    digest: u64,
    /// When the same files may mean something else.
    until: Option<UnixTime>,
    at: UnixTime,
    problems: Vec<Problem>,
}

/// What became different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Identities that are new here, gone, or have another certificate: their configurations are
    /// to be made again.
    pub identities: Vec<Identity>,
    /// Whether other roots are trusted: live connections are to be judged again.
    pub roots: bool,
    /// Whether there are other revocation lists: the same.
    pub crls: bool,
}

/// What came of a [`Store::reload`].
#[derive(Clone, Debug)]
pub struct Reload {
    /// What became different in what is in force.
    pub changes: Changes,
    /// Everything that is wrong with the files now.
    pub problems: Vec<Problem>,
}

impl Store {
    /// What was wrong with the files when they were read last.
    pub fn problems(&self) -> Vec<Problem> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.problems.clone()
    }

    /// Reads the directory for the first time; the problems are with it.
    pub fn open(directory: &Path, trust_domain: &Arc<str>, now: UnixTime) -> (Self, Vec<Problem>) {
        let loaded = Bundle::load(directory, trust_domain, now);
        let problems = loaded.problems.clone();
        let seen = Seen::new(&loaded, now);
        let store = Self {
            directory: directory.to_owned(),
            bundle: watch::Sender::new(Arc::new(loaded.bundle)),
            seen: Mutex::new(seen),
        };
        (store, problems)
    }

    /// What is in force.
    pub fn bundle(&self) -> Arc<Bundle> {
        Arc::clone(&self.bundle.borrow())
    }

    /// To be told when something else is.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// Reads the directory again, and puts in force what can be used.
    ///
    /// What came from a file that is broken now stays in force until it expires; what came from
    /// a file that is gone is gone. Costs little while the files are the same.
    pub fn reload(&self, now: UnixTime) -> Reload {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.bundle();
        let known = |digest| seen.means_the_same(digest, now);
        let loaded = old.load_again(&self.directory, now, known);
        let Some(loaded) = loaded else {
            return Reload {
                changes: Changes::default(),
                problems: seen.problems.clone(),
            };
        };
        *seen = Seen::new(&loaded, now);
        let changes = Changes::between(&old, &loaded.bundle);
        self.bundle.send_if_modified(|bundle| {
            *bundle = Arc::new(loaded.bundle);
            !changes.is_empty()
        });
        Reload {
            changes,
            problems: loaded.problems,
        }
    }
}

impl Seen {
    fn new(loaded: &Loaded, now: UnixTime) -> Self {
        Self {
            digest: loaded.digest,
            until: loaded.next_event,
            at: now,
            problems: loaded.problems.clone(),
        }
    }

    /// Also the clock may have been set back.
    fn means_the_same(&self, digest: u64, now: UnixTime) -> bool {
        let before = self.until.is_none_or(|until| now <= until);
        self.digest == digest && before && now >= self.at
    }
}

impl Changes {
    /// Whether nothing did.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && !self.roots && !self.crls
    }

    fn between(old: &Bundle, new: &Bundle) -> Self {
        let certificates = |bundle: &Bundle| -> BTreeSet<(Identity, Fingerprint)> {
            let own = bundle.identities();
            own.map(|own| (own.identity.clone(), own.fingerprint))
                .collect()
        };
        let (before, after) = (certificates(old), certificates(new));
        let mut identities: Vec<Identity> = before
            .symmetric_difference(&after)
            .map(|(identity, _)| identity.clone())
            .collect();
        identities.dedup();
        Self {
            identities,
            roots: old.trust().root_fingerprints() != new.trust().root_fingerprints(),
            crls: old.trust().crl_fingerprints() != new.trust().crl_fingerprints(),
        }
    }
}
