//! From figures to Markdown.

mod boots;
mod costs;
mod made;
mod ratios;
mod text;
mod volumes;

use super::figures::Figures;

/// A paragraph that introduces, and a table; empty where there are no figures for it.
type Section = fn(&Figures) -> String;

/// In the order of the document.
const SECTIONS: &[Section] = &[
    boots::provisioning,
    boots::written,
    boots::memory,
    ratios::ratios,
    costs::costs,
    boots::effects,
    volumes::data,
    volumes::writers,
    volumes::unpack,
    volumes::choices,
    boots::layers,
    boots::machines,
    made::made,
];

/// All tables, with an empty line behind each.
pub(super) fn document(figures: &Figures) -> String {
    SECTIONS.iter().map(|section| section(figures)).collect()
}
