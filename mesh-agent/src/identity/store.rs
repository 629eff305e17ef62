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

    /// The directories whose changes matter: it, and those in it.
    pub fn directories(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten();
        let below = entries.flatten().map(|entry| entry.path());
        let below = below.filter(|path| path.is_dir()).take(MOST_WATCHED);
        std::iter::once(self.directory.clone())
            .chain(below)
            .collect()
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

/// What is beyond is noticed when everything is read again.
const MOST_WATCHED: usize = 64;

#[cfg(test)]
mod tests {
    use rcgen::SerialNumber;
    use tempfile::TempDir;

    use super::super::testing::{
        Authority, after, chmod, domain, later, leaf, now, service, write,
    };
    use super::super::{Role, verify};
    use super::*;

    fn store(root: &Authority, names: &[&str]) -> (TempDir, Store) {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), "ca.crt", root.0.pem());
        for name in names {
            root.issue_to(name).write(directory.path(), name);
        }
        let (store, problems) = Store::open(directory.path(), &domain(), now());
        assert_eq!(problems, []);
        (directory, store)
    }

    fn serial(store: &Store, name: &str) -> Option<String> {
        let bundle = store.bundle();
        bundle.own(&service(name)).map(|own| own.serial.to_string())
    }

    fn codes(reload: &Reload) -> Vec<&'static str> {
        reload.problems.iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn what_changed_is_told() {
        let root = Authority::root("root");
        let (directory, store) = store(&root, &["cart", "stock"]);
        let mut told = store.subscribe();
        let unchanged = store.reload(now());
        assert!(unchanged.changes.is_empty() && !told.has_changed().expect("open"));
        assert_eq!(store.directories(), [directory.path()]);

        root.issue_to("cart").write(directory.path(), "cart");
        let changes = store.reload(now()).changes;
        let identities =
            |names: &[&str]| names.iter().map(|name| service(name)).collect::<Vec<_>>();
        assert_eq!(changes.identities, identities(&["cart"]));
        assert!(!changes.roots && !changes.crls);
        assert!(told.has_changed().expect("open"));
        told.mark_unchanged();

        std::fs::remove_file(directory.path().join("stock.crt")).expect("removed");
        let reload = store.reload(now());
        assert_eq!(reload.changes.identities, identities(&["stock"]));
        assert_eq!(
            (codes(&reload), serial(&store, "stock")),
            (vec!["unused-key"], None)
        );

        write(
            directory.path(),
            "roots/new.crt",
            Authority::root("new").0.pem(),
        );
        let changes = store.reload(now()).changes;
        assert!(changes.roots && !changes.crls && changes.identities.is_empty());
        write(directory.path(), "a.crl", root.revoke(&[], 30));
        let changes = store.reload(now()).changes;
        assert!(changes.crls && !changes.roots && changes.identities.is_empty());

        std::fs::remove_dir_all(directory.path()).expect("removed");
        let reload = store.reload(now());
        assert_eq!(reload.changes.identities, identities(&["cart"]));
        assert!(reload.changes.roots && reload.problems.is_empty());
    }

    #[test]
    fn what_is_broken_now_stays_as_it_was() {
        let root = Authority::root("root");
        let (directory, store) = store(&root, &["cart", "stock"]);
        let file = |name: &str| directory.path().join(name);
        let (cart, stock) = (serial(&store, "cart"), serial(&store, "stock"));
        // A new certificate whose key is not there yet, a root half written.
        write(directory.path(), "cart.crt", &root.issue_to("cart").pem);
        write(directory.path(), "ca.crt", &root.0.pem()[..100]);
        let reload = store.reload(now());
        assert_eq!(codes(&reload), ["broken-pem", "key-mismatch", "unused-key"]);
        assert!(reload.changes.is_empty());
        assert_eq!(
            (serial(&store, "cart"), serial(&store, "stock")),
            (cart.clone(), stock.clone())
        );
        // Again, from what was kept.
        write(directory.path(), "cart.crt", "");
        assert!(store.reload(now()).changes.is_empty());
        assert_eq!(serial(&store, "cart"), cart);
        // The directory as a whole.
        chmod(directory.path(), 0o777);
        let reload = store.reload(now());
        assert_eq!(
            (codes(&reload), serial(&store, "stock")),
            (vec!["unsafe-directory"], stock)
        );
        assert!(reload.changes.is_empty());
        chmod(directory.path(), 0o755);
        // What is gone is gone, whatever else is broken.
        std::fs::remove_file(file("stock.crt")).expect("removed");
        assert_eq!(store.reload(now()).changes.identities, [service("stock")]);
        assert_eq!(serial(&store, "cart"), cart);
        // All in order again.
        write(directory.path(), "ca.crt", root.0.pem());
        std::fs::remove_file(file("stock.key")).expect("removed");
        root.issue_to("cart").write(directory.path(), "cart");
        let reload = store.reload(now());
        assert_eq!(
            (codes(&reload), reload.changes.identities),
            (vec![], vec![service("cart")])
        );
        assert_ne!(serial(&store, "cart"), cart);
    }

    #[test]
    fn what_was_kept_is_not_kept_beyond_its_end() {
        let root = Authority::root("root");
        let (directory, store) = store(&root, &["cart"]);
        write(directory.path(), "cart.crt", "");
        assert!(store.reload(now()).changes.is_empty());
        assert!(store.reload(later(29)).changes.is_empty());
        assert_eq!(
            store.reload(later(31)).changes.identities,
            [service("cart")]
        );
        assert_eq!(serial(&store, "cart"), None);
    }

    #[test]
    fn the_next_certificate_comes_into_use_when_it_is_valid() {
        let root = Authority::root("root");
        let (directory, store) = store(&root, &["cart"]);
        let old = serial(&store, "cart");
        let mut next = leaf(&service("cart"));
        (next.not_before, next.not_after) = (after(5), after(60));
        root.issue(&next).write(directory.path(), "cart");
        let reload = store.reload(now());
        assert_eq!(
            (codes(&reload), reload.changes.is_empty()),
            (vec!["not-yet-valid"], true)
        );
        assert_eq!(serial(&store, "cart"), old);
        // The files are the same, but the time has come.
        let reload = store.reload(later(6));
        assert_eq!(
            (codes(&reload), reload.changes.identities),
            (vec![], vec![service("cart")])
        );
        assert_ne!(serial(&store, "cart"), old);
    }

    #[test]
    fn a_revocation_is_not_lost_with_its_file() {
        let root = Authority::root("root");
        let (directory, store) = store(&root, &["cart"]);
        let mut stolen = leaf(&service("stock"));
        stolen.serial_number = Some(SerialNumber::from(7));
        let chain = root.issue(&stolen).chain;
        let judge = || {
            let refusal = verify(&chain, Role::Client, store.bundle().trust(), now()).err();
            refusal.map(|refusal| refusal.code())
        };
        assert_eq!(judge(), None);
        write(directory.path(), "a.crl", root.revoke(&[&[7]], 30));
        assert!(store.reload(now()).changes.crls);
        assert_eq!(judge(), Some("revoked"));
        write(directory.path(), "a.crl", "half");
        assert!(!store.reload(now()).changes.crls);
        assert_eq!(judge(), Some("revoked"));
        // An own certificate that is revoked is not used either.
        let own = store
            .bundle()
            .own(&service("cart"))
            .expect("one")
            .serial
            .clone();
        write(
            directory.path(),
            "a.crl",
            root.revoke(&[&[7], own.as_bytes()], 30),
        );
        let reload = store.reload(now());
        assert_eq!(
            (codes(&reload), reload.changes.identities),
            (vec!["revoked"], vec![service("cart")])
        );
    }
}
