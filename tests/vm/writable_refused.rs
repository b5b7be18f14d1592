//! Roots and command lines that no places can be made writable by.

use crate::kit::artefacts;
use crate::kit::disk::Disk;
use crate::kit::root::{Node, Root};
use crate::kit::vm::Vm;
use crate::refused::{PINNED, refusal_that_writes_nothing};
use crate::writable::{root_with, root_with_fstab};

/// What is said of a root, before anything is written.
#[track_caller]
fn said_of(root: &Root, words: &str) -> String {
    let disk = Disk::builder().root(root).build();
    let vm = Vm::of(&disk).initramfs(artefacts::initramfs_with_overlay());
    refusal_that_writes_nothing(vm.append(PINNED).append(words), &disk)
}

#[test]
fn an_overlay_of_what_is_not_there() {
    let reason = said_of(Root::standard(), "cvm.overlay=/etc,/opt");
    assert_eq!(reason, "root: the root has no directory /opt for cvm.overlay=");
}

#[test]
fn an_overlay_on_a_kernel_that_has_none() {
    let disk = Disk::builder().build();
    let vm = Vm::of(&disk).append(PINNED).append("cvm.overlay=/etc");
    assert_eq!(
        refusal_that_writes_nothing(vm, &disk),
        "root: the kernel has no overlay file system for cvm.overlay= (kernel option OVERLAY_FS; \
         scripts/initramfs --with overlay packs it where it is a module)"
    );
}

#[test]
fn a_place_that_leads_into_another() {
    let root = Root::builder().without("tmp").with(Node::link("tmp", "/var/tmp"));
    let root = root.with(Node::directory("var/tmp")).build();
    assert_eq!(said_of(&root, ""), "root: /tmp, which is /var/tmp, lies in /var of the root");
}

#[test]
fn an_fstab_that_leads_to_nothing() {
    let root = root_with([Node::link("etc/fstab", "static/fstab")]);
    assert_eq!(
        said_of(&root, ""),
        "root: cannot find /etc/fstab in the root: the link /etc/fstab leads to nothing"
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn an_overlay_of_a_file() {
    let reason = said_of(Root::standard(), "cvm.overlay=/etc/hostname");
    assert_eq!(reason, "root: the root has no directory /etc/hostname for cvm.overlay=");
}

#[test]
#[ignore = "scripts/test --all"]
fn an_overlay_in_another_by_a_link() {
    let root = root_with([Node::link("opt", "usr/lib")]);
    let reason = said_of(&root, "cvm.overlay=/usr,/opt");
    assert_eq!(reason, "root: /opt, which is /usr/lib, lies in /usr of the root");
}

#[test]
#[ignore = "scripts/test --all"]
fn an_overlay_twice() {
    assert_eq!(
        said_of(Root::standard(), "cvm.overlay=/etc,/etc"),
        "config: cvm.overlay=/etc,/etc: /etc is named twice"
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn a_place_that_is_a_link_to_a_file() {
    let root = root_with([Node::link("tmp", "etc/hostname")]);
    assert_eq!(said_of(&root, ""), "root: the root has no directory /tmp to mount on");
}

#[test]
#[ignore = "scripts/test --all"]
fn an_fstab_that_is_a_directory() {
    let root = root_with([Node::directory("etc/fstab")]);
    let reason = said_of(&root, "");
    assert_eq!(reason, "root: cannot read /etc/fstab: it is not a regular file");
}

#[test]
#[ignore = "scripts/test --all"]
fn an_fstab_with_a_size_that_is_none() {
    let root = root_with_fstab("tmpfs /var tmpfs size=much 0 0\n");
    assert_eq!(
        said_of(&root, ""),
        "root: /etc/fstab: nobody knows the option \"size=much\" of the tmpfs on /var"
    );
}

/// In the guest it would be a directory of the host's, by way of a descriptor of PID 1.
#[test]
#[ignore = "scripts/test --all"]
fn a_share_that_leads_out_of_the_root() {
    let root = Root::builder().without("etc/certs").with(Node::link("etc/certs", "/proc/1/root"));
    assert_eq!(
        said_of(&root.build(), ""),
        "root: cannot find /etc/certs in the root: /proc/1/root lies below /proc, where another \
         file system is mounted"
    );
}

#[test]
#[ignore = "scripts/test --all"]
fn scripts_that_are_a_file() {
    let root = Root::builder().without_all_of("cocos_init").with(Node::file("cocos_init", ""));
    assert_eq!(said_of(&root.build(), ""), "root: the root's /cocos_init is no directory");
}
