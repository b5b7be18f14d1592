//! The disks of a root of layers, or the partitions of one.
//!
//! A layer that is proven is on whatever disk or partition proves it; the disk that it is named by is
//! looked at first. One that is not proven is on the only disk of its name.

use super::search::Search;
use super::seen::Seen;
use super::{VolumePlace, places};
use crate::config::{Layer, Layers, Proof};
use crate::error::{Error, Result};
use crate::kernel::block::{Device, Disk};
use crate::stage::verity::Verity;

/// Where a layer lies.
#[derive(Debug)]
pub struct LayerDisk {
    /// The whole disk, or a partition of it.
    pub device: Device,
    /// Kernel name of the disk.
    pub disk: String,
    /// What is proven of it, if anything.
    pub verity: Option<Verity>,
}

/// What is looked for: a search a layer.
pub(super) fn searches(layers: &Layers) -> Vec<Search> {
    layers
        .layers
        .iter()
        .enumerate()
        .map(|(number, Layer { disk, proof })| {
            let wanted = match (disk, proof) {
                (Some(disk), Some(_)) => {
                    format!("disk {disk} or another that proves layer {number}")
                }
                (Some(disk), None) => format!("usable disk {disk} for layer {number}"),
                (None, _) => format!("disk or partition that proves layer {number}"),
            };
            Search::new(wanted, format!(" for layer {number}"))
        })
        .collect()
}

/// Where each layer lies, in their order. `None` when one is missing. What is on disks that are
/// `given_up` to be written to is not looked at.
///
/// # Errors
/// When one and the same disk is named for two layers, of which nothing is proven.
pub(super) fn look(
    layers: &Layers,
    seen: &Seen<'_>,
    given_up: &[&Disk],
    searches: &mut [Search],
) -> Result<Option<Vec<LayerDisk>>> {
    // Each of them, so that whatever is missing is named.
    let mut found: Vec<_> = layers
        .layers
        .iter()
        .zip(&mut *searches)
        .map(|(layer, search)| {
            let first = layer.disk.as_ref();
            match &layer.proof {
                Some(proof) => {
                    let first = first.map_or_else(Vec::new, |disk| seen.named(disk, search));
                    prove(proof, &first, seen, given_up, search)
                }
                None => first.and_then(|disk| seen.only_one(disk, search)).map(|disk| LayerDisk {
                    device: disk.device.clone(),
                    disk: disk.device.name.clone(),
                    verity: None,
                }),
            }
        })
        .collect();
    for (number, (layer, search)) in layers.layers.iter().zip(searches).enumerate() {
        let again = match (&layer.proof, found.get(number)) {
            (Some(proof), Some(None)) => look_again(proof, seen, given_up, &found, search),
            _ => None,
        };
        if let Some(place) = found.get_mut(number) {
            *place = search.end(place.take().or(again));
        }
    }
    let found: Option<Vec<_>> = found.into_iter().collect();
    if let Some(layers) = &found {
        require_different(layers)?;
    }
    Ok(found)
}

/// The first place that proves a layer: disks of its name, then other disks, then partitions.
fn prove(
    proof: &Proof,
    first: &[&Disk],
    seen: &Seen<'_>,
    given_up: &[&Disk],
    search: &mut Search,
) -> Option<LayerDisk> {
    for disk in first {
        match prove_on(proof, &disk.device, disk) {
            Ok(found) => return Some(found),
            Err(error) => search.refuse(&disk.device.name, &error),
        }
    }
    // That most of what is there is something else goes without saying.
    let is_one_of = |disks: &[&Disk], disk: &Disk| {
        disks.iter().any(|other| other.device.dev == disk.device.dev)
    };
    let others = || seen.disks.iter().filter(|disk| !is_one_of(given_up, disk));
    others()
        .filter(|disk| !is_one_of(first, disk))
        .find_map(|disk| prove_on(proof, &disk.device, disk).ok())
        .or_else(|| {
            seen.with_partitions().filter(|(disk, _)| !is_one_of(given_up, disk)).find_map(
                |(disk, partitions)| {
                    partitions.iter().find_map(|it| prove_on(proof, &it.device, disk).ok())
                },
            )
        })
}

/// Looks for a layer once more where nothing was found: what proves none of them may be this one,
/// damaged, and is told with what is wrong.
fn look_again(
    proof: &Proof,
    seen: &Seen<'_>,
    given_up: &[&Disk],
    found: &[Option<LayerDisk>],
    search: &mut Search,
) -> Option<LayerDisk> {
    let is_found =
        |device: &Device| found.iter().flatten().any(|layer| layer.device.dev == device.dev);
    for (disk, partitions) in seen.with_partitions() {
        if given_up.iter().any(|other| other.device.dev == disk.device.dev) {
            continue;
        }
        let whole = Some(&disk.device).filter(|_| partitions.is_empty());
        for device in whole.into_iter().chain(partitions.iter().map(|it| &it.device)) {
            if is_found(device) {
                continue;
            }
            match prove_on(proof, device, disk) {
                Ok(layer) => return Some(layer),
                Err(error) => search.refuse(&device.name, &error),
            }
        }
    }
    None
}

fn prove_on(proof: &Proof, device: &Device, disk: &Disk) -> Result<LayerDisk> {
    let verity = Verity::prove_behind(device, proof.blocks, &proof.root_hash)?;
    let (device, disk) = (device.clone(), disk.device.name.clone());
    Ok(LayerDisk { device, disk, verity: Some(verity) })
}

/// Layers of one proof are the same layer, which may lie on one disk.
fn require_different(found: &[LayerDisk]) -> Result<()> {
    let is_shared = |one: &LayerDisk, other: &LayerDisk| {
        one.device.dev == other.device.dev && (one.verity.is_none() || other.verity.is_none())
    };
    for (number, layer) in found.iter().enumerate() {
        if found.iter().take(number).any(|other| is_shared(layer, other)) {
            return Err(Error::new(format!("{} is named for two layers", layer.device.name)));
        }
    }
    Ok(())
}

/// The partition for the volume, on the one disk that the layers are partitions of.
pub(super) fn volume(
    layers: &[LayerDisk],
    seen: &Seen<'_>,
    search: &mut Search,
) -> Option<VolumePlace> {
    let [first, rest @ ..] = layers else { return None };
    let mut disks = seen.with_partitions();
    let (disk, partitions) = disks.find(|(disk, _)| disk.device.name == first.disk)?;
    if rest.iter().any(|layer| layer.disk != first.disk) {
        search.refuse(&first.disk, &"not all layers are partitions of it");
        return None;
    }
    match places::volume_among(disk, partitions) {
        Ok(place) => Some(place),
        Err(error) => {
            search.refuse(&first.disk, &error);
            None
        }
    }
}
