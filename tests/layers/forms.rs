//! The forms in which tools store an image: of all of them the same disks are made.

use std::fs;
use std::path::Path;

use crate::archive::{file, folder, tar};
use crate::image::{Blob, DOCKER_GZIP, GZIP, Layout, PLAIN, ZSTD, archived, layout, packed, saved};
use crate::script::{run, scratch};
use crate::{bytes_in, layers};

/// Two layers, of which the first is there twice.
fn blobs(dir: &Path, media_type: &'static str) -> Vec<Blob> {
    let first = tar(&[folder("./", 0o755), file("first", &vec![7; 100_000])]);
    let second = tar(&[file("second", b"2")]);
    [&first, &second, &first].map(|archive| packed(dir, media_type, archive)).into()
}

/// The disks of an image, and the words for them.
fn made(dir: &Path, image: &Path) -> Vec<(String, Vec<u8>)> {
    let out = dir.join("out");
    let _ = fs::remove_dir_all(&out);
    run(&mut layers(image, &out));
    // Digests of blobs and manifest are those of a form.
    bytes_in(&out).into_iter().filter(|(name, _)| name != "layers.json").collect()
}

#[test]
fn a_layout_and_an_archive_of_one_give_the_same_disks() {
    let dir = scratch("forms");
    let gzip = layout(dir.join("gzip"), &blobs(&dir, GZIP));
    let expected = made(&dir, gzip.path());
    assert_eq!(expected.len(), 5, "three disks and two lines of words");
    for (form, media_type) in [("plain", PLAIN), ("zstd", ZSTD), ("docker", DOCKER_GZIP)] {
        let layout = layout(dir.join(form), &blobs(&dir, media_type));
        assert!(made(&dir, layout.path()) == expected, "{form}");
    }
    // skopeo's oci-archive has names without a dot, podman's as well; docker save, too.
    for members in [&["."][..], &["oci-layout", "index.json", "blobs"]] {
        let archive = archived(gzip.path(), members);
        assert!(made(&dir, &archive) == expected, "{members:?}");
    }
}

#[test]
fn docker_save_gives_the_same_disks_in_its_old_form_and_in_its_new() {
    let dir = scratch("docker");
    let expected = made(&dir, layout(dir.join("oci"), &blobs(&dir, GZIP)).path());

    let old = saved(&dir, &blobs(&dir, PLAIN));
    assert!(made(&dir, &old) == expected, "a folder");
    let names: Vec<_> = bytes_in_names(&old);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert!(made(&dir, &archived(&old, &names)) == expected, "an archive");

    // Since Docker 25: both at once, the layers not compressed.
    let new = Layout::new(dir.join("new"));
    let layers = blobs(&dir, PLAIN);
    let manifest = new.image("amd64", &layers);
    let list = new.index(&[manifest]);
    new.begin(&[list]);
    fs::write(new.path().join("manifest.json"), "[]").unwrap();
    let archive = archived(new.path(), &["blobs", "index.json", "manifest.json", "oci-layout"]);
    assert!(made(&dir, &archive) == expected, "the new form");
}

fn bytes_in_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn zstd_of_several_frames_is_unpacked() {
    let dir = scratch("frames");
    let archive = tar(&[folder("./", 0o755), file("noise", &crate::noise(300_000))]);
    let expected = made(&dir, layout(dir.join("one"), &[packed(&dir, ZSTD, &archive)]).path());
    let (first, second) = archive.split_at(200_000);
    let mut blob = packed(&dir, ZSTD, first);
    // A frame that holds no data, as podman's zstd:chunked has one for its table of contents.
    blob.bytes.extend([0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    blob.bytes.extend(packed(&dir, ZSTD, second).bytes);
    blob.diff_id = crate::image::digest(&archive);
    assert!(made(&dir, layout(dir.join("two"), &[blob]).path()) == expected);
}

#[test]
fn the_image_for_the_platform_is_taken() {
    let dir = scratch("platforms");
    let layout = Layout::new(dir.join("image"));
    let blob = |text: &[u8]| packed(&dir, GZIP, &tar(&[folder("./", 0o755), file("which", text)]));
    let mut amd64 = layout.image("amd64", &[blob(b"amd64")]);
    let mut arm64 = layout.image("arm64", &[blob(b"arm64")]);
    amd64["platform"] = serde_json::json!({ "os": "linux", "architecture": "amd64" });
    arm64["platform"] =
        serde_json::json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
    // What buildkit says of how an image was made, which is none.
    let mut attestation = layout.manifest(&layout.blob("application/json", b"{}"), &[]);
    attestation["platform"] = serde_json::json!({ "os": "unknown", "architecture": "unknown" });
    layout.begin(&[layout.index(&[attestation, arm64, amd64])]);
    for (flags, which) in [
        (&[][..], "amd64"),
        (&["--platform", "linux/amd64"], "amd64"),
        (&["--platform", "linux/arm64"], "arm64"),
        (&["--platform", "linux/arm64/v8"], "arm64"),
    ] {
        let out = dir.join("out");
        run(layers(layout.path(), &out).args(flags));
        let found = crate::contents(&out.join("layer0.img"), &dir);
        assert_eq!(found["/which"], which.as_bytes(), "{flags:?}");
        let platform = crate::described(&out)["platform"].as_str().unwrap().to_owned();
        assert!(platform.starts_with(&format!("linux/{which}")), "{platform}");
    }
}
