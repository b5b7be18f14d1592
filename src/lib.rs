//! PID 1 of the initramfs of a confidential VM.
pub mod ext4;
