//! What the tests are written with: a [`vm::Vm`] of [`disk`]s, each with a [`root`] or a [`layer`], that
//! boots to a [`guest::Guest`].

pub(crate) mod artefacts;
pub(crate) mod data;
pub(crate) mod disk;
pub(crate) mod event_log;
pub(crate) mod guest;
pub(crate) mod images;
pub(crate) mod kernel;
pub(crate) mod layer;
pub(crate) mod root;
#[path = "../../schema/mod.rs"]
pub(crate) mod schema;
pub(crate) mod served;
pub(crate) mod slots;
pub(crate) mod terminals;
pub(crate) mod tool;
pub(crate) mod tpm;
pub(crate) mod typed;
pub(crate) mod vm;
pub(crate) mod volume_check;
