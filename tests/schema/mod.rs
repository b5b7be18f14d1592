//! `docs/boot.schema.json`, as Debian's python3-jsonschema reads it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/boot.schema.json");
/// By its path: another one in `PATH` may warn that it is going to go.
const VALIDATOR: &str = "/usr/bin/jsonschema";

/// Holds a boot report against the schema.
///
/// # Errors
/// What the validator finds wrong with it.
pub(crate) fn check(report: &Value) -> Result<(), String> {
    let mut validator = Command::new(VALIDATOR)
        .arg(SCHEMA)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {VALIDATOR}: {e}; scripts/setup installs it"));
    let mut input = validator.stdin.take().expect("it is a pipe");
    input.write_all(report.to_string().as_bytes()).expect("the validator reads its input");
    drop(input);
    let output = validator.wait_with_output().expect("the validator ends");
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
