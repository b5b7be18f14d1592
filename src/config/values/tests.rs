use super::*;
use proptest::prelude::*;

#[test]
fn a_malformed_size_is_refused() {
    for text in ["", "M", "31M", "33554431", "+64M", "-64M", "64MB", "64m", "1.5G", "16777216T"] {
        let message = "not a size of at least 33554432 bytes, such as 64M or 2G";
        assert_eq!(volume_min(text).unwrap_err(), message, "{text:?}");
    }
}

#[test]
fn malformed_data_is_refused_by_its_fault() {
    let hash = "5a".repeat(32);
    let form = "not NAME:serial:STRING:HASH, nor the same with @BLOCKS";
    let name = "its name is not 1 to 32 of a-z, 0-9, _ and -";
    let blocks = "what is behind @ is not a number of blocks";
    let long = format!("{}:serial:a:HASH", "n".repeat(33));
    for (text, message) in [
        ("m", form),
        ("m:serial:a", form),
        ("m:a:HASH", form),
        ("m:serial::HASH", form),
        (":serial:a:HASH", name),
        ("M:serial:a:HASH", name),
        ("../m:serial:a:HASH", name),
        (&long, name),
        ("m:serial:a:00ff", "4 characters, a SHA-256 root hash has 64"),
        ("m:serial:a:b:", "0 characters, a SHA-256 root hash has 64"),
        ("m:serial:a:HASH@", blocks),
        ("m:serial:a:HASH@+7", blocks),
        ("m:serial:a:HASH@2@2", blocks),
        ("m:serial:a:HASH@1", "verity data blocks 1, not from 2 to 4503599627370496"),
    ] {
        assert_eq!(data(&text.replace("HASH", &hash)).unwrap_err(), message, "{text}");
    }
}

#[test]
fn a_place_is_memory_of_some_size_or_the_volume() {
    for (text, wanted) in [
        ("volume", Medium::Volume),
        ("memory", Medium::Memory(None)),
        ("memory:1", Medium::Memory(Some(Size::Bytes(1)))),
        ("memory:2G", Medium::Memory(Some(Size::Bytes(2 << 30)))),
        ("memory:60%", Medium::Memory(Some(Size::Percent(60)))),
    ] {
        assert_eq!(medium(text), Ok(wanted), "{text}");
    }
    for text in
        ["", "disk", "volume:1G", "memory:", "memory:0", "memory:0%", "memory:M", "memory:1X"]
    {
        assert!(medium(text).unwrap_err().starts_with("neither volume nor memory nor "), "{text}");
    }
}

#[test]
fn an_overlay_is_for_directories_apart_from_each_other_and_from_the_mount_points() {
    assert_eq!(overlay("/etc"), Ok(vec!["/etc".to_owned()]));
    assert_eq!(overlay("/a:b,/etc/x,/etcetera,/variable").unwrap().len(), 4);
    for text in
        ["", "/", "etc", "/etc/", "//etc", "/etc,", "/etc/../opt", "/./etc", "/a,,/b", "/a\0"]
    {
        let refusal = "not a list of absolute paths such as /etc,/opt";
        assert_eq!(overlay(text).unwrap_err(), refusal, "{text:?}");
    }
    for place in MOUNT_POINTS.iter().chain([&SCRIPTS]) {
        for directory in [(*place).to_owned(), format!("{place}/below")] {
            let refusal = format!("{directory} lies in {place}, over which a boot mounts");
            assert_eq!(overlay(&format!("/etc,{directory}")).unwrap_err(), refusal);
        }
    }
    for (text, refusal) in [
        ("/etc,/opt,/etc", "/etc is named twice"),
        ("/etc,/etc/ssl", "/etc/ssl lies in /etc"),
        ("/usr/lib,/opt,/usr", "/usr/lib lies in /usr"),
    ] {
        assert_eq!(overlay(text).unwrap_err(), refusal);
    }
}

proptest! {
    #[test]
    fn data_is_read_as_it_is_shown(
        name in "[a-z0-9_-]{1,32}",
        serial in "[ -~]{1,40}",
        root_hash: [u8; 32],
        blocks in prop::option::of(2..=1_u64 << 52),
    ) {
        let at = blocks.map(|blocks| format!("@{blocks}")).unwrap_or_default();
        let text = format!("{name}:serial:{serial}:{}{at}", hex::encode(&root_hash));
        prop_assert_eq!(data(&text), Ok(DataDisk { name, serial, root_hash, blocks }));
    }

    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = (data(&text), volume(&text), volume_min(&text));
    }

    #[test]
    fn sizes_are_counted_in_powers_of_1024(count in 1..1_u64 << 20, unit in 0..5_usize) {
        let (letter, power) = [("", 0), ("K", 1), ("M", 2), ("G", 3), ("T", 4)][unit];
        prop_assert_eq!(size(&format!("{count}{letter}")), Some(count << (10 * power)));
    }
}
