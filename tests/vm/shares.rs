//! 9P shares: what of the verified root the host may cover with them, and how they are mounted.

use crate::good::{TMP_LINE, check_fstab, mounts};
use crate::kit::disk::Disk;
use crate::kit::guest::Guest;
use crate::kit::kernel::Kernel;
use crate::kit::root::{Node, Root};
use crate::kit::tool::Scratch;
use crate::kit::vm::Vm;
use crate::refused::refusal_that_writes_nothing;
use serde_json::json;
use std::fs;

const OPTIONS: &str = "trans=virtio,version=9p2000.L,cache=mmap,nofail";
const HARDENING: &str = "nosuid,nodev,noexec,nosymfollow";

/// A machine whose host offers three shares, each with a file that says which.
fn offering(root: &Root, words: &str) -> (Scratch, Guest) {
    offering_to(Kernel::RUNNING, root, words)
}

/// The same of another kernel.
fn offering_to(kernel: Kernel, root: &Root, words: &str) -> (Scratch, Guest) {
    let disk = Disk::builder().root(root).build();
    let host = Scratch::new("shares");
    let mut vm = Vm::of(&disk).kernel(kernel).append(words);
    for (tag, folder) in [("certs_share", "certs"), ("other_share", "other"), ("env_share", "env")]
    {
        fs::create_dir(host.join(folder)).unwrap();
        fs::write(host.join(folder).join("name"), folder).unwrap();
        vm = vm.share(tag, &host.join(folder));
    }
    (host, vm.boot())
}

fn root_with(nodes: impl IntoIterator<Item = Node>) -> Root {
    nodes.into_iter().fold(Root::builder(), crate::kit::root::Builder::with).build()
}

fn shares(guest: &mut Guest) -> Vec<String> {
    mounts(guest).into_iter().filter(|mount| mount.contains(" 9p ")).collect()
}

#[test]
fn what_is_on_offer_is_mounted_with_the_options_of_the_fstab() {
    mounts_what_is_on_offer(Kernel::RUNNING);
}

pub(crate) fn mounts_what_is_on_offer(kernel: Kernel) {
    // As an editor of another system writes it, with words that mount(8) knows.
    let fstab = "env_share\t/etc/cocos/  9p  trans=virtio,rw,sync,suid,exec,nofail,ro\r\n";
    let root = Root::builder_of(kernel.arch).with(Node::file("etc/fstab", fstab)).build();
    let (_host, mut guest) = offering_to(kernel, &root, "");
    assert_eq!(guest.read("/etc/certs/name"), "certs");
    assert_eq!(guest.read("/etc/cocos/name"), "env");
    let flags = "nosuid,nodev,noexec,relatime,nosymfollow";
    assert_eq!(
        shares(&mut guest),
        [
            format!("/etc/certs 9p certs_share / rw,{flags}"),
            format!("/etc/cocos 9p env_share / ro,{flags}"),
        ]
    );
    assert_eq!(guest.report()["shares"], json!(["certs_share", "env_share"]));
    let kept = "trans=virtio,rw,sync,suid,exec,nofail,ro";
    check_fstab(
        &mut guest,
        &[
            &format!("certs_share /etc/certs 9p {OPTIONS},{HARDENING} 0 0"),
            &format!("env_share /etc/cocos 9p {kept},{HARDENING} 0 0"),
        ],
    );
    guest.power_off();
}

#[test]
fn verified_files_are_not_covered_unless_the_fstab_says_so() {
    let root = root_with([
        Node::file("etc/certs/ca.pem", "verified"),
        Node::file("etc/cocos/environment", "verified"),
        Node::file("etc/fstab", "env_share /etc/cocos 9p trans=virtio,noauto 0 0\n"),
    ]);
    let (_host, mut guest) = offering(&root, "");
    for file in ["/etc/certs/ca.pem", "/etc/cocos/environment"] {
        assert_eq!(guest.read(file), "verified");
    }
    assert_eq!(shares(&mut guest), [""; 0]);
    assert_eq!(guest.report()["shares"], json!([]));
    check_fstab(&mut guest, &[]);
    let serial = guest.serial();
    for tag in ["certs_share", "env_share"] {
        assert!(
            serial.contains(&format!("cvm-init: the share {tag} is on offer, but ")),
            "{serial}"
        );
    }
    guest.power_off();
}

#[test]
fn verified_files_are_covered_where_the_fstab_says_so() {
    let root = root_with([
        Node::file("etc/certs/ca.pem", "verified"),
        Node::file("etc/fstab", "certs_share /etc/certs 9p trans=virtio 0 0\n"),
    ]);
    let (_host, mut guest) = offering(&root, "");
    assert_eq!(guest.read("/etc/certs/name"), "certs");
    guest.power_off();
}

#[test]
fn the_command_line_says_which_shares_there_are() {
    let (_host, mut guest) = offering(Root::standard(), "cvm.shares=env_share");
    assert_eq!(guest.report()["shares"], json!(["env_share"]));
    assert_eq!(shares(&mut guest).len(), 1);
    guest.power_off();
}

#[test]
fn the_command_line_can_say_that_there_are_no_shares() {
    let (_host, mut guest) = offering(Root::standard(), "cvm.shares=no");
    assert_eq!(shares(&mut guest), [""; 0]);
    check_fstab(&mut guest, &[TMP_LINE]);
    guest.power_off();
}

#[test]
fn an_option_that_nobody_knows_ends_the_boot() {
    let fstab = "certs_share /etc/certs 9p trans=virtio,read-only 0 0\n";
    let disk = Disk::builder().root(&root_with([Node::file("etc/fstab", fstab)])).build();
    assert_eq!(
        refusal_that_writes_nothing(Vm::of(&disk), &disk),
        "root: /etc/fstab: nobody knows the option \"read-only\" of the share certs_share"
    );
}

/// As in distributions that keep /etc elsewhere: what a link names lies in the new root.
#[test]
fn links_in_etc_lead_into_the_new_root() {
    let root = root_with([
        Node::directory("usr/etc"),
        Node::directory("usr/etc/certs"),
        Node::file("usr/etc/fstab", "UUID=7 /data xfs rw 0 2\nenv_share /etc/cocos 9p ro 0 0\n"),
        Node::link("etc/fstab", "/usr/etc/fstab"),
        Node::link("etc/certs", "../usr/etc/certs"),
    ]);
    let (_host, mut guest) = offering(&root, "");
    assert_eq!(guest.read("/etc/certs/name"), "certs");
    assert_eq!(guest.read("/usr/etc/certs/name"), "certs");
    assert!(guest.read("/usr/etc/fstab").starts_with("# Generated by cvm-init."));
    assert!(guest.serial().contains("cvm-init: /etc/fstab: not in force: UUID=7 /data xfs rw 0 2"));
    let targets: Vec<_> = shares(&mut guest)
        .iter()
        .map(|mount| mount.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(targets, ["/etc/cocos", "/usr/etc/certs"]);
    guest.power_off();
}
