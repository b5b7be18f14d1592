//! An image as container tools store it: a folder or an archive of JSON and blobs, each blob named by
//! its digest.
//!
//! Source: OCI Image Format Specification 1.1 (`image-layout.md`, `image-index.md`, `manifest.md`,
//! `config.md`, `layer.md`), and what `docker save` writes in place of a layout, `manifest.json`
//! (moby, `image/tarexport`).

mod blob;
mod digest;
mod image;
mod platform;
mod select;
mod source;
mod zstd;

pub use blob::Blob;
pub use digest::{Digest, Hashing};
pub use image::{Image, Layer, Packing};
pub use platform::Platform;
pub use source::Source;
