//! Logs: one line per event on standard error, as text or JSON.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The environment variable that says what is logged, such as `info,pgvigil=debug`.
pub const FILTER_VARIABLE: &str = "PGVIGIL_LOG";

/// A filter that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{FILTER_VARIABLE}={value:?}: {problem}; such as \"info\" or \"warn,pgvigil=debug\"")]
pub struct FilterError {
    value: String,
    problem: String,
}

/// Begins to log, once per process.
pub fn start(format: LogFormat) -> Result<(), FilterError> {
    let value = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| "info,openraft=error,h2=error".to_owned());
    let filter = EnvFilter::try_new(&value).map_err(|error| FilterError { problem: error.to_string(), value })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    // A second start (in tests) keeps the first one's lines.
    drop(started);
    Ok(())
}
