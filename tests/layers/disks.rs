//! The disks: that they can be proven, that they are the same again, and what is left of others.

use std::fs;
use std::process::Command;

use cvm_init::format::hex;
use cvm_init::format::verity::{Params, SUPERBLOCK_SIZE};
use serde_json::Value;

use crate::archive::{folder, tar};
use crate::image::{self, GZIP, layout, packed};
use crate::script::{run, scratch, tool};
use crate::{blobs, bytes_in, described, disks, erofs, layers};

const BLOCK: usize = 4096;

#[test]
fn every_disk_is_proven_by_the_words_that_are_written_for_it() {
    let dir = scratch("proven");
    let out = dir.join("out");
    let blobs = blobs(&dir, GZIP);
    let image = layout(dir.join("image"), &blobs);
    run(&mut layers(image.path(), &out));
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let described = described(&out);
    let index: Value =
        serde_json::from_slice(&fs::read(image.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(described["version"], 1);
    assert_eq!(described["image_digest"], index["manifests"][0]["digest"]);
    assert_eq!(described["platform"], "linux/amd64");
    assert_eq!(described["cmd"], serde_json::json!(["/sbin/init"]));
    assert_eq!(described["entrypoint"], serde_json::json!([]));

    let mut words = Vec::new();
    let mut chain = String::new();
    for (number, (disk, blob)) in disks(&out).iter().zip(&blobs).enumerate() {
        let about = &described["layers"][number];
        let text = |key: &str| about[key].as_str().unwrap();
        let hash = text("root_hash");
        let blocks = usize::try_from(about["data_blocks"].as_u64().unwrap()).unwrap();
        assert_eq!(text("digest"), image::digest(&blob.bytes));
        assert_eq!(text("diff_id"), blob.diff_id);
        assert_eq!(text("file"), format!("layer{number}.img"));
        assert_eq!(text("serial"), format!("cocoon-layer{number}"));
        // ChainID of the image specification.
        chain = if chain.is_empty() {
            blob.diff_id.clone()
        } else {
            image::digest(format!("{chain} {}", blob.diff_id).as_bytes())
        };
        let salt = chain.strip_prefix("sha256:").unwrap();
        assert_eq!(text("salt"), salt);
        assert_eq!(hex::encode(&erofs::uuid(disk)), salt[..32]);

        assert!(blocks >= 2);
        let offset = format!("--hash-offset={}", blocks * BLOCK);
        run(tool("veritysetup").arg("verify").args([disk, disk]).args([hash, &offset]));
        // cvm-init's own proof.
        let bytes = fs::read(disk).unwrap();
        let superblock: [u8; SUPERBLOCK_SIZE] =
            bytes[blocks * BLOCK..][..SUPERBLOCK_SIZE].try_into().unwrap();
        let params = Params::from_superblock(&superblock).unwrap();
        assert_eq!(params.data_blocks, blocks as u64);
        assert_eq!(hex::encode(&params.salt), salt);
        words.push(format!("{hash}@{blocks}"));
    }
    words.reverse();
    assert_eq!(read("cmdline"), format!("cvm.layers={}\n", words.join(",")));
    assert_eq!(
        read("cmdline.stock"),
        "boot=cocoon-overlay cocoon.layers=cocoon-layer2,cocoon-layer1,cocoon-layer0 cocoon.cow=cocoon-cow\n"
    );
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let made =
        ["cmdline", "cmdline.stock", "layer0.img", "layer1.img", "layer2.img", "layers.json"];
    assert_eq!(names, made);
}

/// The same command as somebody else: without root where this is root's test, else as root of a user
/// namespace. In a namespace without a user of its own, nothing that root may is allowed.
fn as_another(command: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.arg("--user");
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    unshare.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        unshare.env(name, value.unwrap());
    }
    unshare
}

#[test]
fn the_same_image_gives_the_same_bytes_to_root_and_to_anybody() {
    let dir = scratch("same");
    let image = layout(dir.join("image"), &blobs(&dir, GZIP));
    for flags in [&[][..], &["--flatten"]] {
        let [here, there] = [dir.join("here"), dir.join("there")];
        run(layers(image.path(), &here).args(flags).env("SOURCE_DATE_EPOCH", "1"));
        // Long enough for a time of now to be another.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let mut other = layers(image.path(), &there);
        other.args(flags).env("TZ", "Pacific/Chatham").env("LC_ALL", "C.UTF-8");
        let mut other = as_another(&other);
        run(&mut other);
        let (here, there) = (bytes_in(&here), bytes_in(&there));
        assert_eq!(here.keys().collect::<Vec<_>>(), there.keys().collect::<Vec<_>>());
        for (name, bytes) in &here {
            assert!(*bytes == there[name], "{name} differs");
        }
    }
}

#[test]
fn a_layer_of_almost_nothing_has_two_blocks() {
    let dir = scratch("small");
    let out = dir.join("out");
    let archives = [tar(&[folder("./", 0o755)]), tar(&[])];
    let blobs: Vec<_> = archives.iter().map(|archive| packed(&dir, GZIP, archive)).collect();
    run(&mut layers(layout(dir.join("image"), &blobs).path(), &out));
    let described = described(&out);
    for (number, disk) in disks(&out).iter().enumerate() {
        assert_eq!(described["layers"][number]["data_blocks"], 2);
        let hash = described["layers"][number]["root_hash"].as_str().unwrap();
        run(tool("veritysetup")
            .arg("verify")
            .args([disk, disk])
            .args([hash, "--hash-offset=8192"]));
        assert_eq!(erofs::listing(disk).len(), 1);
    }
}

#[test]
fn layers_of_an_image_made_before_do_not_stay_beside_the_new_ones() {
    let dir = scratch("before");
    let out = dir.join("out");
    let blobs = blobs(&dir, GZIP);
    run(&mut layers(layout(dir.join("three"), &blobs).path(), &out));
    assert_eq!(disks(&out).len(), 3);
    run(&mut layers(layout(dir.join("one"), &blobs[..1]).path(), &out));
    assert_eq!(disks(&out).len(), 1);
    assert_eq!(described(&out)["layers"].as_array().unwrap().len(), 1);
}
