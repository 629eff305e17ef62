//! What keeps the authority from doing its work.

use std::path::{Path, PathBuf};

use crate::policy::diagnostic::Diagnostic;

/// Why a command failed. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaError {
    #[error("{path}: {error}", path = path.display())]
    File { path: PathBuf, error: String },
    #[error("{path} holds an authority already: use --rotate for its next root, or another directory", path = .0.display())]
    Exists(PathBuf),
    #[error("{path} holds no authority: make one with `mesh-agent ca init --dir {path} --trust-domain mesh.local`", path = .0.display())]
    Missing(PathBuf),
    #[error("{path}: this key must be its owner's alone: run `chmod 600 {path}`; if others may have read it, make a new root with --rotate", path = .0.display())]
    NotPrivate(PathBuf),
    #[error("{path}: the root has no key: put {1} back, or remove the root's files", path = .0.display())]
    NoKey(PathBuf, String),
    #[error("the newest root has expired: make the next one with `mesh-agent ca init --rotate`")]
    Expired,
    #[error("{path}: {file} was not issued here, so the directory is not replaced: use an empty one, or remove the file", path = path.display())]
    NotOurs { path: PathBuf, file: String },
    #[error("{path} holds nothing that was issued here: use `mesh-agent ca issue`", path = .0.display())]
    NoBundle(PathBuf),
    #[error("the policy has no node {node}: {known}")]
    UnknownNode { node: String, known: String },
    #[error(
        "{identity} was revoked (serial {serial}) and is not renewed: if the node is to be trusted again, use `mesh-agent ca issue`"
    )]
    Revoked { identity: String, serial: String },
    #[error("nothing valid was issued to that: see `mesh-agent ca list`")]
    NothingToRevoke,
    #[error("the policy is invalid")]
    Policy(Vec<Diagnostic>),
    #[error("cannot make a certificate: {0}")]
    Making(#[from] rcgen::Error),
    #[error("the system gives no random numbers")]
    NoRandom,
}

impl CaError {
    pub(super) fn file(path: &Path, error: impl ToString) -> Self {
        Self::File {
            path: path.to_owned(),
            error: error.to_string(),
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Policy(_) => INVALID,
            _ => FAILED,
        }
    }

    pub(super) fn render(&self, color: bool) -> String {
        let mut text = String::new();
        if let Self::Policy(diagnostics) = self {
            for problem in diagnostics.iter().filter(|problem| problem.is_error()) {
                text += &format!("{}\n", problem.render(color));
            }
        }
        text + &format!("{self}\n")
    }
}

const FAILED: u8 = 1;
const INVALID: u8 = 3;
