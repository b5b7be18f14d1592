//! The figures of `scripts/bench`: cvm-init against the ways that people boot today.
//!
//! [`options`] say what is [`plan`]ned, and [`host`] boots guests by that. Each boot becomes a run, of
//! what guest and QEMU said. The [`summary`] of all runs is [`figures`], of which tables make Markdown,
//! and [`publish`] a part of a page.

pub mod figures;
pub mod host;
pub mod options;
pub mod plan;
pub mod publish;
mod run;
mod spread;
pub mod summary;
mod tables;
mod way;
