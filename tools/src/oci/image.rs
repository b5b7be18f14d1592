//! One image: that for a platform, whose blobs are what their digests say.

use std::io::{self, Read};

use cvm_init::error::{Error, Result};

use super::select::{self, Candidate, Claim};
use super::{Digest, Hashing, Platform, Source};

/// An image, and what tells it from every other.
#[derive(Debug)]
pub struct Image {
    /// That of its manifest; `docker save` of before Docker 25 writes none.
    pub digest: Option<Digest>,
    /// That of its configuration.
    pub config: Digest,
    /// The machine that it is for.
    pub platform: Platform,
    /// What a container of it runs, for information.
    pub entrypoint: Vec<String>,
    /// The arguments of that, or what it runs.
    pub cmd: Vec<String>,
    /// From the lowest to the topmost.
    pub layers: Vec<Layer>,
}

/// A layer, whose blob is the one that the image means.
#[derive(Debug)]
pub struct Layer {
    /// That of the blob as it lies in the image.
    pub digest: Digest,
    /// That of the archive in it, unpacked: `DiffID` of the specification.
    pub diff_id: Digest,
    /// Its name in the image.
    pub file: String,
    /// How the archive is packed.
    pub packing: Packing,
}

/// What an archive is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it")]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Image {
    /// The image for a platform, the only one for it.
    ///
    /// # Errors
    /// There is none, or more than one; or one of its blobs is missing, of a kind that is not known, or
    /// not what its digest says.
    pub fn choose(source: &Source, wanted: &Platform) -> Result<Self> {
        let Candidate { digest, config, platform, entrypoint, cmd, claims, .. } =
            select::only_for(source, wanted)?;
        let layers = claims.into_iter().enumerate();
        let layers = layers.map(|(number, claim)| {
            prove(source, claim)
                .map_err(|cause| Error::cannot(&format!("use layer {number}"), &cause))
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self { digest, config, platform, entrypoint, cmd, layers })
    }
}

/// The layer of which this is claimed.
fn prove(source: &Source, claim: Claim) -> Result<Layer> {
    let Claim { digest, size, diff_id, file, packing } = claim;
    let blob = source.file(&file)?;
    let found = blob.limit();
    if size.is_some_and(|size| size != found) {
        let size = size.unwrap_or_default();
        return Err(Error::new(format!("{file:?} has {found} bytes, not {size}")));
    }
    let mut blob = Hashing::new(blob);
    let cannot = |cause: io::Error| Error::cannot(&format!("read {file:?}"), &cause);
    let packing = if let Some(packing) = packing {
        packing
    } else {
        let mut start = Vec::new();
        blob.by_ref().take(4).read_to_end(&mut start).map_err(cannot)?;
        told_by(&start)
    };
    io::copy(&mut blob, &mut io::sink()).map_err(cannot)?;
    let found = blob.digest();
    // What is not packed has a digest in any case.
    let digest = digest.or((packing == Packing::Plain).then_some(diff_id)).unwrap_or(found);
    if digest != found {
        return Err(Error::new(format!("{file:?} is {found}, not {digest}")));
    }
    Ok(Layer { digest, diff_id, file, packing })
}

/// How something is packed that begins so, where no media type says it.
fn told_by(start: &[u8]) -> Packing {
    match start {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Packing::Zstd,
        _ => Packing::Plain,
    }
}
