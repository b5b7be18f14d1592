//! What volumes do: fio, many writers, an image unpacked.

use super::{Of, grouped};
use crate::bench::figures::{Choosing, OfVolume, Throughput, Twice, Unpacking, Volume, Writing};
use crate::bench::run::{self, Chosen, FioJob, Report, Unpacked, Worked};
use crate::bench::spread::{Number, Spread};
use crate::bench::way::Way;

/// What fio measures: the name of the job, what it is counted in, and how that is told.
const JOBS: &[(&str, &str, Counted)] = &[
    ("sequential-write", "MiB/s", |job| Some(mib(job.write.as_ref()?.bw_bytes))),
    ("sequential-read", "MiB/s", |job| Some(mib(job.read.as_ref()?.bw_bytes))),
    ("random-read", "IOPS", |job| Some(job.read.as_ref()?.iops)),
    ("random-write", "IOPS", |job| Some(job.write.as_ref()?.iops)),
    ("fsync", "IOPS", |job| Some(job.write.as_ref()?.iops)),
];

type Counted = fn(&FioJob) -> Option<Number>;

fn mib(bytes: Number) -> Number {
    Number::Real(bytes.value() / f64::from(1 << 20))
}

/// A row for each volume and job.
pub(super) fn data(worked: &[Of<Worked>]) -> Vec<OfVolume<Throughput>> {
    let rows = worked.iter().flat_map(|(_, worked)| {
        let jobs: Vec<_> = worked.fio.jobs.iter().collect();
        let volume = volume(worked.way, worked.report.as_ref());
        throughput(&jobs)
            .map(move |figure| OfVolume { volume: volume.clone(), figure })
            .collect::<Vec<_>>()
    });
    rows.collect()
}

/// What fio's reports have of each job that it was asked for.
fn throughput(done: &[&FioJob]) -> impl Iterator<Item = Throughput> {
    JOBS.iter().filter_map(move |&(name, unit, counted)| {
        let values: Vec<_> =
            done.iter().filter(|job| job.jobname == name).filter_map(|job| counted(job)).collect();
        Some(Throughput {
            job: name.to_owned(),
            unit: unit.to_owned(),
            runs: values.len(),
            value: Spread::of_all(values)?,
        })
    })
}

/// Files a second; nothing of a volume that one of the tries has killed.
pub(super) fn writers(worked: &[Of<Worked>]) -> Vec<OfVolume<Writing>> {
    let row = |(_, worked): &Of<Worked>| {
        let tries = &worked.writers;
        let died = tries.iter().find_map(|each| each.died.clone());
        let files_s = Spread::of(tries.iter().map(|each| each.files_s)).filter(|_| died.is_none());
        OfVolume {
            volume: volume(worked.way, worked.report.as_ref()),
            figure: Writing { runs: tries.len(), files_s, died },
        }
    };
    worked.iter().map(row).collect()
}

/// A row for each way.
pub(super) fn unpack(unpacked: &[Of<Unpacked>]) -> Vec<OfVolume<Unpacking>> {
    let groups = grouped(unpacked, |(_, image)| image.way);
    let row = |group: &Vec<Of<Unpacked>>| {
        let (_, first) = group.first()?;
        Some(OfVolume {
            volume: volume(first.way, first.report.as_ref()),
            figure: Unpacking {
                runs: group.len(),
                took: twice(group.iter().map(|(_, image)| &image.took)),
                disk_errors: group.iter().map(|(_, image)| image.disk_errors).sum(),
            },
        })
    };
    groups.iter().filter_map(row).collect()
}

/// A row for each choice, of all boots together.
pub(super) fn choices(chosen: &[Of<Chosen>]) -> Vec<Choosing> {
    let tries: Vec<_> = chosen.iter().flat_map(|(_, chosen)| &chosen.choices).collect();
    let groups = grouped(&tries, |each| &each.choice);
    groups.iter().filter_map(|group| choice(group)).collect()
}

fn choice(tries: &[&run::Try]) -> Option<Choosing> {
    let first = tries.first()?;
    let jobs: Vec<_> =
        tries.iter().filter_map(|each| each.fio.as_ref()).flat_map(|fio| &fio.jobs).collect();
    Some(Choosing {
        choice: first.choice.clone(),
        refused: first.refused.clone(),
        runs: tries.len(),
        took: twice(tries.iter().map(|each| &each.took)),
        written_bytes: Spread::of(tries.iter().map(|each| each.written_bytes)),
        files_s: Spread::of(tries.iter().map(|each| each.writers.as_ref()?.files_s)),
        fio: throughput(&jobs).collect(),
    })
}

fn twice<'a>(tries: impl Iterator<Item = &'a run::Twice> + Clone) -> Twice {
    Twice {
        seconds: Spread::of(tries.clone().map(|each| each.unpack_s)),
        again_seconds: Spread::of(tries.map(|each| each.again_s)),
    }
}

/// Which volume it is, as the guest itself said.
fn volume(way: Way, report: Option<&Report>) -> Volume {
    let run::Volume { cipher, integrity, tags, .. } = Report::volume(report);
    Volume { way, cipher, integrity, tags }
}
