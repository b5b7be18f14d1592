//! From single runs to figures: medians with their spread.

mod boots;
mod volumes;

use cvm_init::error::{Error, Result};
use serde::Deserialize as _;
use serde_json::Value;

use super::figures::{Figures, Footprint, Made};
use super::run::{Job, Run};

/// What runs come to.
///
/// # Errors
///
/// Names the run that does not tell what one of its job does.
pub fn figures(made: Made, footprints: Vec<Footprint>, all: Vec<Value>) -> Result<Figures> {
    let runs = all.iter().enumerate().map(|(number, run)| {
        Run::deserialize(run)
            .map_err(|cause| Error::cannot(&format_args!("use run {number}"), &cause))
    });
    let runs = runs.collect::<Result<Vec<_>>>()?;
    let (mut boots, mut counted, mut worked) = (Vec::new(), Vec::new(), Vec::new());
    let (mut unpacked, mut chosen, mut layered) = (Vec::new(), Vec::new(), Vec::new());
    let mut machines = Vec::new();
    for run in &runs {
        match &run.job {
            Job::Provisioning(boot) => boots.push((run, boot)),
            Job::Costs(boot) => counted.push((run, boot)),
            Job::Data(work) => worked.push((run, work)),
            Job::Unpack(image) => unpacked.push((run, image)),
            Job::Choices(choices) => chosen.push((run, choices)),
            Job::Layers(image) => layered.push((run, image)),
            Job::Machine(machine) => machines.push((run, machine)),
        }
    }
    Ok(Figures {
        provisioning: boots::provisioning(&boots, &made.sizes_mib),
        effects: boots::effects(&boots),
        costs: boots::costs(&counted),
        footprints,
        data: volumes::data(&worked),
        writers: volumes::writers(&worked),
        unpack: volumes::unpack(&unpacked),
        choices: volumes::choices(&chosen),
        layers: boots::layers(&layered),
        machines: boots::machines(&machines),
        made,
        all,
    })
}

/// A run, and what it tells of its job.
type Of<'a, T> = (&'a Run, &'a T);

/// What has the same key, in the order of the first of each.
fn gathered<K: PartialEq, V>(all: impl Iterator<Item = (K, V)>) -> Vec<(K, Vec<V>)> {
    let mut groups: Vec<(K, Vec<V>)> = Vec::new();
    for (key, value) in all {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(value),
            None => groups.push((key, vec![value])),
        }
    }
    groups
}

/// The same without the keys.
fn grouped<T: Copy, K: PartialEq>(all: &[T], key: impl Fn(T) -> K) -> Vec<Vec<T>> {
    let groups = gathered(all.iter().map(|&each| (key(each), each)));
    groups.into_iter().map(|(_, group)| group).collect()
}
