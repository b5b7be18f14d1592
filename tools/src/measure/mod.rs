//! What a boot of an image will have measured, from the files alone.
//!
//! Each chain is a list of events, and [`tpm`] makes the values of a TPM's registers of it:
//! [`grub`] and [`uki`] boot from the disk, [`direct`] is QEMU's `-kernel`. [`snp`] and [`tdx`] are
//! the launch measurements of the processors, over a firmware that [`ovmf`] reads. [`record`] is
//! what PID 1 measures. [`image`] puts together what holds for an image wherever it boots,
//! [`machine`] what only the machine decides, and [`document`] is the file that both end up in.

pub mod bytes;
pub mod direct;
pub mod document;
pub mod gpt;
pub mod grub;
pub mod hash;
pub mod igvm;
pub mod image;
pub mod kernel;
pub mod machine;
pub mod ovmf;
pub mod pe;
pub mod record;
pub mod snp;
pub mod table;
pub mod tdx;
pub mod tpm;
pub mod uki;
