//! How a command ends when it is not done: three kinds, never mixed, each with its exit code.

use pgvigil_proto::v1;
use std::process::ExitCode;

/// Why a command is not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The world did not cooperate. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Bad usage or configuration. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The rules say no; nothing has changed. Exit code 3.
    #[error("refused: {text}")]
    Refused {
        /// Stable, for programs.
        code: String,
        /// For people.
        text: String,
    },
    /// The reader of our output is gone (such as `| head`): no failure. Exit code 0.
    #[error("nobody reads on")]
    NobodyReads,
}

impl Failure {
    /// Says what happened, and gives the exit code.
    #[must_use]
    pub fn report(&self, json: bool) -> ExitCode {
        let (kind, code) = match self {
            Self::Failed(_) => ("failed", 1),
            Self::Usage(_) => ("usage", 2),
            Self::Refused { .. } => ("refused", 3),
            Self::NobodyReads => return ExitCode::SUCCESS,
        };
        eprintln!("pgvigil: {self}");
        if json {
            let refusal = if let Self::Refused { code, .. } = self { Some(code) } else { None };
            let text = if let Self::Refused { text, .. } = self { text.clone() } else { self.to_string() };
            let object = serde_json::json!({"done": false, "kind": kind, "code": refusal, "text": text});
            drop(super::format::print_line(&object.to_string()));
        }
        ExitCode::from(code)
    }
}

impl From<v1::Refusal> for Failure {
    fn from(refusal: v1::Refusal) -> Self {
        Self::Refused { code: refusal.code, text: refusal.text }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            tonic::Code::InvalidArgument => Self::Usage(status.message().to_owned()),
            _ => Self::Failed(status.message().to_owned()),
        }
    }
}
