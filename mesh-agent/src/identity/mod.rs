//! Who a certificate says its holder is.

mod name;

pub use self::name::{Identity, InvalidIdentity};
