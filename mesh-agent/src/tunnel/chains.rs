//! Certificates of peers, each chain once: a thousand connections to one peer share it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use foldhash::quality::RandomState;
use rustls::pki_types::CertificateDer;

/// A peer's certificate, and what it sent with it.
pub type Chain = Rc<[CertificateDer<'static>]>;

thread_local! {
    /// By the leaf.
    static KNOWN: RefCell<HashMap<Vec<u8>, Weak<[CertificateDer<'static>]>, RandomState>> =
        RefCell::default();
}

/// The chain, shared with whoever has the same.
pub(super) fn share(chain: Vec<CertificateDer<'static>>) -> Chain {
    let Some(leaf) = chain.first().map(|leaf| leaf.to_vec()) else {
        return Rc::default();
    };
    KNOWN.with_borrow_mut(|known| {
        if let Some(found) = known.get(&leaf).and_then(Weak::upgrade)
            && *found == *chain
        {
            return found;
        }
        known.retain(|_, chain| chain.strong_count() > 0);
        let shared: Chain = chain.into();
        known.insert(leaf, Rc::downgrade(&shared));
        shared
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(leaf: u8, others: &[u8]) -> Vec<CertificateDer<'static>> {
        let all = [leaf].into_iter().chain(others.iter().copied());
        all.map(|byte| vec![byte].into()).collect()
    }

    #[test]
    fn equal_chains_are_one() {
        let first = share(chain(1, &[2]));
        assert!(Rc::ptr_eq(&first, &share(chain(1, &[2]))));
        assert!(!Rc::ptr_eq(&first, &share(chain(1, &[3]))));
        assert!(!Rc::ptr_eq(&first, &share(chain(4, &[2]))));
        assert!(share(Vec::new()).is_empty());
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        drop(share(chain(7, &[])));
        let kept = share(chain(8, &[]));
        KNOWN.with_borrow(|known| assert_eq!(known.len(), 1));
        assert_eq!(kept.len(), 1);
    }
}
