//! A client of QEMU's monitor: docs/interop/qmp-spec.rst of QEMU.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cvm_init::error::{Error, Result};
use serde_json::{Value, json};

use crate::vm::channel::{Channel, Received};

/// Until QEMU must have answered.
const LIMIT: Duration = Duration::from_secs(30);

/// What QEMU says by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// What it carries, an object; null where it carries nothing.
    pub data: Value,
}

/// A monitor that takes commands.
#[derive(Debug)]
pub struct Monitor {
    channel: Channel,
    /// Those that came while an answer was waited for.
    events: VecDeque<Event>,
}

impl Monitor {
    /// Begins to speak with the monitor at the other end of `channel`.
    ///
    /// # Errors
    /// QEMU is gone, does not answer, or takes no commands.
    pub fn open(channel: Channel) -> Result<Self> {
        let mut monitor = Self { channel, events: VecDeque::new() };
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Performs a command, and returns what it answers.
    ///
    /// # Errors
    /// QEMU refuses it, is gone, or does not answer within half a minute.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.tell(command, arguments)?;
        self.answer(command)
    }

    /// Begins a command, whose [`answer`](Self::answer) is yet to be waited for.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn tell(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let message = json!({ "execute": command, "arguments": arguments });
        if self.channel.send(&message) { Ok(()) } else { Err(gone()) }
    }

    /// Waits for what a command answers that was begun.
    ///
    /// # Errors
    /// QEMU refuses it, is gone, or does not answer within half a minute.
    pub fn answer(&mut self, command: &str) -> Result<Value> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            let Some(mut message) = self.receive(end.saturating_duration_since(Instant::now()))?
            else {
                continue;
            };
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                let why = error.get("desc").unwrap_or(error);
                return Err(Error::new(format!("QEMU refuses {command}: {why}")));
            }
            self.events.extend(event(message));
        }
        Err(Error::new(format!("QEMU did not answer {command} for {} s", LIMIT.as_secs())))
    }

    /// Waits so long at most for the next thing that QEMU says by itself.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn event(&mut self, patience: Duration) -> Result<Option<Event>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        Ok(self.receive(patience)?.and_then(event))
    }

    fn receive(&mut self, patience: Duration) -> Result<Option<Value>> {
        match self.channel.receive(patience)? {
            Received::Message(message) => Ok(Some(message)),
            Received::Nothing => Ok(None),
            Received::Closed => Err(gone()),
        }
    }
}

/// The event that a message is; the greeting is none.
fn event(mut message: Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    let data = message.get_mut("data").map(Value::take).unwrap_or_default();
    Some(Event { name, data })
}

fn gone() -> Error {
    Error::new("QEMU has ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// A monitor that greets and says these lines for each command.
    fn monitor(answers: &'static [&'static str]) -> Result<Monitor> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut commands = BufReader::new(theirs.try_clone().unwrap()).lines();
            theirs.write_all(b"{\"QMP\": {}}\n").unwrap();
            for answer in answers {
                commands.next().unwrap().unwrap();
                theirs.write_all(answer.as_bytes()).unwrap();
            }
        });
        Monitor::open(ours.into())
    }

    #[test]
    fn events_that_come_before_an_answer_are_kept() {
        let mut monitor = monitor(&[
            "{\"event\": \"RESUME\"}\n{\"return\": {}}\n",
            "{\"event\": \"STOP\", \"data\": {\"a\": 1}}\n{\"return\": [7]}\n{\"event\": \"LAST\"}\n",
        ])
        .unwrap();
        assert_eq!(monitor.execute("query", &json!({})).unwrap(), json!([7]));
        let mut names = Vec::new();
        while let Ok(event) = monitor.event(LIMIT) {
            names.extend(event.map(|event| (event.name, event.data)));
        }
        let expected =
            [("RESUME", Value::Null), ("STOP", json!({ "a": 1 })), ("LAST", Value::Null)];
        assert_eq!(names, expected.map(|(name, data)| (name.to_owned(), data)));
    }

    #[test]
    fn a_refusal_and_the_end_are_told() {
        let mut monitor =
            monitor(&["{\"return\": {}}\n", "{\"error\": {\"desc\": \"no\"}}\n"]).unwrap();
        let refused = monitor.execute("query", &json!({})).unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refuses query: \"no\"");
        assert_eq!(monitor.event(LIMIT).unwrap_err().to_string(), "QEMU has ended");
        assert_eq!(super::tests::monitor(&[]).unwrap_err().to_string(), "QEMU has ended");
    }
}
