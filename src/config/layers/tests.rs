//! A root of layers, by its keys.

use super::super::{Config, Layout, Lines};
use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::time::Duration;

/// As the engine writes them.
const TWO: &str = "console=hvc0 loglevel=3 boot=cocoon-overlay cocoon.layers=L0,L1 \
                   cocoon.cow=cow clocksource=kvm-clock rw";
const FIRECRACKER: &str = "console=ttyS0 reboot=k loglevel=3 pci=off i8042.noaux 8250.nr_uarts=1 \
     boot=cocoon-overlay cocoon.layers=/dev/vda cocoon.cow=/dev/vdb clocksource=kvm-clock rw";
const ONE: &str = "console=hvc0 loglevel=3 boot=cocoon-overlay cocoon.layers=L cocoon.cow=C \
                   clocksource=kvm-clock rw net.ifnames=0 cocoon.hostname=vm \
                   ip=10.0.0.2::10.0.0.1:255.255.255.0:vm:eth0:off:1.1.1.1";

const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn read(kernel: &str, initramfs: &str) -> Result<Config> {
    let (kernel, initramfs) = (kernel.replace("HASH", HASH), initramfs.replace("HASH", HASH));
    Config::from_lines(&Lines { kernel, initramfs })
}

fn layers(kernel: &str, initramfs: &str) -> Layers {
    match read(kernel, initramfs).unwrap().layout {
        Layout::Layers(layers) => layers,
        Layout::Partitions(partitions) => panic!("{partitions:?}"),
    }
}

fn refusal(kernel: &str, initramfs: &str) -> String {
    read(kernel, initramfs).unwrap_err().to_string()
}

fn serial(serial: &str) -> DiskName {
    DiskName::Serial(serial.to_owned())
}

#[test]
fn an_engines_lines_are_taken_as_they_are() {
    let two = layers(TWO, "cvm.unverified=yes");
    let disks: Vec<_> = two.layers.iter().map(|layer| layer.disk.clone()).collect();
    assert_eq!(disks, [Some(serial("L0")), Some(serial("L1"))]);
    assert_eq!(two.upper, Upper::Plain(serial("cow")));
    assert!(two.by_engine && !two.are_verified());
    assert_eq!((two.hostname, two.networks), (None, vec![]));

    let one = layers(FIRECRACKER, "cvm.unverified=yes");
    assert_eq!(one.layers[0].disk, Some(DiskName::Kernel("vda".into())));
    assert_eq!(one.upper, Upper::Plain(DiskName::Kernel("vdb".into())));

    let named = layers(ONE, "cvm.unverified=yes");
    assert_eq!(named.hostname.as_deref(), Some("vm"));
    let [network] = &named.networks[..] else { panic!("{named:?}") };
    assert_eq!((network.prefix, &*network.dns), (24, &[Ipv4Addr::new(1, 1, 1, 1)][..]));
}

#[test]
fn what_is_proven_is_encrypted_above() {
    let proven = layers(TWO, "cvm.layers=HASH@2,HASH@70");
    assert!(proven.are_verified() && proven.by_engine);
    assert_eq!(proven.upper, Upper::Volume(Some(serial("cow"))));
    let blocks: Vec<_> = proven.layers.iter().map(|layer| layer.proof.unwrap().blocks).collect();
    assert_eq!(blocks, [2, 70]);

    let alone = layers("cvm.layers=HASH@2 cvm.volume=serial:v quiet", "");
    assert_eq!((&alone.layers[0].disk, alone.by_engine), (&None, false));
    assert_eq!(alone.upper, Upper::Volume(Some(serial("v"))));
    assert_eq!(layers("cvm.layers=HASH@2", "").upper, Upper::Volume(None));
    assert_eq!(layers("cvm.layers=HASH@2 cvm.cow=memory", "").upper, Upper::Memory);
    // The engine names a disk in any case.
    assert_eq!(layers(TWO, "cvm.layers=HASH@2,HASH@2 cvm.cow=memory").upper, Upper::Memory);
    let plain = layers(TWO, "cvm.layers=HASH@2,HASH@2 cvm.cow=plain cvm.unverified=yes");
    assert_eq!(plain.upper, Upper::Plain(serial("cow")));
    let encrypted = layers(TWO, "cvm.unverified=yes cvm.cow=encrypted");
    assert_eq!(encrypted.upper, Upper::Volume(Some(serial("cow"))));
}

/// Wherever the end of a line is lost, no other image is meant by what is left: at most the last
/// number of blocks is another, which proves nothing.
#[test]
fn a_line_that_was_cut_means_no_other_image() {
    let whole = format!("{TWO} cvm.layers=HASH@12,HASH@345").replace("HASH", HASH);
    let mut taken = Vec::new();
    for length in 0..whole.len() {
        if let Ok(config) = read(&whole[..length], "") {
            let Layout::Layers(layers) = config.layout else { panic!("{config:?}") };
            let blocks = layers.layers.iter().map(|layer| layer.proof.unwrap().blocks);
            taken.push(blocks.collect::<Vec<_>>());
        }
    }
    assert_eq!(taken, [[12, 3], [12, 34]]);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let unverified = "cocoon.layers= without cvm.layers=: the layers are not verified, which \
                      cvm.unverified=yes would allow";
    let nowhere = "cvm.cow=plain: cocoon.cow= does not say on which disk";
    for (kernel, initramfs, message) in [
        (TWO, "", unverified),
        (TWO, "cvm.unverified=no", unverified),
        (
            TWO,
            "cvm.layers=HASH@2",
            "cvm.layers= has 1, but cocoon.layers= has 2: was the command line cut?",
        ),
        (
            TWO,
            "cvm.layers=HASH@2,HASH@2 cvm.cow=plain",
            "cvm.cow=plain: what is on it is not verified, which cvm.unverified=yes would allow",
        ),
        (
            TWO,
            "cvm.layers=HASH@2,HASH@2 cvm.unverified=yes",
            "cvm.unverified=yes, but all is verified",
        ),
        (
            TWO,
            "cvm.layers=HASH@2,HASH@2 cvm.volume=serial:v",
            "cocoon.cow= and cvm.volume= both name a disk for what is written, with serial \
             \"cow\" and with serial \"v\"",
        ),
        ("cvm.unverified=yes cocoon.layers=a", "", nowhere),
        (
            "cvm.cow=memory",
            "",
            "neither cvm.layers= nor cocoon.layers= says what the root is made of",
        ),
        (
            "boot=cocoon-overlay",
            "",
            "neither cvm.layers= nor cocoon.layers= says what the root is made of",
        ),
        (
            "cvm.layers=HASH@2 cvm.cow=memory cvm.tags=disk",
            "",
            "cvm.tags= says nothing without cvm.cow=encrypted",
        ),
        (
            "cvm.layers=HASH@2 cvm.cow=memory cvm.volume=serial:v",
            "",
            "cvm.volume= says nothing without cvm.cow=encrypted",
        ),
        (
            "cocoon.layers=a cocoon.cow=a cvm.unverified=yes",
            "",
            "the serial \"a\" is given to two disks",
        ),
        (
            "cocoon.layers=/dev/vda cocoon.cow=/dev/vda cvm.unverified=yes",
            "",
            "the disk /dev/vda is given twice",
        ),
        (
            "cvm.layers=HASH@2 cvm.cow=memory cvm.timeout=9 cocoon.timeout=9",
            "",
            "cvm.timeout= and cocoon.timeout= exclude each other",
        ),
    ] {
        assert_eq!(refusal(kernel, initramfs), message, "{kernel} {initramfs}");
    }
}

#[test]
fn what_is_said_of_partitions_says_nothing_of_layers() {
    for word in [
        "roothash=HASH",
        "cvm.verity_salt=00",
        "cvm.verity_data_blocks=2",
        "cvm.verity_hash_offset=4096",
        "cvm.disk=/dev/sda",
        "rootfstype=erofs",
        "cvm.shares=no",
        "cvm.tmp=volume",
        "cvm.var=volume",
        "cvm.overlay=/etc",
    ] {
        let key = word.split('=').next().unwrap();
        assert_eq!(
            refusal(&format!("cvm.layers=HASH@2 cvm.volume=serial:v {word}"), ""),
            format!("{key}= says nothing where the root is made of layers")
        );
    }
}

#[test]
fn a_value_that_is_wrong_is_named() {
    let many = "x".repeat(64);
    for (word, message) in [
        ("cvm.layers=", "0 characters, a SHA-256 root hash has 64"),
        ("cvm.layers=HASH", "not a list of HASH@BLOCKS"),
        ("cvm.layers=HASH@1", "verity data blocks 1, not from 2 to 4503599627370496"),
        ("cvm.layers=HASH@2,", "0 characters, a SHA-256 root hash has 64"),
        ("cvm.cow=paper", "not one of encrypted, memory, plain"),
        ("cvm.unverified=maybe", "not one of yes, no"),
        ("cocoon.layers=", "\"\" is neither a serial nor /dev/NAME"),
        ("cocoon.layers=a,,b", "\"\" is neither a serial nor /dev/NAME"),
        ("cocoon.layers=a,b,a", "with serial \"a\" is named twice"),
        ("cocoon.layers=../a", "\"../a\" is neither a serial nor /dev/NAME"),
        ("cocoon.layers=/dev/a/b", "\"/dev/a/b\" is neither a serial nor /dev/NAME"),
        ("cocoon.cow=/dev/", "\"/dev/\" is neither a serial nor /dev/NAME"),
        ("cocoon.timeout=ten", "not a number of seconds from 1 to 3600"),
        (
            "cocoon.hostname=-vm",
            "not 1 to 63 letters, digits, dots, _ and -, a letter or digit first",
        ),
        (
            &format!("cocoon.hostname={many}"),
            "not 1 to 63 letters, digits, dots, _ and -, a letter or digit first",
        ),
    ] {
        let shown = word.replace("HASH", HASH);
        assert_eq!(refusal(word, ""), format!("{shown}: {message}"));
    }
    let twice = "cvm.layers=HASH@2 cvm.cow=memory ip=1.0.0.1:::255.0.0.0:h:eth0:off \
                 ip=1.0.0.2:::255.0.0.0:h:eth0:off";
    assert_eq!(refusal(twice, ""), "ip=1.0.0.2:::255.0.0.0:h:eth0:off: eth0 is given twice");
}

#[test]
fn words_of_others_are_passed_over() {
    let words = "boot=live boot=live boot ip=dhcp ip cocoon.hostname=vm cocoon.timeout=7";
    let config = read(&format!("roothash=HASH {words}"), "").unwrap();
    assert!(matches!(config.layout, Layout::Partitions(_)));
    assert_eq!(config.timeout, Duration::from_secs(30));
    let later = layers(&format!("{TWO} cocoon.colour=red ip=dhcp"), "cvm.unverified=yes");
    assert_eq!(later.networks, []);
    assert_eq!(
        refusal(&format!("{TWO} cocoon.colour=red cocoon.colour=blue"), ""),
        "cocoon.colour= is given twice"
    );
    let config = read(&format!("{TWO} cocoon.timeout=7"), "cvm.unverified=yes").unwrap();
    assert_eq!((config.timeout, &*config.shares), (Duration::from_secs(7), &[][..]));
}

proptest! {
    #[test]
    fn no_value_of_a_key_panics(key in 0..super::super::LAYER_KEYS.len(), value in "[ -~]*") {
        let (name, _) = super::super::LAYER_KEYS[key];
        let _ = read(&format!("cvm.layers=HASH@2 cvm.cow=memory {name}={value}"), "");
        let _ = read(&format!("{name}={value}"), "");
    }
}
