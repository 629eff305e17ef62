//! How much all connections that are followed may hold together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mesh_common::http::Unparsed;

/// Bytes for all connections.
#[derive(Clone, Debug)]
pub struct Memory {
    most: usize,
    held: Arc<AtomicUsize>,
}

/// What one connection holds of it.
#[derive(Debug)]
pub struct Share {
    memory: Memory,
    held: usize,
}

impl Memory {
    /// `most` bytes.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            held: Arc::default(),
        }
    }

    /// A share of nothing yet.
    pub fn share(&self) -> Share {
        Share {
            memory: self.clone(),
            held: 0,
        }
    }

    /// How much is held, bytes.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

impl Share {
    /// Makes it `held` bytes.
    ///
    /// # Errors
    ///
    /// There is no room; the share is as it was.
    pub fn set(&mut self, held: usize) -> Result<(), Unparsed> {
        if held > self.held {
            let more = held - self.held;
            let before = self.memory.held.fetch_add(more, Relaxed);
            if before + more > self.memory.most {
                self.memory.held.fetch_sub(more, Relaxed);
                return Err(Unparsed::NoStorage);
            }
        } else {
            self.memory.held.fetch_sub(self.held - held, Relaxed);
        }
        self.held = held;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.held, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_known_and_given_back() {
        let memory = Memory::new(100);
        let (mut one, mut other) = (memory.share(), memory.share());
        assert_eq!(one.set(60), Ok(()));
        assert_eq!(other.set(41), Err(Unparsed::NoStorage));
        assert_eq!(memory.held(), 60);
        assert_eq!(one.set(20), Ok(()));
        assert_eq!(other.set(80), Ok(()));
        assert_eq!(memory.held(), 100);
        drop(one);
        assert_eq!(memory.held(), 80);
        drop(other);
        assert_eq!(memory.held(), 0);
    }
}
