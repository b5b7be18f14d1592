//! The recipes for COCONUT-SVSM: each has the form that its builder reads.
//!
//! The builders themselves pass over what they do not know, so that a misspelt `check-kvm` would be
//! none. Here that is an error.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "that a field is known is all that is asked")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const BUILD_PY: &str = "initramfs/svsm/build-py.json";
const XBUILD: &str = "initramfs/svsm/xbuild.json";

/// `scripts/build.py`, and the document on recipes.
mod build_py {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Recipe {
        igvm: BTreeMap<Target, Igvm>,
        kernel: Kernel,
        firmware: Option<Firmware>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Kernel {
        svsm: Component,
        stage2: Component,
        tdx_stage1: Option<Component>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Component {
        r#type: Option<Type>,
        output_file: Option<String>,
        manifest: Option<PathBuf>,
        features: Option<String>,
        binary: Option<bool>,
        objcopy: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Type {
        Cargo,
        Make,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Igvm {
        output: Option<PathBuf>,
        policy: Option<String>,
        comport: Option<String>,
        platforms: Option<Vec<Platform>>,
        measure: Option<Measure>,
        measure_native_zeroes: Option<bool>,
        check_kvm: Option<bool>,
    }
}

/// `cargo xbuild`, since its loader is `bldr`.
mod xbuild {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Recipe {
        igvm: BTreeMap<Target, Igvm>,
        kernel: Kernel,
        firmware: Option<Firmware>,
        fs: Files,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Kernel {
        svsm: Component,
        bldr: Component,
        tdx_stage1: Option<Component>,
    }

    /// Of the guest's side of SVSM; `path` is where it lies there.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Files {
        modules: BTreeMap<String, Component>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Component {
        r#type: Option<Type>,
        output_file: Option<String>,
        manifest: Option<PathBuf>,
        features: Option<String>,
        no_default_features: Option<bool>,
        binary: Option<bool>,
        objcopy: Option<String>,
        path: Option<PathBuf>,
        /// Only builds of tests may name one.
        toolchain: Option<String>,
        env: Option<BTreeMap<String, String>>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Type {
        Cargo,
        Make,
        Test,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Igvm {
        output: Option<PathBuf>,
        policy: Option<String>,
        platforms: Option<Vec<Platform>>,
        measure: Option<Measure>,
        measure_native_zeroes: Option<bool>,
        check_kvm: Option<bool>,
        no_vtom: Option<bool>,
    }
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
enum Target {
    Qemu,
    HyperV,
    Vanadium,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Platform {
    Native,
    Vsm,
    Snp,
    Tdp,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Measure {
    Print,
}

/// A file wins over a variable.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Firmware {
    env: Option<String>,
    file: Option<PathBuf>,
    command: Option<Vec<String>>,
}

fn read(file: &str) -> Value {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Why a recipe is not of this form; nothing where it is.
fn refusal<T: DeserializeOwned>(recipe: &Value) -> Option<String> {
    serde_json::from_value::<T>(recipe.clone()).err().map(|error| error.to_string())
}

#[test]
fn each_recipe_has_the_form_that_its_builder_reads() {
    assert_eq!(refusal::<build_py::Recipe>(&read(BUILD_PY)), None);
    assert_eq!(refusal::<xbuild::Recipe>(&read(XBUILD)), None);
}

#[test]
fn what_a_builder_would_pass_over_is_seen() {
    let changed = |pointer: &str, name: &str, value: Value| {
        let mut recipe = read(XBUILD);
        recipe.pointer_mut(pointer).unwrap()[name] = value;
        refusal::<xbuild::Recipe>(&recipe).unwrap()
    };
    assert!(changed("/igvm/qemu", "check_kvm", json!(true)).contains("unknown field `check_kvm`"));
    assert!(changed("/igvm/qemu", "initrd", json!("a")).contains("unknown field `initrd`"));
    assert!(changed("/igvm/qemu", "platforms", json!(["sev"])).contains("unknown variant `sev`"));
    assert!(changed("/igvm", "xen", json!({})).contains("unknown variant `xen`"));
    assert!(changed("/kernel/svsm", "feature", json!("vtpm")).contains("unknown field `feature`"));
    // One form is not the other.
    assert!(refusal::<xbuild::Recipe>(&read(BUILD_PY)).unwrap().contains("unknown field `stage2`"));
    assert!(refusal::<build_py::Recipe>(&read(XBUILD)).unwrap().contains("unknown field `fs`"));
}

/// What the document says of both: an SNP guest's file alone, with a TPM, measured as KVM does.
#[test]
fn both_recipes_make_the_same_file() {
    for file in [BUILD_PY, XBUILD] {
        let recipe = read(file);
        assert_eq!(
            recipe["igvm"],
            json!({ "qemu": {
                "output": "cvm-init-qemu.igvm",
                "platforms": ["snp"],
                "policy": "0x30000",
                "measure": "print",
                "check-kvm": true,
            } }),
            "{file}"
        );
        assert_eq!(recipe["kernel"]["svsm"]["features"], "vtpm", "{file}");
        assert_eq!(recipe["firmware"], json!({ "env": "FW_FILE" }), "{file}");
        let document =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/svsm.md"));
        assert!(document.unwrap().contains(file), "{file}");
    }
}
