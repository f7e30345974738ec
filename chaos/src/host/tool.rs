//! Programs of the system: `ip`, `nft`, `mount` and the like.

use std::io::Write;
use std::process::{Command, Stdio};

use super::HostError;

/// Runs a program to its end and returns what it printed; an error unless it succeeds. `input` goes to its stdin.
pub fn tool(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, HostError> {
    let command = || format!("{program} {}", arguments.join(" "));
    let failed = |source| HostError::Io { what: command(), source };
    let mut child = Command::new(program)
        .args(arguments)
        // Debian keeps these programs out of an ordinary user's PATH.
        .env("PATH", format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default()))
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(input) = input {
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    let text = format!("{} {}", said(&output.stderr), said(&output.stdout));
    Err(HostError::Tool { command: command(), output: format!("{}: {}", output.status, text.trim()) })
}

/// Where a program is, looked for as `tool` does.
pub(super) fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default());
    path.split(':').map(|dir| std::path::Path::new(dir).join(program)).find(|file| file.is_file())
}
