//! What an image build computes, on the build host: nothing of it is in PID 1.
//!
//! [`oci`] reads an image as container tools store it, [`layer`] makes of its layers the trees of
//! files that disks are made of, and [`disks`] says with which words such disks are booted.

pub mod disks;
pub mod layer;
pub mod oci;
