//! The one error of the program: a line for a person who has nothing but the console.

use std::fmt;

/// A message that names its object and its cause: "cannot mount /proc: Permission denied".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

/// A result whose error is ready to be printed.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that says what is wrong: "roothash= is given twice".
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// An error that says what could not be done, and why: "cannot {doing}: {cause}".
    pub fn cannot(doing: &dyn fmt::Display, cause: &dyn fmt::Display) -> Self {
        Self(format!("cannot {doing}: {cause}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}
