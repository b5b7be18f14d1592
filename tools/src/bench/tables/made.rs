//! Where and with what the figures were made.

use super::text::{general, paragraph};
use crate::bench::figures::Figures;

pub(super) fn made(figures: &Figures) -> String {
    let made = &figures.made;
    paragraph(&format!(
        "Made by `{}` on {}, on {} cores ({}, load {} before). QEMU {} emulates the guest (`{}`), so \
         ratios tell more than seconds. Kernel {}, cryptsetup {}, e2fsprogs {}, {}, dracut {} with \
         systemd {}. Medians of {}; the shell way is provisioned once a size. *shell* is a bash script \
         with veritysetup, cryptsetup luksFormat, mkfs.ext4 and switch_root; *tuned* the same without \
         wipe, journals and a slow key; *dracut* a distribution's initramfs that opens the same root by \
         `roothash=`, makes no volume, and does not tell the loading of modules apart.",
        made.command,
        made.date,
        made.cores,
        made.cpu,
        general(made.load),
        made.qemu,
        made.guest,
        made.kernel,
        made.cryptsetup,
        made.e2fsprogs,
        made.fio,
        made.dracut,
        made.systemd,
        made.runs,
    ))
}
