//! Types of partitions that say whose root or hash tree they hold.
//!
//! Source: UAPI group, Discoverable Partitions Specification; systemd's `sd-gpt.h`.

use std::env::consts::ARCH;

use super::Entry;
use crate::error::{Error, Result};

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The data of a root.
    Root,
    /// Its hash tree.
    Tree,
}

/// Types that an architecture has of its own.
struct Types {
    /// As the specification calls it.
    name: &'static str,
    /// As Rust calls it.
    arch: &'static str,
    root: u128,
    tree: u128,
}

const TYPES: &[Types] = &[
    Types {
        name: "x86",
        arch: "x86",
        root: 0x4447_9540_f297_41b2_9af7_d131_d5f0_458a,
        tree: 0xd13c_5d3b_b5d1_422a_b29f_9454_fdc8_9d76,
    },
    Types {
        name: "x86-64",
        arch: "x86_64",
        root: 0x4f68_bce3_e8cd_4db1_96e7_fbca_f984_b709,
        tree: 0x2c73_57ed_ebd2_46d9_aec1_23d4_37ec_2bf5,
    },
    Types {
        name: "arm",
        arch: "arm",
        root: 0x69da_d710_2ce4_4e3c_b16c_21a1_d49a_bed3,
        tree: 0x7386_cdf2_203c_47a9_a498_f2ec_ce45_a2d6,
    },
    Types {
        name: "arm64",
        arch: "aarch64",
        root: 0xb921_b045_1df0_41c3_af44_4c6f_280d_3fae,
        tree: 0xdf33_00ce_d69f_4c92_978c_9bfb_0f38_d820,
    },
    Types {
        name: "riscv64",
        arch: "riscv64",
        root: 0x72ec_70a6_cf74_40e6_bd49_4bda_08e8_f224,
        tree: 0xb6ed_5582_440b_4209_b8da_5ff7_c419_ea3d,
    },
];

impl Entry {
    /// Makes sure that its type, where it is one of a root's, says that it holds this. Any other type
    /// says nothing of it.
    ///
    /// # Errors
    /// What the type says.
    pub fn require(&self, role: Role) -> Result<()> {
        let kind = u128::from_be_bytes(self.kind);
        let name = |types: &Types, role| match role {
            Role::Root => format!("root-{}", types.name),
            Role::Tree => format!("root-{}-verity", types.name),
        };
        let said = TYPES.iter().find_map(|types| match kind {
            _ if kind == types.root => Some((types, Role::Root)),
            _ if kind == types.tree => Some((types, Role::Tree)),
            _ => None,
        });
        match said {
            Some((types, said)) if (types.arch, said) != (ARCH, role) => {
                let native = TYPES.iter().find(|types| types.arch == ARCH);
                Err(Error::new(format!(
                    "partition {} is named by roothash=, but its type is {}, not {}",
                    self.number,
                    name(types, said),
                    native.map_or_else(|| ARCH.to_owned(), |types| name(types, role)),
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::uuid;

    /// What is said of a partition of this type.
    fn refusal(kind: &str, role: Role) -> Option<String> {
        let kind = uuid::parse(kind).unwrap();
        let name = String::new();
        let entry = Entry { number: 2, kind, uuid: [0; 16], first: 0, last: 0, name };
        entry.require(role).err().map(|error| error.to_string())
    }

    #[test]
    fn a_type_that_says_something_else_is_refused_by_name() {
        let native = TYPES.iter().find(|types| types.arch == ARCH).unwrap().name;
        let head = "partition 2 is named by roothash=, but its type is";
        for (kind, role, message) in [
            (
                "44479540-f297-41b2-9af7-d131d5f0458a",
                Role::Root,
                format!("{head} root-x86, not root-{native}"),
            ),
            (
                "7386cdf2-203c-47a9-a498-f2ecce45a2d6",
                Role::Tree,
                format!("{head} root-arm-verity, not root-{native}-verity"),
            ),
            (
                "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
                Role::Tree,
                format!("{head} root-riscv64, not root-{native}-verity"),
            ),
        ] {
            assert_eq!(refusal(kind, role), Some(message));
        }
    }

    #[test]
    fn its_own_types_and_those_that_say_nothing_are_taken() {
        let native = TYPES.iter().find(|types| types.arch == ARCH).unwrap();
        let text = |kind: u128| uuid::hyphenated(&kind.to_be_bytes());
        assert_eq!(refusal(&text(native.root), Role::Root), None);
        assert_eq!(refusal(&text(native.tree), Role::Tree), None);
        assert!(refusal(&text(native.tree), Role::Root).is_some());
        assert!(refusal(&text(native.root), Role::Tree).is_some());
        // Linux file system data, Linux reserved.
        for kind in ["0fc63daf-8483-4772-8e79-3d69d8477de4", "8da63339-0007-60c0-c436-083ac8230908"]
        {
            assert_eq!(refusal(kind, Role::Root), None);
            assert_eq!(refusal(kind, Role::Tree), None);
        }
    }
}
