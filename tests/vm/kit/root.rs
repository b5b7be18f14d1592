//! A small root file system with its hash tree, made by the tools that an image build uses and
//! without root: what the host cannot set on its own files, debugfs sets in the image.

use crate::kit::artefacts;
use crate::kit::kernel::Arch;
use crate::kit::tool::{Scratch, command, run};
use serde_json::json;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The size is a multiple of both block sizes in use and leaves room for the agent.
const SIZE: &str = "16M";
const SALT: &str = "5a17aa00112233445566778899aabbccddeeff00112233445566778899aabbcc";
/// Of file system and hash tree.
pub(crate) const UUID: &str = "c0c05000-0000-4000-8000-000000000001";
/// Any moment with a fraction: the copy of a file must carry both parts.
const MTIME: (u64, u32) = (1_700_000_000, 123_456_789);

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    /// What overlayfs takes for nothing: the name is gone from the layers below.
    Whiteout,
}

/// A file, directory or link of the root, as the guest is to see it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (u64, u32),
    pub(crate) xattrs: Vec<(&'static str, &'static str)>,
}

impl Node {
    fn new(path: &str, kind: Kind, mode: u32) -> Self {
        let path = path.to_owned();
        Self { path, kind, mode, owner: (0, 0), mtime: MTIME, xattrs: Vec::new() }
    }

    pub(crate) fn directory(path: &str) -> Self {
        Self::new(path, Kind::Directory, 0o755)
    }

    pub(crate) fn file(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Kind::File(content.into()), 0o644)
    }

    pub(crate) fn link(path: &str, target: &str) -> Self {
        Self::new(path, Kind::Symlink(target.to_owned()), 0o777)
    }

    pub(crate) fn whiteout(path: &str) -> Self {
        Self::new(path, Kind::Whiteout, 0o600)
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, user: u32, group: u32) -> Self {
        self.owner = (user, group);
        self
    }

    pub(crate) fn mtime(mut self, seconds: u64, nanoseconds: u32) -> Self {
        self.mtime = (seconds, nanoseconds);
        self
    }

    pub(crate) fn xattr(mut self, name: &'static str, value: &'static str) -> Self {
        self.xattrs.push((name, value));
        self
    }
}

/// What a root must bring along, and a `/cocos_init` with all that a copy can get wrong.
fn standard_nodes(arch: Arch) -> Vec<Node> {
    let agent = fs::read(artefacts::agent(arch)).expect("cargo built the agent");
    let large: Vec<_> = (0..40_000).map(|line| line.to_string()).collect();
    let mut nodes: Vec<_> = ["cocos", "dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"]
        .into_iter()
        .chain(["etc/certs", "etc/cocos", "usr/lib", "usr/lib/agent", "usr/sbin"])
        .map(Node::directory)
        .collect();
    nodes.extend([
        // As in a root with merged /usr: relative through a directory, absolute to the program.
        Node::link("sbin", "usr/sbin"),
        Node::link("usr/sbin/init", "/usr/lib/agent/init"),
        Node::file("usr/lib/agent/init", agent).mode(0o755),
        Node::file("etc/hostname", "verified\n"),
        Node::file("etc/fstab", "/dev/root / auto rw 0 1\ntmpfs /tmp tmpfs mode=1777 0 0\n"),
        Node::directory("cocos_init").mode(0o750).owner(0, 1000).mtime(1_600_000_000, 1),
        Node::file("cocos_init/agent.sh", "#!/bin/sh\n").mode(0o755),
        Node::file("cocos_init/secret", "s3cret").mode(0o400).owner(1000, 1001),
        Node::file("cocos_init/setuid", "").mode(0o4755).owner(70_000, 70_001),
        Node::file("cocos_init/large", large.join("\n")).mtime(1, 999_999_999),
        Node::file("cocos_init/tagged", "x").xattr("user.cvm", "kept").xattr("trusted.cvm", "too"),
        Node::file("cocos_init/two words, \u{e4}", "name").mode(0o600),
        Node::link("cocos_init/relative", "agent.sh").owner(1000, 1000),
        Node::link("cocos_init/dangling", "/nowhere"),
        Node::directory("cocos_init/shared").mode(0o2775).owner(0, 1001).xattr("user.dir", "d"),
        Node::directory("cocos_init/shared/deep"),
        Node::directory("cocos_init/shared/deep/er").mode(0o1777),
        Node::file("cocos_init/shared/deep/er/file", "deep"),
    ]);
    nodes
}

/// A file system, and the options of what makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Ext4,
    Erofs(&'static [&'static str]),
    Squashfs(&'static [&'static str]),
}

impl Format {
    /// As the kernel has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Erofs(_) => "erofs",
            Self::Squashfs(_) => "squashfs",
        }
    }
}

/// A root file system and its hash tree.
pub(crate) struct Root {
    pub(crate) nodes: Vec<Node>,
    /// `rootfs.ext4` or another one, and `rootfs.verity`.
    pub(crate) data: PathBuf,
    pub(crate) tree: PathBuf,
    pub(crate) roothash: String,
    pub(crate) salt: String,
    pub(crate) data_blocks: u64,
    _scratch: Scratch,
}

pub(crate) struct Builder {
    nodes: Vec<Node>,
    format: Format,
    block_size: u32,
    size: &'static str,
    salt: String,
    options: Vec<&'static str>,
    patches: Vec<(u64, Vec<u8>)>,
}

impl Builder {
    /// Another one than ext4.
    pub(crate) fn format(mut self, format: Format) -> Self {
        self.format = format;
        if let Format::Squashfs(_) = format {
            // It has whole seconds.
            for node in &mut self.nodes {
                node.mtime.1 = 0;
            }
        }
        self
    }

    /// More options of mke2fs.
    pub(crate) fn options(mut self, options: &[&'static str]) -> Self {
        self.options.extend(options);
        self
    }

    /// Bytes that are put in place of others before the hash tree is made.
    pub(crate) fn patch(mut self, offset: u64, bytes: &[u8]) -> Self {
        self.patches.push((offset, bytes.to_vec()));
        self
    }

    /// Of ext4; that of dm-verity stays 4096.
    pub(crate) fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = bytes;
        self
    }

    /// Of the whole file system, as mke2fs spells it.
    pub(crate) fn size(mut self, size: &'static str) -> Self {
        self.size = size;
        self
    }

    /// Another salt makes another root hash of the same root.
    pub(crate) fn salt(mut self, hex: &str) -> Self {
        hex.clone_into(&mut self.salt);
        self
    }

    pub(crate) fn without(mut self, path: &str) -> Self {
        self.nodes.retain(|node| node.path != path);
        self
    }

    /// Leaves out a directory with all that it holds.
    pub(crate) fn without_all_of(mut self, path: &str) -> Self {
        let below = format!("{path}/");
        self.nodes.retain(|node| node.path != path && !node.path.starts_with(&below));
        self
    }

    /// Only what is put in.
    pub(crate) fn empty(mut self) -> Self {
        self.nodes.clear();
        self
    }

    /// Puts a node in, in place of one with the same path.
    pub(crate) fn with(mut self, node: Node) -> Self {
        // In its place, so that a directory stays before what it holds.
        match self.nodes.iter_mut().find(|old| old.path == node.path) {
            Some(old) => *old = node,
            None => self.nodes.push(node),
        }
        self
    }

    pub(crate) fn build(self) -> Root {
        let scratch = Scratch::new("root");
        let data = scratch.join(&format!("rootfs.{}", self.format.name()));
        let tree = scratch.join("rootfs.verity");
        let files = scratch.join("files");
        fs::create_dir(&files).unwrap();
        for node in &self.nodes {
            let path = files.join(&node.path);
            match &node.kind {
                Kind::Directory => fs::create_dir(&path),
                Kind::File(content) => fs::write(&path, content),
                Kind::Symlink(target) => symlink(target, &path),
                // Under fakeroot, below.
                Kind::Whiteout => Ok(()),
            }
            .unwrap_or_else(|e| panic!("cannot make {} of the root: {e}", node.path));
        }
        match self.format {
            Format::Ext4 => self.make_ext4(&scratch, &files, &data),
            Format::Erofs(options) => {
                let make = [&["mkfs.erofs"], options, &[text(&data), text(&files)]];
                self.make_by(&scratch, &files, &make.concat());
            }
            Format::Squashfs(options) => {
                let all = ["-noappend", "-no-progress", "-quiet"];
                let make = [&["mksquashfs", text(&files), text(&data)], &all[..], options];
                self.make_by(&scratch, &files, &make.concat());
            }
        }
        let file = File::options().write(true).open(&data).unwrap();
        for (offset, bytes) in &self.patches {
            file.write_all_at(bytes, *offset).unwrap();
        }
        file.set_len(file.metadata().unwrap().len().next_multiple_of(4096)).unwrap();
        let report = run(command("veritysetup")
            .args(["format", "--salt", &self.salt, "--uuid", UUID])
            .args([&data, &tree]));
        let field = |name: &str| {
            let line = report.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("veritysetup reports no {name}")).trim().to_owned()
        };
        Root {
            roothash: field("Root hash:"),
            data_blocks: field("Data blocks:").parse().unwrap(),
            salt: self.salt,
            nodes: self.nodes,
            data,
            tree,
            _scratch: scratch,
        }
    }
}

impl Builder {
    fn make_ext4(&self, scratch: &Scratch, files: &Path, data: &Path) {
        run(command("mke2fs")
            .args(["-q", "-t", "ext4", "-m", "0", "-U", UUID, "-b", &self.block_size.to_string()])
            .args(&self.options)
            .args(["-E", "root_owner=0:0", "-d"])
            .args([files, data])
            .arg(self.size));
        let script = scratch.join("edits");
        fs::write(&script, self.nodes.iter().map(edit).collect::<String>()).unwrap();
        let debugfs =
            command("debugfs").args(["-w", "-f"]).args([script.as_path(), data]).output().unwrap();
        // It ends with status 0 whatever failed; its first line of complaint is its version.
        let complaints = String::from_utf8_lossy(&debugfs.stderr);
        assert!(complaints.lines().count() <= 1, "debugfs: {complaints}");
        run(command("e2fsck").arg("-fn").arg(data));
    }

    /// By a tool that packs a folder as it finds it: fakeroot shows it what the host cannot set.
    fn make_by(&self, scratch: &Scratch, files: &Path, make: &[&str]) {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let Node { path, kind, mode, owner, mtime, xattrs } = node;
                let is_link = matches!(kind, Kind::Symlink(_));
                let is_whiteout = matches!(kind, Kind::Whiteout);
                let mtime = u128::from(mtime.0) * 1_000_000_000 + u128::from(mtime.1);
                json!({
                    "path": files.join(path), "link": is_link, "whiteout": is_whiteout, "mode": mode,
                    "owner": owner,
                    "mtime": u64::try_from(mtime).expect("a time of these centuries"),
                    "xattrs": xattrs,
                })
            })
            .collect();
        let description = scratch.join("nodes.json");
        fs::write(&description, json!(nodes).to_string()).unwrap();
        run(command("fakeroot").args(["python3", "-c", AS_DESCRIBED]).arg(&description).args(make));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name of ours")
}

/// Makes files what a description says, the last first, so that a folder's time stays, and then runs
/// what packs them.
const AS_DESCRIBED: &str = r#"
import json, os, stat, sys
for node in reversed(json.load(open(sys.argv[1]))):
    path = node["path"]
    if node["whiteout"]:
        os.mknod(path, stat.S_IFCHR, 0)
    os.chown(path, *node["owner"], follow_symlinks=False)
    if not node["link"]:
        os.chmod(path, node["mode"])
        for name, value in node["xattrs"]:
            os.setxattr(path, name, value.encode())
    os.utime(path, ns=(node["mtime"],) * 2, follow_symlinks=False)
os.execvp(sys.argv[2], sys.argv[2:])
"#;

/// The debugfs commands that make a node what its description says.
fn edit(node: &Node) -> String {
    let path = format!("\"/{}\"", node.path);
    let format = match node.kind {
        Kind::Directory => 0o040_000,
        Kind::File(_) => 0o100_000,
        Kind::Symlink(_) => 0o120_000,
        Kind::Whiteout => 0o020_000,
    };
    let mut edits = String::new();
    let mut set = |field: &str, value: String| {
        writeln!(edits, "sif {path} {field} {value}").unwrap();
    };
    set("mode", format!("0{:o}", format | node.mode));
    set("uid", node.owner.0.to_string());
    set("gid", node.owner.1.to_string());
    set("mtime", format!("@{}", node.mtime.0));
    // The low two bits of this field extend the seconds.
    set("mtime_extra", (node.mtime.1 << 2).to_string());
    for (name, value) in &node.xattrs {
        writeln!(edits, "ea_set {path} {name} {value}").unwrap();
    }
    edits
}

impl Root {
    pub(crate) fn builder() -> Builder {
        Self::builder_of(Arch::X86)
    }

    pub(crate) fn builder_of(arch: Arch) -> Builder {
        Builder {
            nodes: standard_nodes(arch),
            format: Format::Ext4,
            block_size: 4096,
            size: SIZE,
            salt: SALT.to_owned(),
            options: Vec::new(),
            patches: Vec::new(),
        }
    }

    /// The root that every test boots which has no wish of its own.
    pub(crate) fn standard() -> &'static Self {
        static STANDARD: OnceLock<Root> = OnceLock::new();
        STANDARD.get_or_init(|| Self::builder().build())
    }

    /// The same with programs of that architecture.
    pub(crate) fn standard_of(arch: Arch) -> &'static Self {
        static ARM: OnceLock<Root> = OnceLock::new();
        match arch {
            Arch::X86 => Self::standard(),
            Arch::Arm => ARM.get_or_init(|| Self::builder_of(arch).build()),
        }
    }
}
