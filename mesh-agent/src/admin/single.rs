//! Work that is done once at a time, off the server's thread.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::limits::PATIENCE;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("the agent is busy: no answer within {} s", PATIENCE.as_secs())]
    Busy,
    #[error("the agent failed to answer; its log says why")]
    Failed,
}

/// State that one piece of work at a time may use.
#[derive(Debug)]
pub(super) struct Single<T>(Arc<Mutex<T>>);

impl<T> Clone for Single<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> Single<T> {
    pub(super) fn new(state: T) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// Waits for its turn, then works. Work that has begun goes on when the caller gives up, and
    /// keeps its turn, so that impatient clients do not multiply it.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Unavailable> {
        let state = self.0.clone();
        let turn = async move {
            let mut state = state.lock_owned().await;
            spawn_blocking(move || work(&mut state)).await
        };
        match timeout(PATIENCE, turn).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Unavailable::Failed),
            Err(_) => Err(Unavailable::Busy),
        }
    }
}
