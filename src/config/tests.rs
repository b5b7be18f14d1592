//! The command line as a whole.

mod properties;

use super::*;
use crate::format::hex;
use crate::format::rootfs::Kind;
use crate::format::tmpfs::Size;
use crate::format::verity::{self, HashOffset};

const HASH: &str = "roothash=00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

pub(super) const EVERY_KEY: &[&str] = &[
    "cvm.verity_salt=0a0b",
    "cvm.verity_data_blocks=77",
    "cvm.verity_hash_offset=319488",
    "cvm.disk=serial:AB",
    "cvm.volume=serial:CD",
    "cvm.volume_min=64M",
    "cvm.data=models:serial:EF:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff@77",
    "rootfstype=squashfs",
    "cvm.cipher=aes-gcm-random",
    "cvm.integrity=aead",
    "cvm.tags=disk",
    "cvm.verity_on_corruption=panic",
    "cvm.on_failure=halt",
    "cvm.grow=no",
    "cvm.timeout=5",
    "cvm.log=debug",
    "cvm.shares=env_share",
    "cvm.tmp=volume",
    "cvm.var=memory:64M",
    "cvm.overlay=/etc,/usr/local",
    "systemd.import_credentials=on",
    "cvm.measure=required",
    "init=/bin/other",
];

pub(super) fn parse(rest: &str) -> Result<Config> {
    Config::from_cmdline(&format!("console=ttyS0 {HASH} quiet {rest}\n"))
}

fn serial(serial: &str) -> DiskChoice {
    DiskChoice::Named(DiskName::Serial(serial.to_owned()))
}

pub(super) fn partitions(config: &Config) -> &Partitions {
    match &config.layout {
        Layout::Partitions(partitions) => partitions,
        Layout::Layers(layers) => panic!("{layers:?}"),
    }
}

pub(super) fn refusal(rest: &str) -> String {
    parse(rest).unwrap_err().to_string()
}

#[test]
fn the_root_hash_alone_is_enough() {
    let config = parse("").unwrap();
    let root = partitions(&config);
    assert_eq!(root.root_hash[..3], [0x00, 0x11, 0x22]);
    assert_eq!((&root.disk, &root.volume), (&DiskChoice::Proof, &None));
    assert_eq!((config.volume_min, &*config.data), (32 << 20, &[][..]));
    assert_eq!(root.kinds, Kind::ALL);
    assert_eq!((config.cipher.name, config.cipher.integrity), ("aes-gcm-random", "aead"));
    assert_eq!(config.tags, Some(Tags::Memory));
    assert_eq!(config.on_corruption, OnCorruption::Restart);
    assert!(config.grow);
    assert_eq!(config.timeout, Duration::from_secs(30));
    assert_eq!(config.shares, SHARES);
    assert_eq!((config.tmp, config.var), (None, None));
    assert!(config.overlay.is_empty());
    assert!(!config.credentials);
    assert_eq!(config.measure, Measure::Auto);
    assert_eq!(config.init, "/sbin/init");
    assert_eq!((&root.verity, root.hash_offset), (&None, None));
}

#[test]
fn every_key_is_taken() {
    // roothash= is the one that every line here has.
    assert_eq!(EVERY_KEY.len() + 1, KEYS.len());
    let config = parse(&EVERY_KEY.join(" ")).unwrap();
    let params = verity::Params::new(vec![10, 11], 77).unwrap();
    let root = partitions(&config);
    assert_eq!(root.verity, Some(params));
    assert_eq!(root.hash_offset.map(HashOffset::bytes), Some(78 * 4096));
    assert_eq!(root.disk, serial("AB"));
    assert_eq!(root.volume, Some(DiskName::Serial("CD".into())));
    assert_eq!(config.volume_min, 64 << 20);
    let data = DataDisk {
        name: "models".into(),
        serial: "EF".into(),
        root_hash: root.root_hash,
        blocks: Some(77),
    };
    assert_eq!(config.data, [data]);
    assert_eq!(root.kinds, [Kind::Squashfs]);
    assert_eq!(config.tags, Some(Tags::Disk));
    assert_eq!(config.on_corruption, OnCorruption::Panic);
    assert!(!config.grow);
    assert_eq!(config.timeout, Duration::from_secs(5));
    assert_eq!(config.log, LevelFilter::Debug);
    assert_eq!(config.shares, SHARES[1..]);
    assert_eq!(config.tmp, Some(Medium::Volume));
    assert_eq!(config.var, Some(Medium::Memory(Some(Size::Bytes(64 << 20)))));
    assert_eq!(config.overlay, ["/etc", "/usr/local"]);
    assert!(config.credentials);
    assert_eq!(config.measure, Measure::Required);
    assert_eq!(config.init, "/bin/other");
}

#[test]
fn a_bad_root_hash_is_refused_by_its_fault() {
    let hash = |text: &str| Config::from_cmdline(text).unwrap_err().to_string();
    assert_eq!(hash("quiet"), "roothash= is missing");
    assert_eq!(hash("roothash"), "roothash= has no value");
    assert_eq!(hash("roothash=00ff"), "roothash=00ff: 4 characters, a SHA-256 root hash has 64");
    let letters = "x".repeat(64);
    assert_eq!(
        hash(&format!("roothash={letters}")),
        format!("roothash={letters}: not hexadecimal")
    );
    assert_eq!(refusal(HASH), "roothash= is given twice");
}

#[test]
fn unknown_duplicated_and_malformed_keys_are_refused() {
    for (rest, message) in [
        ("cvm.colour=red", "unknown key cvm.colour="),
        ("cvm.debug", "unknown key cvm.debug="),
        ("cvm.log=info cvm.log=info", "cvm.log= is given twice"),
        ("cvm.log=loud", "cvm.log=loud: not one of error, warn, info, debug"),
        ("cvm.tags=paper", "cvm.tags=paper: not one of memory, disk"),
        ("cvm.measure=yes", "cvm.measure=yes: not one of auto, required, rtmr3, no"),
        ("cvm.timeout=0", "cvm.timeout=0: not a number of seconds from 1 to 3600"),
        ("cvm.disk=sda", "cvm.disk=sda: neither /dev/NAME nor serial:STRING"),
        ("cvm.disk=/dev/a/b", "cvm.disk=/dev/a/b: neither /dev/NAME nor serial:STRING"),
        ("cvm.verity_salt=0g", "cvm.verity_salt=0g: not hexadecimal"),
        (
            "cvm.verity_salt=00",
            "cvm.verity_salt= and cvm.verity_data_blocks= must be given together",
        ),
        (
            "cvm.verity_hash_offset=4097",
            "cvm.verity_hash_offset=4097: not a number of bytes that 4096 divides",
        ),
        (
            "cvm.verity_hash_offset=0",
            "cvm.verity_hash_offset=0: not a number of bytes that 4096 divides",
        ),
        (
            "cvm.verity_hash_offset=16M",
            "cvm.verity_hash_offset=16M: not a number of bytes that 4096 divides",
        ),
        (
            "cvm.verity_hash_offset=18446744073709551616",
            "cvm.verity_hash_offset=18446744073709551616: not a number of bytes that 4096 divides",
        ),
        (
            "cvm.verity_hash_offset=4096 cvm.verity_hash_offset=4096",
            "cvm.verity_hash_offset= is given twice",
        ),
        (
            "cvm.verity_hash_offset=311296 cvm.verity_salt=- cvm.verity_data_blocks=77",
            "cvm.verity_hash_offset=311296 lies within the data: cvm.verity_data_blocks=77 are \
             315392 bytes",
        ),
        ("init=sh", "init=sh: not an absolute path"),
        ("rootfstype=ext4 rootfstype=ext4", "rootfstype= is given twice"),
        (
            "cvm.tmp=memory:0",
            "cvm.tmp=memory:0: neither volume nor memory nor memory:SIZE, with a SIZE such as \
             512M or 50%",
        ),
        ("cvm.var=volume cvm.var=volume", "cvm.var= is given twice"),
        ("cvm.overlay=/etc,/etc", "cvm.overlay=/etc,/etc: /etc is named twice"),
        (
            "cvm.shares=certs_share,",
            "cvm.shares=certs_share,: neither \"no\" nor a list of certs_share, env_share",
        ),
        ("cvm.begin=", "unknown key cvm.begin="),
        ("cvm.begin cvm.end cvm.end", "cvm.end is given twice"),
        (
            "cvm.verity_on_corruption=ignore",
            "cvm.verity_on_corruption=ignore: not one of io-error, restart, panic",
        ),
        (
            "cvm.cipher=aes-xts-plain64 cvm.integrity=none cvm.tags=memory",
            "cvm.tags= with cvm.integrity=none: without integrity there are no tags",
        ),
    ] {
        assert_eq!(refusal(rest), message);
    }
}

#[test]
fn disks_that_cannot_be_meant_are_refused() {
    let hash = HASH.split_once('=').unwrap().1;
    for (rest, message) in [
        ("cvm.volume=serial:", "cvm.volume=serial:: not serial:STRING"),
        ("cvm.volume=/dev/sdb", "cvm.volume=/dev/sdb: not serial:STRING"),
        (
            "cvm.volume_min=31M",
            "cvm.volume_min=31M: not a size of at least 33554432 bytes, such as 64M or 2G",
        ),
        ("cvm.volume=serial:a cvm.volume=serial:b", "cvm.volume= is given twice"),
        ("cvm.volume_min=1G cvm.volume_min=1G", "cvm.volume_min= is given twice"),
        ("cvm.disk=serial:a cvm.volume=serial:a", "the serial \"a\" is given to two disks"),
    ] {
        assert_eq!(refusal(rest), message);
    }
    let one = format!("cvm.data=m:serial:a:{hash}");
    let same_name = format!("cvm.data=m:serial:b:{hash}");
    assert_eq!(
        refusal(&format!("{one} {same_name}")),
        format!("{same_name}: the name m is given twice")
    );
    for other in ["cvm.data=n:serial:a:HASH", "cvm.volume=serial:a", "cvm.disk=serial:a"] {
        let line = format!("{one} {}", other.replace("HASH", hash));
        assert_eq!(refusal(&line), "the serial \"a\" is given to two disks");
    }
}

#[test]
fn further_data_is_taken_as_often_as_it_is_given() {
    let hash = HASH.split_once('=').unwrap().1;
    let words = ["a", "b-2", "c_3"].map(|name| format!("cvm.data={name}:serial:{name}:{hash}"));
    let config = parse(&words.join(" ")).unwrap();
    let names: Vec<_> = config.data.iter().map(|data| &*data.name).collect();
    assert_eq!(names, ["a", "b-2", "c_3"]);
    assert!(config.data.iter().all(|data| data.blocks.is_none()));
}

#[test]
fn a_line_that_was_cut_is_refused() {
    let line = format!("BOOT_IMAGE=/bzImage cvm.begin {HASH} cvm.log=debug cvm.end");
    assert!(Config::from_cmdline(&format!("{line} more -- cvm.begin")).is_ok());
    // As GRUB cuts: whole words, from the end on.
    let words: Vec<_> = line.split(' ').collect();
    for length in 2..words.len() {
        let error = Config::from_cmdline(&words[..length].join(" ")).unwrap_err().to_string();
        assert!(error.ends_with("the command line was cut"), "{length}: {error}");
    }
    let behind = format!("cvm.begin {HASH} -- cvm.end");
    assert!(Config::from_cmdline(&behind).unwrap_err().to_string().contains("was cut"));
}

#[test]
fn shares_are_asked_for_by_their_tags() {
    assert_eq!(parse("cvm.shares=no").unwrap().shares, []);
    assert_eq!(parse("cvm.shares=env_share,certs_share").unwrap().shares.len(), 2);
}

#[test]
fn the_kernels_own_list_narrows_what_the_root_may_be() {
    let kinds =
        |list: &str| partitions(&parse(&format!("rootfstype={list}")).unwrap()).kinds.clone();
    assert_eq!(kinds("ext4"), [Kind::Ext4]);
    assert_eq!(kinds("erofs,ext4"), [Kind::Erofs, Kind::Ext4]);
    // Of the initramfs.
    assert_eq!(kinds("erofs,tmpfs"), [Kind::Erofs]);
    assert_eq!(kinds("ramfs"), Kind::ALL);
    for (list, wrong) in [("xfs", "xfs"), ("ext4,", ""), ("ext4,ext3", "ext3"), ("Ext4", "Ext4")] {
        assert_eq!(
            refusal(&format!("rootfstype={list}")),
            format!("rootfstype={list}: {wrong:?} is not one of ext4, erofs, squashfs")
        );
    }
}

#[test]
fn what_was_not_asked_for_never_weakens_what_was() {
    let xts = parse("cvm.cipher=aes-xts-plain64").unwrap();
    assert_eq!((xts.cipher.integrity, xts.tags), ("hmac-sha256", Some(Tags::Memory)));
    let none = parse("cvm.cipher=aes-xts-plain64 cvm.integrity=none").unwrap();
    assert_eq!(none.tags, None);
    for rest in ["cvm.integrity=none", "cvm.cipher=aes-gcm-random cvm.integrity=poly1305"] {
        assert!(refusal(rest).contains(": not one of aes-gcm-random with aead, "), "{rest}");
    }
}

#[test]
fn pairs_that_are_not_on_offer_are_refused_with_those_that_are() {
    let offer = "not one of aes-gcm-random with aead, aegis128-random with aead, \
                 chacha20-random with poly1305, aes-xts-plain64 with hmac-sha256, \
                 aes-xts-plain64 with none";
    let refusal = |name, integrity| values::cipher(name, integrity).unwrap_err().to_string();
    assert_eq!(refusal("rot13", None), format!("cvm.cipher=rot13: {offer}"));
    for integrity in ["none", "hmac-sha256", ""] {
        assert_eq!(
            refusal("aes-gcm-random", Some(integrity)),
            format!("cvm.cipher=aes-gcm-random with cvm.integrity={integrity}: {offer}")
        );
    }
}

#[test]
fn quotes_keep_blanks_and_two_dashes_end_it() {
    let config = parse("cvm.disk=\"serial:MY DISK\" -- cvm.unknown=1").unwrap();
    assert_eq!(partitions(&config).disk, serial("MY DISK"));
}

fn lines(kernel: &str, initramfs: &str) -> Lines {
    Lines { kernel: kernel.to_owned(), initramfs: initramfs.to_owned() }
}

#[test]
fn the_action_on_failure_is_found_in_a_broken_line() {
    for (kernel, initramfs, action) in [
        ("cvm.x=1 cvm.on_failure=halt", "", Action::Halt),
        ("cvm.on_failure=explode", "", Action::PowerOff),
        ("", "", Action::PowerOff),
        ("cvm.x=1", "cvm.y cvm.on_failure=reboot", Action::Reboot),
        ("-- cvm.on_failure=halt", "", Action::PowerOff),
    ] {
        assert_eq!(Config::on_failure(&lines(kernel, initramfs)), action, "{kernel}");
    }
}

#[test]
fn words_in_the_initramfs_are_as_good_as_on_the_line() {
    let line = format!("console=ttyS0 {HASH} init=/bin/other -- cvm.log=debug");
    let whole = Config::from_cmdline(&format!("cvm.disk=\"serial:A B\" {line}")).unwrap();
    assert_eq!(Config::from_lines(&lines(&line, " \"cvm.disk=serial:A B\"\n")), Ok(whole));
    // A quote that does not end takes no word of the other line with it.
    let open = Config::from_lines(&lines(&line, "cvm.disk=\"serial:A B")).unwrap();
    assert_eq!(partitions(&open).disk, serial("A B"));
}

#[test]
fn a_word_in_the_initramfs_that_is_not_read_is_refused() {
    let line = format!("quiet {HASH}");
    for (initramfs, message) in [
        (HASH, "roothash= is given twice"),
        ("cvm.log=debug cvm.log=debug", "cvm.log= is given twice"),
        ("cvm.begin", "cvm.begin and cvm.end do not stand together: the command line was cut"),
        ("cvm.colour=red", "unknown key cvm.colour="),
        ("console=hvc0", "\"console=hvc0\" in the initramfs: nobody reads it there"),
        ("--", "\"--\" in the initramfs: nobody reads it there"),
    ] {
        let error = Config::from_lines(&lines(&line, initramfs)).unwrap_err().to_string();
        assert_eq!(error, message);
    }
    assert!(Config::check_initramfs_words("cvm.log=debug cvm.tags=disk").is_ok());
    let error = Config::check_initramfs_words("quiet").unwrap_err().to_string();
    assert_eq!(error, "\"quiet\" in the initramfs: nobody reads it there");
}

#[test]
fn words_for_modules_are_kept_for_them() {
    let line =
        "dm-crypt.max_read_size=4096 nvme.poll_queues=2 quiet a.b=\"c d\" loop.flag=\"\" x.y";
    let parameters: Vec<_> = parse(line).unwrap().module_parameters;
    let parameters: Vec<_> = parameters.iter().map(|(name, word)| (&**name, &**word)).collect();
    assert_eq!(
        parameters,
        [
            ("dm_crypt", "max_read_size=4096"),
            ("nvme", "poll_queues=2"),
            ("a", "b=\"c d\""),
            ("loop", "flag="),
            ("x", "y"),
        ]
    );
    assert_eq!(parse("cvm.tags=disk -- a.b=c").unwrap().module_parameters, []);
}
