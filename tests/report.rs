//! The boot report is what `docs/boot.schema.json` says: no field more, none less. What boots in VMs
//! report is held to it where the guest is asked (`tests/vm/kit/guest.rs`).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod schema;

use std::io;
use std::time::{Duration, Instant};

use cvm_init::effect::{Effect, effect};
use cvm_init::report::{
    BankFacts, DataFacts, DiskFacts, LayerFacts, LayersFacts, MeasuredFacts, ProcessorFacts,
    Report, RootFacts, Stage, VerityFacts, VolumeFacts,
};
use serde_json::{Value, json};

use schema::check;

const STAGES: [Stage; 9] = [
    Stage::Config,
    Stage::Platform,
    Stage::Disk,
    Stage::Root,
    Stage::Data,
    Stage::Volume,
    Stage::Runtime,
    Stage::Measure,
    Stage::Handoff,
];

fn hash() -> String {
    "0123456789abcdef".repeat(4)
}

/// As PID 1 writes it, of a boot that went through all stages.
fn written(mut report: Report) -> Value {
    let start = Instant::now();
    for stage in STAGES {
        report.stage(stage, Duration::from_micros(7));
    }
    effect(Effect::<1>::new("read", "read {}").on(&[&"/proc/cmdline"]), || Ok::<_, io::Error>(()))
        .unwrap();
    serde_json::from_slice(&report.finish(start, Some(560)).unwrap()).unwrap()
}

/// Of a root on a partition, with all that a boot can have to say.
fn of_a_partition() -> Report {
    let mut report = Report::default();
    report.processor = Some(ProcessorFacts {
        aes: true,
        memory_encryption: Some("sev"),
        random_numbers: Some("rdseed"),
    });
    report.disk = Some(DiskFacts {
        name: "sda".into(),
        found_by: "proof",
        also_proven: vec!["nvme0n1".into()],
    });
    report.verity = Some(VerityFacts {
        root_hash: hash(),
        salt: String::new(),
        data_blocks: 2,
        block_size: 4096,
        parameters_from: "command line",
        data: "sda2".into(),
        hash: "sda3".into(),
        hash_start: 1,
    });
    report.root = Some(RootFacts {
        device: "/dev/mapper/root_verity".into(),
        bytes: 8192,
        file_system: "erofs",
    });
    report.data = vec![DataFacts {
        name: "models".into(),
        disk: "sdb".into(),
        device: "/dev/mapper/data_models".into(),
        mounted_on: "/run/cvm-init/data/models".into(),
        root_hash: hash(),
        data_blocks: 2,
    }];
    report.volume = Some(VolumeFacts {
        device: "/dev/mapper/cocos_crypt".into(),
        partition: "sda4".into(),
        partition_bytes: 64 << 20,
        bytes: 48 << 20,
        uuid: "01234567-89ab-4def-8123-456789abcdef".into(),
        cipher: "aes-xts-plain64",
        integrity: "hmac-sha256",
        tags: "disk",
        tags_memory_max: Some(1 << 17),
        metadata_memory_max: 7 << 20,
        sector_size: 4096,
        inodes: 3392,
        free_blocks: 12_000,
        free_inodes: 3381,
    });
    report.shares = vec!["certs_share", "env_share"];
    report.measured = Some(MeasuredFacts {
        register: "PCR 15",
        events: vec!["cvm-init volume none upper=memory".into()],
        values: vec![BankFacts { bank: "sha256", value: hash() }],
        log: "/run/log/systemd/tpm2-measure.log",
    });
    report
}

/// Of layers, one verified and one not, with as little to say as can be.
fn of_layers() -> Report {
    let layer = |disk: &str, root_hash, data_blocks| LayerFacts {
        disk: disk.into(),
        device: format!("/dev/{disk}").into(),
        root_hash,
        data_blocks,
    };
    let layers = vec![layer("vda", Some(hash()), Some(2)), layer("vdb", None, None)];
    let mut report = Report::default();
    report.layers = Some(LayersFacts { layers, upper: "memory" });
    report
}

#[test]
fn what_pid_1_writes_is_what_the_schema_says() {
    for report in [of_a_partition(), of_layers()] {
        let report = written(report);
        assert_eq!(check(&report), Ok(()), "{report:#}");
    }
}

#[test]
fn the_schema_leaves_nothing_open() {
    let good = written(of_a_partition());
    for (place, value) in [
        ("/version", json!(2)),
        ("/program", json!(1)),
        ("/total_us", json!(-1)),
        ("/peak_memory_kib", json!("560")),
        ("/processor/memory_encryption", json!("sgx")),
        ("/disk/also_proven", json!(["/dev/sdb"])),
        ("/verity/root_hash", json!("0123456789ABCDEF".repeat(4))),
        ("/verity/block_size", json!(512)),
        ("/root/file_system", json!("btrfs")),
        ("/root", Value::Null),
        ("/layers", written(of_layers())["layers"].clone()),
        ("/data/0/mounted_on", json!("/mnt")),
        ("/volume/integrity", json!("crc32")),
        ("/volume/tags_memory_max", json!(0.5)),
        ("/shares", json!(["certs_share", "certs_share"])),
        ("/measured/events", json!(["two\nlines"])),
        ("/stages/0/stage", json!("modules")),
        ("/effects/0/times", json!(0)),
    ] {
        let mut report = good.clone();
        *report.pointer_mut(place).unwrap() = value;
        assert!(check(&report).is_err(), "{place} may be {}", report.pointer(place).unwrap());
    }
}

/// Every object that a report is made of, by its place.
fn objects(value: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(place.to_owned());
            fields
                .iter()
                .for_each(|(name, value)| objects(value, &format!("{place}/{name}"), found));
        }
        Value::Array(values) => {
            let first = values.first().into_iter();
            first.for_each(|value| objects(value, &format!("{place}/0"), found));
        }
        _ => {}
    }
}

#[test]
fn a_field_more_or_less_is_another_version() {
    let good = written(of_a_partition());
    let mut places = Vec::new();
    objects(&good, "", &mut places);
    assert!(places.len() > 10, "{places:?}");
    for place in places {
        let fields = good.pointer(&place).unwrap().as_object().unwrap();
        let changed = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut report = good.clone();
            change(report.pointer_mut(&place).unwrap().as_object_mut().unwrap());
            check(&report)
        };
        let more = changed(&|fields| drop(fields.insert("colour".to_owned(), Value::Null)));
        assert!(more.is_err_and(|said| said.contains("colour")), "a field more in {place:?}");
        let name = fields.keys().next().unwrap();
        let less = changed(&|fields| drop(fields.remove(name)));
        assert!(less.is_err_and(|said| said.contains(name)), "no {name} in {place:?}");
    }
}
