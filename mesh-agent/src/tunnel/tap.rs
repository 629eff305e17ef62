//! A look at what a flow carries.

/// Is shown what passes, in order and before it goes on. A flow is as fast as this is; one that
/// nobody looks at pays nothing.
pub trait Tap {
    /// Bytes from the application.
    fn sent(&mut self, bytes: &[u8]);

    /// Bytes for the application.
    fn received(&mut self, bytes: &[u8]);
}
