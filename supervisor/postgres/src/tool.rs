//! Running PostgreSQL's own programs: quiet environment, bounded, their words kept for the error and the progress.

use crate::libpq::quiet_environment;
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
};

/// A program failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be run or watched.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{} failed ({status}): {}", program.display(), last_words.join(" | "))]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it printed.
        last_words: Vec<String>,
    },
    /// It took too long and was killed.
    #[error("{} took longer than {limit:?} and was killed; it said: {}", program.display(), last_words.join(" | "))]
    Timeout {
        /// The program.
        program: PathBuf,
        /// The limit.
        limit: Duration,
        /// The last lines that it printed.
        last_words: Vec<String>,
    },
}

/// How many last lines an error carries.
const LAST_WORDS: usize = 12;

/// A callback for each line that a program prints.
pub type OnLine<'a> = &'a mut (dyn FnMut(&str) + Send);

/// Runs `program` to its end. Every line of its output goes to `on_line`. Killed when it takes longer than `limit` or
/// the future is dropped.
pub async fn run(
    program: PathBuf,
    arguments: &[String],
    environment: &[(&str, &Path)],
    limit: Duration,
    on_line: OnLine<'_>,
) -> Result<(), ToolError> {
    let io = |source| ToolError::Run { program: program.clone(), source };
    let mut command = std::process::Command::new(&program);
    quiet_environment(&mut command);
    command.args(arguments).env("LC_ALL", "C").env_remove("LANGUAGE").envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Command::from(command).kill_on_drop(true).spawn().map_err(io)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut last_words = VecDeque::new();
    let watched = async {
        let (mut out, mut err) = (lines(out), lines(err));
        // Both streams until both have ended, then the status.
        loop {
            let line = tokio::select! {
                line = next(&mut out), if out.is_some() => line,
                line = next(&mut err), if err.is_some() => line,
                else => break,
            };
            let Some(line) = line.map_err(io)? else { continue };
            on_line(&line);
            if last_words.len() == LAST_WORDS {
                last_words.pop_front();
            }
            last_words.push_back(line);
        }
        child.wait().await.map_err(io)
    };
    let result = tokio::time::timeout(limit, watched).await;
    let last_words: Vec<String> = last_words.into();
    match result {
        Err(_) => Err(ToolError::Timeout { program, limit, last_words }),
        Ok(Err(error)) => Err(error),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(ToolError::Failed { program, status, last_words }),
    }
}

type Lines<R> = Option<tokio::io::Split<BufReader<R>>>;

fn lines<R: AsyncRead + Unpin>(stream: Option<R>) -> Lines<R> {
    stream.map(|stream| BufReader::new(stream).split(b'\n'))
}

/// The next line; a stream that has ended becomes `None` and yields nothing.
async fn next<R: AsyncRead + Unpin>(stream: &mut Lines<R>) -> std::io::Result<Option<String>> {
    let Some(lines) = stream else { return Ok(None) };
    match lines.next_segment().await? {
        Some(line) => Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned())),
        None => {
            *stream = None;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_both_streams_arrive_and_a_failure_carries_them() {
        let mut seen = Vec::new();
        let args = ["-c".to_owned(), "echo one; echo two >&2; exit 4".to_owned()];
        let limit = Duration::from_secs(60);
        let error = run("/bin/sh".into(), &args, &[], limit, &mut |line| seen.push(line.to_owned())).await.unwrap_err();
        seen.sort();
        assert_eq!(seen, ["one", "two"]);
        assert!(error.to_string().contains("two"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed() {
        let args = ["600".to_owned()];
        let error = run("/bin/sleep".into(), &args, &[], Duration::from_millis(20), &mut |_| {}).await.unwrap_err();
        assert!(matches!(error, ToolError::Timeout { .. }));
    }
}
