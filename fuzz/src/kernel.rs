//! What the kernel says: its own words, but with lengths and names in them.

use cvm_init::format::dm::Message;
use cvm_init::format::integrity;

use super::check_refusal;

/// The buffer of a device-mapper call as the kernel has left it.
pub fn dm_answer(bytes: &[u8]) {
    let answer = Message::answer(bytes);
    let _ = (answer.is_cut_short(), answer.device());
    let kinds = answer.target_kinds().map(|(name, _)| name);
    for name in kinds.chain(answer.mapping_names()) {
        assert!(!name.contains('\0'));
        // A byte that is not UTF-8 is shown as a character of three.
        assert!(name.len() <= 3 * bytes.len());
    }
    match answer.targets() {
        Ok(targets) => {
            let mut end = 0_u64;
            for target in targets {
                assert!(!target.kind.contains('\0') && !target.params.contains('\0'));
                assert_eq!(target.params.trim_end(), target.params);
                end = end.checked_add(target.sectors).expect("targets follow one another");
                integrity_words(&target.params);
            }
        }
        Err(error) => check_refusal(&error),
    }
}

/// The parameters of an answer, where they are the table of dm-integrity.
fn integrity_words(params: &str) {
    const ASKED: &str = "8:4 0 28 D 2 block_size:4096 journal_sectors:8";
    let fields: Vec<_> = params.split(' ').collect();
    let is_asked_for =
        params.starts_with("8:4 0 28 D ") && fields[5..].contains(&"block_size:4096");
    assert_eq!(integrity::is_live_table(ASKED, params), is_asked_for, "{params}");
}

/// A message of the kernel's uevent socket.
pub fn uevent(bytes: &[u8]) {
    let added = bytes.starts_with(b"add@");
    let appears = added || bytes.starts_with(b"change@");
    let text = [bytes, b"\0"].concat();
    let of_block = text.windows(17).any(|window| window == b"\0SUBSYSTEM=block\0");
    let has_driver = text.windows(10).any(|window| window == b"\0MODALIAS=");
    let is_virtual = [&b"add@"[..], b"change@"]
        .iter()
        .any(|action| bytes.starts_with(&[action, &b"/devices/virtual/block/"[..]].concat()));
    let wakes = !is_virtual && (appears && of_block || added && has_driver);
    assert_eq!(cvm_init::kernel::uevent::wakes_up(bytes), wakes);
}
