//! Images as container tools store them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cvm_init::format::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::script::{run, tool};

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layer as it lies in an image.
pub(crate) struct Blob {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Digest of the archive in it.
    pub(crate) diff_id: String,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(&Sha256::digest(bytes)))
}

/// Compressed as a media type says, by the tool for it.
pub(crate) fn packed(dir: &Path, media_type: &'static str, archive: &[u8]) -> Blob {
    let compressor = match media_type {
        GZIP | DOCKER_GZIP => Some(("gzip", "gz")),
        ZSTD => Some(("zstd", "zst")),
        _ => None,
    };
    let bytes = compressor.map_or_else(
        || archive.to_vec(),
        |(program, ending)| {
            let file = dir.join("archive");
            fs::write(&file, archive).unwrap();
            run(tool(program).args(["-q", "-k", "-f"]).arg(&file));
            fs::read(file.with_extension(ending)).unwrap()
        },
    );
    Blob { media_type, bytes, diff_id: digest(archive) }
}

/// A folder in the OCI image layout.
pub(crate) struct Layout(PathBuf);

impl Layout {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
    }

    /// Adds a blob; what the JSON has of it.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn json(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Adds an image for `linux` and an architecture.
    pub(crate) fn image(&self, architecture: &str, layers: &[Blob]) -> Value {
        let blobs: Vec<_> =
            layers.iter().map(|layer| self.blob(layer.media_type, &layer.bytes)).collect();
        let config = self.json(CONFIG, &config(architecture, layers));
        self.manifest(&config, &blobs)
    }

    /// Adds a manifest of any parts.
    pub(crate) fn manifest(&self, config: &Value, layers: &[Value]) -> Value {
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.json(MANIFEST, &manifest)
    }

    /// Adds an index that is a blob itself.
    pub(crate) fn index(&self, manifests: &[Value]) -> Value {
        self.json(INDEX, &json!({ "schemaVersion": 2, "manifests": manifests }))
    }

    /// Writes what the layout begins with.
    pub(crate) fn begin(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }
}

pub(crate) fn config(architecture: &str, layers: &[Blob]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
    json!({
        "created": "2023-11-14T22:13:20Z",
        "os": "linux",
        "architecture": architecture,
        "config": { "Cmd": ["/sbin/init"], "Entrypoint": null, "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [{ "created_by": "a test", "empty_layer": true }],
    })
}

/// A layout of one image for this machine.
pub(crate) fn layout(path: PathBuf, layers: &[Blob]) -> Layout {
    let layout = Layout::new(path);
    let manifest = layout.image("amd64", layers);
    layout.begin(&[manifest]);
    layout
}

/// What `docker save` wrote before Docker 25, in a folder: layers in folders of their own, one that is
/// the same as another a link to it.
pub(crate) fn saved(dir: &Path, layers: &[Blob]) -> PathBuf {
    let dir = dir.join("saved");
    let config = config("amd64", layers).to_string();
    let config_name = format!("{}.json", &digest(config.as_bytes())["sha256:".len()..]);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(&config_name), config).unwrap();
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{number:064x}/layer.tar");
        let path = dir.join(&name);
        fs::create_dir(path.parent().unwrap()).unwrap();
        match layers[..number].iter().position(|other| other.diff_id == layer.diff_id) {
            Some(other) => symlink(format!("../{other:064x}/layer.tar"), &path).unwrap(),
            None => fs::write(&path, &layer.bytes).unwrap(),
        }
        fs::write(path.with_file_name("VERSION"), "1.0").unwrap();
        names.push(name);
    }
    let manifest = json!([{ "Config": config_name, "RepoTags": ["test:latest"], "Layers": names }]);
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    dir
}

/// A folder as an archive, with a dot in front of each name or without.
pub(crate) fn archived(folder: &Path, members: &[&str]) -> PathBuf {
    let archive = folder.with_extension("tar");
    run(tool("bsdtar").arg("-C").arg(folder).arg("-cf").arg(&archive).args(members));
    archive
}
