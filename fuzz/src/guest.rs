//! Texts: the command line, what the shares are called, the fstab, and what is logged of all that.

use std::net::Ipv4Addr;

use cvm_init::config::{
    Config, DataDisk, DiskChoice, DiskName, Layer, Layers, Layout, Lines, MOUNT_POINTS, Measure,
    Medium, NextKernel, Partitions, Proof, SHARES, Upper,
};
use cvm_init::format::fstab::{self, Mount};
use cvm_init::format::hex;
use cvm_init::format::tmpfs;
use cvm_init::format::verity::Params;
use cvm_init::kernel::{kmsg, mount, share};

use super::check_refusal;

/// `/proc/cmdline`, and words in the initramfs.
pub fn cmdline(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    let lines = |kernel: &str, initramfs: &str| Lines {
        kernel: kernel.to_owned(),
        initramfs: initramfs.to_owned(),
    };
    let on_failure = |line: &str| Config::on_failure(&lines(line, ""));
    let action = on_failure(&line);
    let behind = |words: &str| format!("{words} {line}");
    assert_eq!(on_failure(&behind("cvm.on_failure=explode quiet")), action);
    if let (Ok(()), Ok(there)) =
        (Config::check_initramfs_words(&line), Config::from_lines(&lines("", &line)))
    {
        assert_eq!(Config::from_cmdline(&line), Ok(there));
    }
    let config = match Config::from_cmdline(&line) {
        Ok(config) => config,
        Err(error) => return check_refusal(&error),
    };
    assert_eq!(Config::from_cmdline(&behind("console=ttyS0")).as_ref(), Ok(&config));
    // What is accepted leaves no room for another opinion.
    for root_hash in root_hashes(&config.layout) {
        assert!(line.replace('"', "").to_ascii_lowercase().contains(&root_hash));
        Config::from_cmdline(&behind(&format!("roothash={root_hash}")))
            .expect_err("a second root hash");
    }
    Config::from_cmdline(&behind("cvm.unknown=1")).expect_err("an unknown key");
    check_values(&config);
    check_events(&config);
    check_round_trip(&config);
}

/// What the root is proven by.
fn root_hashes(layout: &Layout) -> Vec<String> {
    match layout {
        Layout::Partitions(partitions) => vec![hex::encode(&partitions.root_hash)],
        Layout::Layers(layers) => {
            let proofs = layers.layers.iter().filter_map(|layer| layer.proof);
            proofs.map(|proof| hex::encode(&proof.root_hash)).collect()
        }
    }
}

/// The disks that are named for the root and for what is written.
fn named(layout: &Layout) -> Vec<&DiskName> {
    match layout {
        Layout::Partitions(partitions) => {
            let root = match &partitions.disk {
                DiskChoice::Proof => None,
                DiskChoice::Named(disk) => Some(disk),
            };
            root.into_iter().chain(&partitions.volume).collect()
        }
        Layout::Layers(layers) => {
            let disks = layers.layers.iter().filter_map(|layer| layer.disk.as_ref());
            disks.chain(layers.upper.disk()).collect()
        }
    }
}

fn check_values(config: &Config) {
    assert!(config.init.starts_with('/'));
    assert!((1..=3600).contains(&config.timeout.as_secs()));
    for (number, directory) in config.overlay.iter().enumerate() {
        let apart = |other: &str| {
            let (directory, other) = (format!("{directory}/"), format!("{other}/"));
            !directory.starts_with(&other) && !other.starts_with(&directory)
        };
        assert!(directory.starts_with('/') && !directory.ends_with('/'), "{directory:?}");
        assert!(MOUNT_POINTS.iter().all(|place| apart(place)), "{directory:?}");
        assert!(config.overlay[..number].iter().all(|other| apart(other)), "{directory:?}");
    }
    match &config.layout {
        Layout::Partitions(partitions) => {
            if let Some(params) = &partitions.verity {
                let again = Params::new(params.salt.clone(), params.data_blocks);
                assert_eq!(again.as_ref(), Ok(params));
            }
        }
        Layout::Layers(layers) => {
            assert!(!layers.layers.is_empty());
            // What nothing is proven of is taken with a word of its own only.
            let all = layers.layers.iter().all(|layer| layer.proof.is_some());
            assert_eq!(layers.are_verified(), all);
        }
    }
    for disk in named(&config.layout) {
        match disk {
            DiskName::Kernel(name) => assert!(!name.is_empty() && !name.contains('/'), "{name:?}"),
            DiskName::Serial(serial) => assert!(!serial.is_empty()),
        }
    }
    assert!(config.volume_min >= 32 << 20);
    // A name becomes part of a path, and a serial stands for one disk.
    let mut serials: Vec<_> = named(&config.layout)
        .into_iter()
        .filter_map(|disk| match disk {
            DiskName::Kernel(_) => None,
            DiskName::Serial(serial) => Some(serial),
        })
        .collect();
    for (index, DataDisk { name, serial, .. }) in config.data.iter().enumerate() {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        assert!((1..=32).contains(&name.len()) && name.bytes().all(is_plain), "{name:?}");
        assert!(config.data[..index].iter().all(|other| other.name != *name), "{name}");
        assert!(!serial.is_empty() && !serials.contains(&serial), "{serial:?}");
        serials.push(serial);
    }
}

/// What is recorded of it is a few lines that anybody can read, or a refusal.
fn check_events(config: &Config) {
    let root = Params::new(Vec::new(), 2).expect("a tree");
    let (verity, of_root) = match &config.layout {
        Layout::Partitions(partitions) => (partitions.verity.as_ref(), 1),
        Layout::Layers(layers) => (None, layers.layers.len()),
    };
    let events = match config.events(verity.or(Some(&root))) {
        Ok(events) => events,
        Err(error) => return check_refusal(&error),
    };
    // Another kernel's boot has a volume, this one has not.
    let of_volume = usize::from(next_kernel(config).is_none());
    assert_eq!(events.len(), of_root + of_volume + 1 + config.data.len());
    for event in events {
        let line = event.line();
        assert!(line.starts_with(&format!("cvm-init {} ", event.operation)), "{line:?}");
        assert!(line.len() <= 1024 && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
}

/// Its values written as words again are read as the same values.
fn check_round_trip(config: &Config) {
    let mut words = vec![
        format!("cvm.timeout={}", config.timeout.as_secs()),
        format!("cvm.log={}", config.log.as_str().to_ascii_lowercase()),
    ];
    words.push(format!(
        "cvm.measure={}",
        match config.measure {
            Measure::Auto => "auto",
            Measure::Required => "required",
            Measure::Rtmr3 => "rtmr3",
            Measure::No => "no",
        }
    ));
    match &config.layout {
        Layout::Partitions(partitions) => {
            words.extend(words_of_partitions(partitions));
            if partitions.next_kernel.is_none() {
                words.extend(words_of_places(config));
                words.extend(words_of_volume(config));
            }
        }
        Layout::Layers(layers) => {
            words.extend(words_of_layers(layers));
            if let Upper::Volume(_) = layers.upper {
                words.extend(words_of_volume(config));
            }
        }
    }
    if next_kernel(config).is_none() {
        words.push(format!("init=\"{}\"", config.init));
    }
    for DataDisk { name, serial, root_hash, blocks } in &config.data {
        let at = blocks.map(|blocks| format!("@{blocks}")).unwrap_or_default();
        let hash = hex::encode(root_hash);
        words.push(format!("\"cvm.data={name}:serial:{serial}:{hash}{at}\""));
    }
    let again = Config::from_cmdline(&words.join("\t")).expect("its own values");
    let told = |config: &Config| {
        let Config {
            layout,
            volume_min,
            data,
            grow,
            timeout,
            log,
            shares,
            tmp,
            var,
            overlay,
            measure,
            init,
            ..
        } = config.clone();
        ((layout, volume_min, data, grow), timeout, log, shares, (tmp, var, overlay), measure, init)
    };
    assert_eq!(told(&again), told(config));
}

fn next_kernel(config: &Config) -> Option<&NextKernel> {
    match &config.layout {
        Layout::Partitions(partitions) => partitions.next_kernel.as_ref(),
        Layout::Layers(_) => None,
    }
}

fn words_of_volume(config: &Config) -> Vec<String> {
    let grow = if config.grow { "yes" } else { "no" };
    vec![format!("cvm.volume_min={}", config.volume_min), format!("cvm.grow={grow}")]
}

fn words_of_places(config: &Config) -> Vec<String> {
    let tags: Vec<_> = config.shares.iter().map(|share| share.tag).collect();
    let tags = if tags.is_empty() { "no".into() } else { tags.join(",") };
    let mut words = vec![format!("cvm.shares={tags}")];
    for (key, medium) in [("cvm.tmp", config.tmp), ("cvm.var", config.var)] {
        words.extend(medium.map(|medium| match medium {
            Medium::Volume => format!("{key}=volume"),
            Medium::Memory(None) => format!("{key}=memory"),
            Medium::Memory(Some(size)) => format!("{key}=memory:{size}"),
        }));
    }
    if !config.overlay.is_empty() {
        words.push(format!("\"cvm.overlay={}\"", config.overlay.join(",")));
    }
    words
}

fn words_of_partitions(partitions: &Partitions) -> Vec<String> {
    let Partitions { root_hash, verity, hash_offset, disk, volume, kinds, next_kernel } =
        partitions;
    let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    let mut words = vec![
        format!("roothash={}", hex::encode(root_hash)),
        format!("rootfstype={}", kinds.join(",")),
    ];
    if let Some(Params { salt, data_blocks }) = verity {
        let salt = if salt.is_empty() { "-".into() } else { hex::encode(salt) };
        words.push(format!("cvm.verity_salt={salt} cvm.verity_data_blocks={data_blocks}"));
    }
    if let Some(offset) = hash_offset {
        words.push(format!("cvm.verity_hash_offset={}", offset.bytes()));
    }
    match disk {
        DiskChoice::Proof => {}
        DiskChoice::Named(DiskName::Kernel(name)) => {
            words.push(format!("cvm.disk=\"/dev/{name}\""));
        }
        DiskChoice::Named(DiskName::Serial(serial)) => {
            words.push(format!("\"cvm.disk=serial:{serial}\""));
        }
    }
    words.extend(volume.as_ref().map(word_of_volume));
    words.extend(next_kernel.as_ref().map(|NextKernel { kernel, initramfs, cmdline }| {
        let names = format!("cvm.kexec_kernel={kernel} cvm.kexec_initramfs={initramfs}");
        format!("cvm.handoff=kexec {names} cvm.kexec_cmdline={cmdline}")
    }));
    words
}

/// Any serial can stand in ours, and the kernel's names in the engine's.
fn word_of_volume(disk: &DiskName) -> String {
    match disk {
        DiskName::Kernel(name) => format!("\"cocoon.cow=/dev/{name}\""),
        DiskName::Serial(serial) => format!("\"cvm.volume=serial:{serial}\""),
    }
}

fn by_engine(disk: &DiskName) -> String {
    match disk {
        DiskName::Kernel(name) => format!("/dev/{name}"),
        DiskName::Serial(serial) => serial.clone(),
    }
}

fn words_of_layers(layers: &Layers) -> Vec<String> {
    let mut words = Vec::new();
    let proofs: Vec<_> = layers.layers.iter().filter_map(|Layer { proof, .. }| *proof).collect();
    let disks: Vec<_> = layers.layers.iter().filter_map(|layer| layer.disk.as_ref()).collect();
    if !proofs.is_empty() {
        let proof =
            |Proof { root_hash, blocks }: &Proof| format!("{}@{blocks}", hex::encode(root_hash));
        let proofs: Vec<_> = proofs.iter().map(proof).collect();
        words.push(format!("cvm.layers={}", proofs.join(",")));
    }
    if !disks.is_empty() {
        let disks: Vec<_> = disks.into_iter().map(by_engine).collect();
        words.push(format!("\"cocoon.layers={}\"", disks.join(",")));
    }
    let mut is_unverified = !layers.are_verified();
    match &layers.upper {
        Upper::Volume(disk) => {
            words.push("cvm.cow=encrypted".into());
            words.extend(disk.as_ref().map(word_of_volume));
        }
        Upper::Memory => words.push("cvm.cow=memory".into()),
        Upper::Plain(disk) => {
            is_unverified = true;
            words.push("cvm.cow=plain".into());
            words.push(format!("\"cocoon.cow={}\"", by_engine(disk)));
        }
    }
    if is_unverified {
        words.push("cvm.unverified=yes".into());
    }
    if layers.by_engine {
        words.push("boot=cocoon-overlay".into());
    }
    words.extend(layers.hostname.as_ref().map(|name| format!("cocoon.hostname={name}")));
    for network in &layers.networks {
        let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - network.prefix).unwrap_or(0));
        let gateway = network.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
        let mut word = format!("ip={}::{gateway}:{mask}:h:{}:off", network.address, network.device);
        for server in &network.dns {
            word.extend([":".to_owned(), server.to_string()]);
        }
        words.push(word);
    }
    words
}

/// A `mount_tag` of sysfs.
pub fn mount_tag(bytes: &[u8]) {
    let tag = share::parse_tag(bytes);
    assert!(!tag.contains(['\0', '\n']), "{tag:?}");
    for share in SHARES {
        let rest = bytes.strip_prefix(share.tag.as_bytes());
        let is_it = rest.is_some_and(|rest| matches!(rest.first(), None | Some(0 | b'\n')));
        assert_eq!(tag == share.tag, is_it, "{tag:?}");
    }
}

/// The root's fstab, or the options of a line in it.
pub fn fstab(bytes: &[u8]) {
    let old = String::from_utf8_lossy(bytes);
    mount_options(&old);
    let shares = SHARES.iter().map(|share| (share.mount(), share::OPTIONS));
    let places = ["/tmp", "/var", "/run"].map(|place| (Mount::tmpfs(place), "defaults"));
    let all: Vec<_> = shares
        .chain(places)
        .map(|(mount, default)| {
            let options = mount.line_of(&old).and_then(|line| line.options);
            options.into_iter().for_each(mount_options);
            (mount, options.unwrap_or(default).to_owned())
        })
        .collect();
    for count in 0..=all.len() {
        let mounted = &all[..count];
        let root = fstab::Root { device: "/dev/mapper/root_verity", kind: "squashfs" };
        let new = fstab::generate(&old, root, mounted);
        let whole = new.text.strip_suffix('\n').expect("a line feed at its end");
        let lines: Vec<_> = whole.split('\n').filter(|line| !line.starts_with('#')).collect();
        let [root, lines @ ..] = &lines[..] else { panic!("no line: {new:?}") };
        assert_eq!(*root, "/dev/mapper/root_verity / squashfs ro,defaults 0 0");
        assert_eq!(lines.len(), count, "{new:?}");
        for (line, (mount, options)) in lines.iter().zip(mounted) {
            assert!(line.ends_with(&format!(" {options} 0 0")), "{line:?}");
            // A line of its own, which says the same when it is read again.
            let read = mount.line_of(line).and_then(|line| line.options);
            assert!(options.contains("noauto") || read == Some(options), "{line:?}");
        }
        assert!(new.dropped.len() <= old.split('\n').count());
    }
}

/// What is left for the file system has nothing in it that mount(2) takes as a flag, and what is
/// said behind all else is in force.
fn mount_options(options: &str) {
    type Hardening = (fn(&str) -> bool, &'static str, mount::Flags);
    let all: [Hardening; 2] = [
        (share::is_own, share::HARDENING, share::FLAGS),
        (tmpfs::is_own, "nosuid,nodev", mount::Flags::NOSUID.union(mount::Flags::NODEV)),
    ];
    for (is_own, hardening, flags) in all {
        let Ok((_, data)) = mount::parse_options(options, is_own) else { continue };
        assert_eq!(mount::parse_options(&data, is_own), Ok((mount::Flags::empty(), data.clone())));
        let hardened = format!("{options},{hardening}");
        let (all, same) = mount::parse_options(&hardened, is_own).expect("as before");
        assert!(all.contains(flags));
        assert_eq!(same, data);
    }
}

/// A severity, then a message.
pub fn kmsg_record(bytes: &[u8]) {
    let (severity, message) = bytes.split_first().unwrap_or((&0, &[]));
    let message = String::from_utf8_lossy(message);
    let record = kmsg::record(severity & 7, &message);
    let line = record.strip_suffix('\n').expect("a line feed at its end");
    let text = line.strip_prefix(&format!("<{}>cvm-init: ", severity & 7)).expect("its head");
    assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
    // The kernel takes at most 1024 - 48 bytes (LOG_LINE_MAX).
    assert!(record.len() < 976, "{} bytes", record.len());
    let is_plain = message.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    assert!(!is_plain || text == message || text.ends_with("..."), "{text:?}");
}
