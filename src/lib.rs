//! PID 1 of the initramfs of a confidential VM.
