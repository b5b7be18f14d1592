//! What an image build and a verifier ask of the build host: nothing of it is in PID 1.
//!
//! [`oci`] reads an image as container tools store it, [`layer`] makes of its layers the trees of
//! files that disks are made of, and [`disks`] says with which words such disks are booted. [`measure`]
//! tells what a boot of an image will have measured, [`iso`] makes a CD of a disk, too, [`vm`] has
//! QEMU run what was made, [`launch`] does so as the Cocos Manager, and [`bench`] measures it.

pub mod bench;
pub mod disks;
pub mod files;
pub mod iso;
pub mod launch;
pub mod layer;
pub mod measure;
pub mod oci;
pub mod vm;
