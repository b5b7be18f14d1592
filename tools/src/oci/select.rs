//! From the first JSON of an image to the manifests in it, and to the one that is asked for.

use std::collections::{BTreeMap, BTreeSet};

use cvm_init::error::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Digest, Packing, Platform, Source};

/// Indexes in indexes: `docker save` writes two.
const DEPTH_MAX: usize = 4;
/// What an index lists at most, with those in it.
const MANIFESTS_MAX: usize = 1024;

const INDEX: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIG: &[&str] =
    &["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYER: &[(&str, Packing)] = &[
    ("application/vnd.oci.image.layer.v1.tar", Packing::Plain),
    ("application/vnd.oci.image.layer.v1.tar+gzip", Packing::Gzip),
    ("application/vnd.oci.image.layer.v1.tar+zstd", Packing::Zstd),
    ("application/vnd.docker.image.rootfs.diff.tar", Packing::Plain),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", Packing::Gzip),
    ("application/vnd.docker.image.rootfs.diff.tar.zstd", Packing::Zstd),
];

/// Names of an image, in the annotations of an index.
const NAMES: &[&str] = &["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image that there is, of whose layers nothing is proven yet.
pub(super) struct Candidate {
    name: String,
    pub(super) digest: Option<Digest>,
    pub(super) config: Digest,
    pub(super) platform: Platform,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) claims: Vec<Claim>,
}

/// What is said of a layer.
pub(super) struct Claim {
    pub(super) digest: Option<Digest>,
    pub(super) size: Option<u64>,
    pub(super) diff_id: Digest,
    pub(super) file: String,
    pub(super) packing: Option<Packing>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(flatten)]
    platform: Platform,
    rootfs: RootFs,
    config: Option<Execution>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Execution {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

/// An image in the `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The only image for a platform.
pub(super) fn only_for(source: &Source, wanted: &Platform) -> Result<Candidate> {
    let mut others = Vec::new();
    let there = if source.has("index.json") {
        let mut listed = Vec::new();
        let index = parse("index.json", &source.json("index.json")?)?;
        list(source, index, None, DEPTH_MAX, &mut listed)?;
        of_layout(source, listed, wanted, &mut others)?
    } else if source.has("manifest.json") {
        let saved: Vec<Saved> = parse("manifest.json", &source.json("manifest.json")?)?;
        saved.into_iter().map(|saved| of_saved(source, saved)).collect::<Result<_>>()?
    } else {
        let neither = "it holds no image: there is neither index.json, as in an OCI image layout, \
                       nor manifest.json, as docker save writes it";
        return Err(Error::new(neither));
    };
    let (mut fitting, unfit): (Vec<_>, Vec<_>) =
        there.into_iter().partition(|candidate| candidate.platform.is(wanted));
    others.extend(unfit.into_iter().map(|candidate| candidate.platform));
    others.retain(Platform::is_known);
    // One that has several names is one.
    fitting.sort_by_key(|candidate| (candidate.digest, candidate.config));
    fitting.dedup_by_key(|candidate| (candidate.digest, candidate.config));
    if fitting.len() > 1 {
        let names: Vec<_> = fitting.iter().map(|candidate| &*candidate.name).collect();
        return Err(Error::new(format!(
            "it holds {} images for {wanted}: {}; copy one of them alone, as with \
             'skopeo copy oci:IMAGE:NAME oci:ONE'",
            names.len(),
            names.join(", ")
        )));
    }
    fitting.pop().ok_or_else(|| {
        let others: BTreeSet<_> = others.iter().map(Platform::to_string).collect();
        let others: Vec<_> = others.iter().map(String::as_str).collect();
        let others = if others.is_empty() { "none at all".to_owned() } else { others.join(", ") };
        Error::new(format!(
            "it holds no image for {wanted}, but {others}; --platform says which to take"
        ))
    })
}

/// Adds all manifests of an index, and of the indexes in it, with the names that they have.
fn list(
    source: &Source,
    index: Index,
    name: Option<&str>,
    depth: usize,
    listed: &mut Vec<(Descriptor, String)>,
) -> Result<()> {
    for descriptor in index.manifests {
        let annotations = descriptor.annotations.as_ref();
        let own = NAMES.iter().find_map(|key| annotations?.get(*key)).map(|own| format!("{own:?}"));
        let name = own.as_deref().or(name);
        if INDEX.contains(&&*descriptor.media_type) {
            let depth = depth
                .checked_sub(1)
                .ok_or_else(|| Error::new("it has too many indexes in indexes"))?;
            let (file, bytes) = proven(source, &descriptor)?;
            list(source, parse(&file, &bytes)?, name, depth, listed)?;
        } else {
            let name = name.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
            listed.push((descriptor, name));
        }
        if listed.len() > MANIFESTS_MAX {
            return Err(Error::new(format!("its index lists more than {MANIFESTS_MAX} manifests")));
        }
    }
    Ok(())
}

/// The images of a layout that may be for a platform; into `others` what the rest is for. Of the rest
/// the blobs need not be there.
fn of_layout(
    source: &Source,
    listed: Vec<(Descriptor, String)>,
    wanted: &Platform,
    others: &mut Vec<Platform>,
) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for (descriptor, name) in listed {
        match &descriptor.platform {
            Some(platform) if !platform.is(wanted) => others.push(platform.clone()),
            _ => candidates.push(of_manifest(source, &descriptor, name)?),
        }
    }
    Ok(candidates)
}

fn of_manifest(source: &Source, descriptor: &Descriptor, name: String) -> Result<Candidate> {
    require(MANIFEST.contains(&&*descriptor.media_type), "manifest", descriptor)?;
    let (file, bytes) = proven(source, descriptor)?;
    let Manifest { config, layers } = parse(&file, &bytes)?;
    require(CONFIG.contains(&&*config.media_type), "configuration", &config)?;
    let (file, bytes) = proven(source, &config)?;
    let configuration: Configuration = parse(&file, &bytes)?;
    let diff_ids = &configuration.rootfs.diff_ids;
    let claims = one_each(diff_ids, &layers)?.map(|(diff_id, layer)| {
        let packing = LAYER.iter().find(|(media_type, _)| *media_type == layer.media_type);
        require(packing.is_some(), "layer", layer)?;
        Ok(Claim {
            digest: Some(layer.digest),
            size: Some(layer.size),
            diff_id: *diff_id,
            file: blob(&layer.digest),
            packing: packing.map(|(_, packing)| *packing),
        })
    });
    let claims = claims.collect::<Result<_>>()?;
    let mut candidate =
        candidate(name, Some(descriptor.digest), config.digest, configuration, claims);
    candidate.platform = candidate.platform.or_variant_of(descriptor.platform.as_ref());
    Ok(candidate)
}

/// Nothing but the digests of the unpacked layers is said there of layers.
fn of_saved(source: &Source, saved: Saved) -> Result<Candidate> {
    let name = saved.config.rsplit('/').next().unwrap_or_default();
    let digits = name.trim_start_matches("sha256:").trim_end_matches(".json");
    let digest: Digest = format!("sha256:{digits}").parse()?;
    let bytes = source.json(&saved.config)?;
    same(&saved.config, &digest, &bytes)?;
    let configuration: Configuration = parse(&saved.config, &bytes)?;
    let diff_ids = &configuration.rootfs.diff_ids;
    let claims = one_each(diff_ids, &saved.layers)?.map(|(diff_id, file)| Claim {
        digest: None,
        size: None,
        diff_id: *diff_id,
        file: file.clone(),
        packing: None,
    });
    let claims = claims.collect();
    let tags = saved.repo_tags.unwrap_or_default();
    let name = tags.first().map_or_else(|| digest.to_string(), |tag| format!("{tag:?}"));
    Ok(candidate(name, None, digest, configuration, claims))
}

fn candidate(
    name: String,
    digest: Option<Digest>,
    config: Digest,
    configuration: Configuration,
    claims: Vec<Claim>,
) -> Candidate {
    let Execution { entrypoint, cmd } = configuration.config.unwrap_or_default();
    let (entrypoint, cmd) = (entrypoint.unwrap_or_default(), cmd.unwrap_or_default());
    let platform = configuration.platform;
    Candidate { name, digest, config, platform, entrypoint, cmd, claims }
}

/// Each digest of an unpacked layer with what else is said of the layer.
fn one_each<'a, T>(
    diff_ids: &'a [Digest],
    layers: &'a [T],
) -> Result<impl Iterator<Item = (&'a Digest, &'a T)>> {
    if layers.len() != diff_ids.len() || layers.is_empty() {
        return Err(Error::new(format!(
            "its manifest has {} layers, its configuration {}",
            layers.len(),
            diff_ids.len()
        )));
    }
    Ok(diff_ids.iter().zip(layers))
}

/// Stops at a kind of content that nobody here knows.
fn require(known: bool, what: &str, descriptor: &Descriptor) -> Result<()> {
    if known {
        return Ok(());
    }
    let Descriptor { media_type, digest, .. } = descriptor;
    Err(Error::new(format!("cannot use {digest} as {what}: it is of the kind {media_type:?}")))
}

/// Where a layout has a blob.
fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// JSON that is what its descriptor says, and its name.
fn proven(source: &Source, descriptor: &Descriptor) -> Result<(String, Vec<u8>)> {
    let file = blob(&descriptor.digest);
    let bytes = source.json(&file)?;
    if bytes.len() as u64 != descriptor.size {
        let (found, size) = (bytes.len(), descriptor.size);
        return Err(Error::new(format!("{file:?} has {found} bytes, not {size}")));
    }
    same(&file, &descriptor.digest, &bytes)?;
    Ok((file, bytes))
}

fn same(file: &str, digest: &Digest, bytes: &[u8]) -> Result<()> {
    let found = Digest::of(bytes);
    if found == *digest {
        Ok(())
    } else {
        Err(Error::new(format!("{file:?} is {found}, not {digest}")))
    }
}

fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T> {
    let cannot = |cause: serde_json::Error| Error::cannot(&format!("read {file:?}"), &cause);
    serde_json::from_slice(bytes).map_err(cannot)
}
