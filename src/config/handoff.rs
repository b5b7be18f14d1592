//! The way out of a boot (`cvm.handoff=`): init of the root, or another kernel that lies in it.

use super::keys::Given;
use super::layers::{IsGiven, require_none};
use crate::error::{Error, Result};

/// What a boot hands over to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Init,
    Kexec,
}

pub(super) const WAYS: &[(&str, Way)] = &[("init", Way::Init), ("kexec", Way::Kexec)];

/// Another kernel, by files of the root. Each is an absolute path of printable ASCII without blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextKernel {
    /// `cvm.kexec_kernel=`
    pub kernel: String,
    /// `cvm.kexec_initramfs=`
    pub initramfs: String,
    /// `cvm.kexec_cmdline=`: the file that holds its command line.
    pub cmdline: String,
}

/// What the keys of this file said.
#[derive(Default)]
pub(super) struct Words {
    pub(super) way: Option<Way>,
    pub(super) kernel: Option<String>,
    pub(super) initramfs: Option<String>,
    pub(super) cmdline: Option<String>,
}

/// Keys of what only a boot does that ends in init. The next kernel has a command line of its own for
/// them, and passed over here they would be asked for and not in force.
const OF_INIT: &[(&str, IsGiven)] = &[
    ("cvm.verity_on_corruption", |given| given.on_corruption.is_some()),
    ("cvm.volume", |given| given.volume.is_some()),
    ("cvm.volume_min", |given| given.volume_min.is_some()),
    ("cvm.data", |given| !given.data.is_empty()),
    ("cvm.cipher", |given| given.cipher.is_some()),
    ("cvm.integrity", |given| given.integrity.is_some()),
    ("cvm.tags", |given| given.tags.is_some()),
    ("cvm.grow", |given| given.grow.is_some()),
    ("cvm.shares", |given| given.shares.is_some()),
    ("cvm.tmp", |given| given.tmp.is_some()),
    ("cvm.var", |given| given.var.is_some()),
    ("cvm.overlay", |given| given.overlay.is_some()),
    ("init", |given| given.init.is_some()),
];

/// Joins the keys.
pub(super) fn settle(given: &mut Given) -> Result<Option<NextKernel>> {
    let Words { way, kernel, initramfs, cmdline } = std::mem::take(&mut given.handoff);
    let files = [
        ("cvm.kexec_kernel", kernel),
        ("cvm.kexec_initramfs", initramfs),
        ("cvm.kexec_cmdline", cmdline),
    ];
    let is_asked_for = way == Some(Way::Kexec);
    if let Some((key, _)) = files.iter().find(|(_, file)| file.is_some() != is_asked_for) {
        return Err(Error::new(if is_asked_for {
            format!("cvm.handoff=kexec without {key}=")
        } else {
            format!("{key}= without cvm.handoff=kexec")
        }));
    }
    let [(_, Some(kernel)), (_, Some(initramfs)), (_, Some(cmdline))] = files else {
        return Ok(None);
    };
    if given.layers.are_given() {
        return Err(Error::new(
            "cvm.handoff=kexec where the root is made of layers: the next kernel has to lie in a \
             root on a partition",
        ));
    }
    require_none(given, OF_INIT, "where cvm.handoff=kexec leaves that to the next kernel")?;
    Ok(Some(NextKernel { kernel, initramfs, cmdline }))
}

/// Takes a path that is one word of a record, too.
pub(super) fn take(file: &mut Option<String>, text: &str) -> std::result::Result<(), String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        *file = Some(text.to_owned());
        return Ok(());
    }
    Err("not an absolute path of printable ASCII without blanks".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::{EVERY_KEY, parse, partitions, refusal};
    use crate::format::verity::OnCorruption;

    const HASH: &str = "roothash=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    const KEXEC: &str = "cvm.handoff=kexec cvm.kexec_kernel=/boot/vmlinuz \
                     cvm.kexec_initramfs=/boot/initrd cvm.kexec_cmdline=/boot/cmdline";

    #[test]
    fn a_boot_can_hand_over_to_another_kernel() {
        for rest in ["", "cvm.handoff=init"] {
            let config = parse(rest).unwrap();
            let root = partitions(&config);
            assert!(root.next_kernel.is_none() && root.has_volume(), "{rest}");
        }
        let config = parse(&format!("{KEXEC} cvm.log=debug cvm.measure=no")).unwrap();
        let root = partitions(&config);
        let next = NextKernel {
            kernel: "/boot/vmlinuz".into(),
            initramfs: "/boot/initrd".into(),
            cmdline: "/boot/cmdline".into(),
        };
        assert_eq!((&root.next_kernel, root.has_volume()), (&Some(next), false));
        assert_eq!(config.on_corruption, OnCorruption::IoError);
    }

    #[test]
    fn the_next_kernel_is_told_what_this_one_was() {
        let words = |rest: &str| partitions(&parse(rest).unwrap()).words();
        assert_eq!(words(KEXEC), HASH);
        let parameters =
            "cvm.verity_salt=- cvm.verity_data_blocks=77 cvm.verity_hash_offset=319488";
        assert_eq!(words(&format!("{parameters} {KEXEC}")), format!("{HASH} {parameters}"));
    }

    #[test]
    fn words_of_a_handoff_that_do_not_fit_together_are_refused() {
        let without = |key: &str| {
            let words = KEXEC.split(' ').filter(|word| !word.starts_with(key));
            words.collect::<Vec<_>>().join(" ")
        };
        for key in ["cvm.kexec_kernel", "cvm.kexec_initramfs", "cvm.kexec_cmdline"] {
            assert_eq!(refusal(&without(key)), format!("cvm.handoff=kexec without {key}="));
            for way in ["", "cvm.handoff=init"] {
                let alone = format!("{way} {key}=/boot/file");
                assert_eq!(refusal(&alone), format!("{key}= without cvm.handoff=kexec"));
            }
            for path in ["boot/file", "", "\"/boot/my file\"", "/boot/\u{e4}"] {
                let shown = path.replace('"', "");
                assert_eq!(
                    refusal(&format!("{key}={path}")),
                    format!(
                        "{key}={shown}: not an absolute path of printable ASCII without blanks"
                    )
                );
            }
            let twice = format!("{KEXEC} {key}=/boot/file");
            assert_eq!(refusal(&twice), format!("{key}= is given twice"));
        }
        assert_eq!(refusal(&format!("{KEXEC} cvm.handoff=kexec")), "cvm.handoff= is given twice");
        assert_eq!(refusal("cvm.handoff=reboot"), "cvm.handoff=reboot: not one of init, kexec");
        let layers = format!("cvm.layers={}@2 {KEXEC}", "0f".repeat(32));
        assert_eq!(
            Config::from_cmdline(&layers).unwrap_err().to_string(),
            "cvm.handoff=kexec where the root is made of layers: the next kernel has to lie in a root \
         on a partition"
        );
    }

    /// What the next kernel's own command line says.
    #[test]
    fn words_of_what_only_init_gets_are_refused_with_another_kernel() {
        let kept = [
            "cvm.verity_salt=0a0b",
            "cvm.verity_data_blocks=77",
            "cvm.verity_hash_offset=319488",
            "cvm.disk=serial:AB",
            "rootfstype=squashfs",
            "cvm.on_failure=halt",
            "cvm.timeout=5",
            "cvm.log=debug",
            "systemd.import_credentials=on",
            "cvm.measure=required",
        ];
        assert!(parse(&format!("{KEXEC} {}", kept.join(" "))).is_ok());
        for word in EVERY_KEY.iter().filter(|word| !kept.contains(word)) {
            let key = word.split('=').next().unwrap();
            assert_eq!(
                refusal(&format!("{KEXEC} {word}")),
                format!(
                    "{key}= says nothing where cvm.handoff=kexec leaves that to the next kernel"
                )
            );
        }
    }
}
