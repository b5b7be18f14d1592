//! Programs of the guest, where the agent is a service of a real one.

use crate::verbs::{Answer, Args, Error};
use serde_json::json;
use std::process::Command;

/// Runs `command` in a shell to its end, however it ends: tests on status and text are the caller's.
pub(crate) fn run(args: &Args<'_>) -> Answer {
    let command = args.text("command")?;
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .output()
        .map_err(Error::of(format!("run {command}")))?;
    Ok(json!({
        "status": output.status.code(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    }))
}
