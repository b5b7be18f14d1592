//! What the host does to a VM that runs: it types, plugs disks in and out, keeps its state.

use super::{GLANCE, Guest, QEMU, read};
use crate::kit::vm::device_id;
use serde_json::{Value, json};
use std::fmt::Display;
use std::path::Path;
use std::time::Instant;

impl Guest {
    /// Types a line on the console.
    pub(crate) fn enter(&mut self, line: &str) {
        self.typed.as_mut().expect("a console to type on").enter(line);
    }

    /// Writes the state of the machine to a file, all but what is on its disks, and ends it.
    pub(crate) fn keep_state(&mut self, file: &Path) {
        let events = json!({ "capability": "events", "state": true });
        self.qmp_with("migrate-set-capabilities", &json!({ "capabilities": [events] }));
        // Bytes a second.
        self.qmp_with("migrate-set-parameters", &json!({ "max-bandwidth": 1_u64 << 40 }));
        self.qmp_with("migrate", &json!({ "uri": format!("exec:cat >{}", file.display()) }));
        loop {
            let status = self.next_event("MIGRATION")["status"].take();
            assert_ne!(status, "failed", "{}", read(&self.scratch, "qemu.log"));
            if status == "completed" {
                break;
            }
        }
        self.qemu = None;
    }

    /// Waits until a machine that was launched with `-incoming` runs.
    pub(crate) fn wait_resumed(&mut self) {
        self.next_event("RESUME");
    }

    /// Waits for the next event of this name.
    fn next_event(&mut self, name: &str) -> Value {
        let start = Instant::now();
        while start.elapsed() < QEMU {
            let event = self.monitor.event(GLANCE).unwrap_or_else(|error| self.give_up(&error));
            match event {
                Some(event) if event.name == name => return event.data,
                Some(event) => self.take_event(&event),
                None => {}
            }
        }
        panic!("QEMU told of no {name} within {} s", QEMU.as_secs())
    }

    /// Plugs in a disk of `Vm::disk_not_plugged_in`, the first disk being 0.
    pub(crate) fn plug_in(&mut self, disk: usize) {
        self.plug_in_as(disk, "");
    }

    /// The same, with a serial number.
    pub(crate) fn plug_in_as(&mut self, disk: usize, serial: &str) {
        let arguments = json!({
            "driver": "scsi-hd",
            "bus": "scsi.0",
            "scsi-id": disk,
            "drive": format!("disk{disk}"),
            "serial": serial,
        });
        self.qmp_with("device_add", &arguments);
    }

    /// Plugs in a virtio console of this name; what the guest writes on it is in the file of its
    /// scratch folder that has the same.
    pub(crate) fn plug_in_console(&mut self, file: &str) {
        let backend = json!({ "type": "file", "data": { "out": file } });
        self.qmp_with("chardev-add", &json!({ "id": file, "backend": backend }));
        self.qmp_with(
            "device_add",
            &json!({ "driver": "virtconsole", "bus": "ports.0", "chardev": file, "name": file }),
        );
    }

    /// Takes a disk away, the first being 0. QEMU answers when the disk's last request is over, so
    /// what ends that request is done in between.
    pub(crate) fn unplug(&mut self, disk: usize, meanwhile: impl FnOnce()) {
        let told = self.monitor.tell("device_del", &json!({ "id": device_id(disk) }));
        told.unwrap_or_else(|error| self.give_up(&error));
        meanwhile();
        let answer = self.monitor.answer("device_del");
        answer.unwrap_or_else(|error| self.give_up(&error));
    }

    /// Performs a command of QEMU's monitor that takes no arguments.
    pub(crate) fn qmp(&mut self, execute: &str) -> Value {
        self.qmp_with(execute, &json!({}))
    }

    pub(crate) fn qmp_with(&mut self, execute: &str, arguments: &Value) -> Value {
        let answer = self.monitor.execute(execute, arguments);
        answer.unwrap_or_else(|error| self.give_up(&error))
    }

    pub(super) fn give_up(&self, error: &dyn Display) -> ! {
        panic!("{error}: {}", read(&self.scratch, "qemu.log"))
    }

    /// Bytes that the guest has written to a disk so far, the first being 0.
    pub(crate) fn bytes_written(&mut self, disk: usize) -> u64 {
        let name = format!("disk{disk}");
        let stats = self.qmp("query-blockstats");
        let found = stats.as_array().into_iter().flatten().find(|entry| entry["device"] == name);
        found.and_then(|entry| entry["stats"]["wr_bytes"].as_u64()).expect("a disk of this VM")
    }
}
