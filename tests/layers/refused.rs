//! Images that are refused, and by what.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::EntryType;

use crate::archive::{FILE, Item, device, file, folder, link, mark, symlink, tar};
use crate::image::{self, Blob, GZIP, Layout, PLAIN, ZSTD, layout, packed, saved};
use crate::layers;
use crate::script::{assert_empty, refuses, run, scratch, script, tool};

/// `scripts/layers` refuses the image, says why behind its name, and leaves nothing.
pub(crate) fn refused(dir: &Path, image: &Path, why: &str) {
    let out = dir.join("out");
    refuses(&mut layers(image, &out), 1, &format!("cannot use {}: {why}", image.display()));
    assert_empty(&out);
}

/// An image of layers with these entries.
pub(crate) fn image_of(dir: &Path, archives: &[&[Item]]) -> PathBuf {
    let path = dir.join("image");
    let _ = fs::remove_dir_all(&path);
    let blobs: Vec<_> = archives.iter().map(|items| packed(dir, PLAIN, &tar(items))).collect();
    layout(path, &blobs).path().to_owned()
}

#[test]
fn what_would_leave_the_layer_is_refused_by_name() {
    let dir = scratch("paths");
    let out = [folder("d", 0o755), symlink("d/out", "../.."), symlink("d/etc", "/etc")];
    let rows: &[(&[&[Item]], &str)] = &[
        (
            &[&[file("../x", b"")]],
            r#"use layer 0: cannot take "../x": "../x" leads out of the layer"#,
        ),
        (&[&[file("a/../../x", b"")]], r#"take "a/../../x": "a/../../x" leads out of the layer"#),
        (&[&[file("/etc/passwd", b"")]], r#""/etc/passwd" is an absolute path"#),
        (&[&[link("a", "/etc/passwd")]], r#"take "a": "/etc/passwd" is an absolute path"#),
        (&[&[link("a", "../etc/passwd")]], r#"take "a": "../etc/passwd" leads out of the layer"#),
        (&[&[link("a", "etc/passwd")]], r#"take "a": it links to "etc/passwd", which is no file"#),
        (&[&[folder("d", 0o755), link("a", "d")]], r#"it links to "d", which is no file"#),
        (
            &[&[folder("d", 0o755), symlink("d/up", "../.."), file("d/up/x", b"")]],
            r#"take "d/up/x": a link on its way leads out of the image"#,
        ),
        // By a link that a layer below has, and by a mark.
        (
            &[&out, &[file("d/out/x", b"")]],
            r#"use layer 1: cannot take "d/out/x": a link on its way"#,
        ),
        (&[&out, &[mark("d/out/.wh.x")]], r#"take "d/out/.wh.x": a link on its way leads out"#),
        (&[&out, &[link("x", "d/out/y")]], r#"take "x": a link on its way leads out"#),
        (&[&[symlink("a", "b"), symlink("b", "a"), file("a/x", b"")]], "too many links on its way"),
        (&[&[file("a", b""), file("a/x", b"")]], r#"take "a/x": "a" on its way is no folder"#),
        (&[&[mark(".wh...")]], r#"take ".wh...": it is the mark of nothing that could be removed"#),
        (&[&[mark(".wh.")]], r#"take ".wh.": it is the mark of nothing"#),
        (&[&[mark(".wh.a/x")]], r#"take ".wh.a/x": it is the mark of nothing"#),
        (&[&[mark(".wh..wh.plnk/1")]], "it is the mark of nothing"),
        (&[&[symlink("./", "etc")]], "it is in the place of the root, and no folder"),
    ];
    for (archives, why) in rows {
        let out = dir.join("out");
        refuses(&mut layers(&image_of(&dir, archives), &out), 1, why);
        assert_empty(&out);
    }
}

#[test]
fn what_cannot_be_kept_as_it_is_is_refused_by_name() {
    let dir = scratch("kept");
    let acl: &[(&str, &[u8])] = &[("system.posix_acl_access", b"\x02\0\0\0")];
    let overlay: &[(&str, &[u8])] = &[("trusted.overlay.redirect", b"/etc")];
    let long = vec![b'x'; 1001];
    let too_long: &[(&str, &[u8])] = &[("user.x", &long)];
    let rows = [
        (
            Item { kind: EntryType::new(b'S'), ..file("name", b"") },
            "its type 'S' is not known here",
        ),
        (device("name", EntryType::Char, (0, 0)), "the character device 0:0 is overlayfs' mark"),
        (Item { xattrs: acl, ..file("name", b"") }, "is none of user, trusted and security"),
        (Item { xattrs: overlay, ..file("name", b"") }, "is overlayfs' own"),
        (Item { xattrs: too_long, ..file("name", b"") }, "is too long"),
        (Item { time: 1 << 34, ..file("name", b"") }, "before 1970 or after 2446"),
        (folder("lost+found", 0o700), "mkfs.erofs leaves out what is called lost+found"),
        (Item { name: &[b'n'; 256], ..FILE }, "too long: a name may have 255 bytes"),
    ];
    for (item, why) in rows {
        let image = image_of(&dir, &[&[item]]);
        let out = dir.join("out");
        let mut command = layers(&image, &out);
        refuses(&mut command, 1, why);
        refuses(&mut command, 1, "cannot use layer 0: ");
        assert_empty(&out);
    }
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_refused() {
    let dir = scratch("digests");
    let out = dir.join("out");
    let layout = layout(dir.join("image"), &[packed(&dir, GZIP, &tar(&[file("a", b"1")]))]);
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let digest = |descriptor: &Value| descriptor["digest"].as_str().unwrap().to_owned();
    let manifest = digest(&read(&layout.path().join("index.json"))["manifests"][0]);
    let in_manifest = read(&layout.blob_path(&manifest));
    let (config, layer) = (digest(&in_manifest["config"]), digest(&in_manifest["layers"][0]));
    for (digest, in_what) in [(manifest, ""), (config, ""), (layer, "cannot use layer 0: ")] {
        let path = layout.blob_path(&digest);
        let name = format!("blobs/sha256/{}", &digest["sha256:".len()..]);
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        let is = format!("{in_what}{name:?} is {}, not {digest}", image::digest(&changed));
        let (cut, found) = (&bytes[..bytes.len() - 1], bytes.len() - 1);
        let has = format!("{in_what}{name:?} has {found} bytes, not {}", bytes.len());
        for (other, why) in [(&*changed, is), (cut, has)] {
            fs::write(&path, other).unwrap();
            refused(&dir, layout.path(), &why);
        }
        fs::remove_file(&path).unwrap();
        refused(
            &dir,
            layout.path(),
            &format!("{in_what}cannot read {name:?}: it is not in the image"),
        );
        fs::write(&path, bytes).unwrap();
    }
    // As it was, it is taken.
    run(&mut layers(layout.path(), &out));
}

#[test]
fn a_layer_that_is_not_the_one_of_the_configuration_is_refused() {
    let dir = scratch("unpacked");
    for (media_type, form) in [(GZIP, "gzip"), (ZSTD, "zstd")] {
        let mut blob = packed(&dir, media_type, &tar(&[file("a", b"1")]));
        blob.diff_id = image::digest(b"another");
        let image = layout(dir.join(form), &[blob]);
        refused(&dir, image.path(), "cannot use layer 0: unpacked it is sha256:");
    }
    let mut blob = packed(&dir, PLAIN, &tar(&[file("a", b"1")]));
    blob.diff_id = image::digest(b"another");
    // There no other digest is given.
    let image = saved(&dir, &[blob]);
    let output = layers(&image, &dir.join("out")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/layer.tar\" is sha256:"), "{said}");

    for (form, bytes, why) in [
        (
            "cut",
            &image::packed(&dir, GZIP, &tar(&[file("a", &crate::noise(9000))])).bytes[..5000],
            "cannot read it: ",
        ),
        ("text", b"not compressed at all".as_slice(), "cannot read it: invalid gzip header"),
    ] {
        let blob = Blob { media_type: GZIP, bytes: bytes.to_vec(), diff_id: image::digest(b"x") };
        let image = layout(dir.join(form), &[blob]);
        refused(&dir, image.path(), &format!("cannot use layer 0: {why}"));
    }
    let blob = Blob {
        media_type: ZSTD,
        bytes: b"\x28\xb5\x2f\xfdrubbish".to_vec(),
        diff_id: image::digest(b"x"),
    };
    refused(
        &dir,
        layout(dir.join("rubbish"), &[blob]).path(),
        "cannot use layer 0: cannot read it: ",
    );
    let blob = packed(&dir, PLAIN, &[1; 2048]);
    refused(
        &dir,
        layout(dir.join("no tar"), &[blob]).path(),
        "cannot use layer 0: it is no tar, or damaged: the sum of a header is wrong",
    );
}

#[test]
fn what_is_no_image_or_none_that_is_known_is_refused_by_its_kind() {
    let dir = scratch("kinds");
    let blob =
        |media_type| Blob { media_type, bytes: vec![0; 1024], diff_id: image::digest(&[0; 1024]) };
    for kind in [
        "application/vnd.oci.image.layer.v1.tar+bzip2",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let image = layout(dir.join("image"), &[blob(kind)]);
        refused(
            &dir,
            image.path(),
            &format!("cannot use {} as layer: it is of the kind {kind:?}", blob(PLAIN).diff_id),
        );
    }

    let artefact = Layout::new(dir.join("artefact"));
    let config = artefact.blob("application/vnd.oci.empty.v1+json", b"{}");
    artefact.begin(&[artefact.manifest(&config, std::slice::from_ref(&config))]);
    refused(
        &dir,
        artefact.path(),
        "cannot use sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a as configuration",
    );

    let layout_of = |name: &str, manifests: &[Value]| {
        let layout = Layout::new(dir.join(name));
        layout.begin(manifests);
        layout.path().to_owned()
    };
    let descriptor = json!({ "mediaType": "text/plain", "digest": image::digest(b""), "size": 0 });
    refused(
        &dir,
        &layout_of("text", &[descriptor]),
        &format!("cannot use {} as manifest", image::digest(b"")),
    );
    let sha512 = json!({ "mediaType": "x", "digest": "sha512:00", "size": 0 });
    refused(
        &dir,
        &layout_of("sha512", &[sha512]),
        r#"cannot read "index.json": "sha512:00" is no sha256 digest"#,
    );
    refused(&dir, &layout_of("empty", &[]), "it holds no image for linux/amd64, but none at all");

    let nested = Layout::new(dir.join("nested"));
    let mut index = nested.index(&[]);
    for _ in 0..5 {
        index = nested.index(&[index]);
    }
    nested.begin(&[index]);
    refused(&dir, nested.path(), "it has too many indexes in indexes");

    fs::create_dir(dir.join("folder")).unwrap();
    refused(&dir, &dir.join("folder"), "it holds no image: there is neither index.json");
    fs::write(dir.join("file"), "x".repeat(2000)).unwrap();
    refused(&dir, &dir.join("file"), "it is neither a folder nor a tar that holds an image");
    run(tool("gzip").args(["-k"]).arg(dir.join("file")));
    refused(&dir, &dir.join("file.gz"), "it is compressed; unpack it with 'gzip -d' first");
    let nowhere = dir.join("nowhere");
    refuses(&mut layers(&nowhere, &dir.join("out")), 1, "nowhere: no such file; 'docker save");
}

#[test]
fn an_image_for_another_platform_and_one_of_several_are_told_by_what_there_is() {
    let dir = scratch("several");
    let layout = Layout::new(dir.join("image"));
    let blob = |text: &[u8]| packed(&dir, GZIP, &tar(&[file("which", text)]));
    let mut first = layout.image("amd64", &[blob(b"1")]);
    let mut second = layout.image("amd64", &[blob(b"2")]);
    let arm64 = layout.image("arm64", &[blob(b"1")]);
    first["annotations"] = json!({ "org.opencontainers.image.ref.name": "one" });
    second["annotations"] = json!({ "org.opencontainers.image.ref.name": "two\n" });
    layout.begin(&[first.clone(), second, arm64]);
    let out = dir.join("out");
    refused(&dir, layout.path(), "it holds 2 images for linux/amd64: ");
    let output = layers(layout.path(), &out).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(r#""one""#) && said.contains(r#""two\n""#), "{said}");
    refuses(
        layers(layout.path(), &out).args(["--platform", "linux/riscv64"]),
        1,
        "it holds no image for linux/riscv64, but linux/amd64, linux/arm64; --platform says which to take",
    );
    assert_empty(&out);
    // By two names it is one.
    let mut again = first.clone();
    again["annotations"] = json!({ "org.opencontainers.image.ref.name": "again" });
    layout.begin(&[first, again]);
    run(&mut layers(layout.path(), &out));
}

#[test]
fn layers_that_a_command_line_has_no_room_for_are_counted() {
    let dir = scratch("many");
    let first = packed(&dir, PLAIN, &tar(&[folder("./", 0o755), file("a", b"a")]));
    let many: Vec<_> = (0..22)
        .map(|_| Blob {
            media_type: PLAIN,
            bytes: first.bytes.clone(),
            diff_id: first.diff_id.clone(),
        })
        .collect();
    let image = layout(dir.join("image"), &many);
    refused(&dir, image.path(), "the words of 22 layers have ");
    let out = dir.join("out");
    refuses(&mut layers(image.path(), &out), 1, " layers fit; --flatten makes one of them");
    run(layers(image.path(), &out).arg("--flatten"));
    assert_eq!(crate::disks(&out).len(), 1);
}

#[test]
fn a_wrong_command_line_is_told_from_a_wrong_image() {
    refuses(script("layers").args(["-o", "x"]), 2, "--oci is missing");
    refuses(script("layers").args(["--oci", "x"]), 2, "-o is missing");
    for wrong in ["windows/amd64", "linux", "linux/arm/v7/x", "linux/a b"] {
        refuses(
            script("layers").args(["--platform", wrong]),
            2,
            "is not a platform such as linux/amd64",
        );
    }
    refuses(script("layers").args(["--max-size", "much"]), 2, "--max-size much is not a size");
}
