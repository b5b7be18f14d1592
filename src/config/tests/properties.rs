//! What holds for any command line.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn no_command_line_panics(line in "\\PC*") {
        let _ = Config::from_cmdline(&line);
        let _ = Config::check_initramfs_words(&line);
        let _ = Config::on_failure(&lines(&line, &line));
    }

    #[test]
    fn no_value_of_a_known_key_panics(key in 0..KEYS.len(), value in "[ -~]*") {
        let _ = parse(&format!("{}={value}", KEYS[key].0));
    }

    #[test]
    fn neither_order_nor_quotes_nor_the_kernels_own_words_matter(
        mut words in Just(EVERY_KEY.to_vec()).prop_shuffle(),
        quoted in 0..EVERY_KEY.len(),
        others in prop::collection::vec("[a-z_]{1,8}(\\.[a-z]{1,8}=[a-z0-9,]{0,8})?", 0..4),
    ) {
        let in_order = parse(&EVERY_KEY.join(" ")).unwrap();
        let quotes = format!("\"{}\"", words[quoted]);
        words[quoted] = &quotes;
        let ours = |word: &str| word.starts_with("cvm.") || KEYS.iter().chain(LAYER_KEYS).chain(HANDOFF_KEYS).any(|(key, _)| *key == word);
        let others = others.iter().filter(|word| !ours(word));
        let line: Vec<_> = others.map(String::as_str).chain(words).collect();
        // But those that are for modules.
        let config = Config { module_parameters: Vec::new(), ..parse(&line.join("\t")).unwrap() };
        prop_assert_eq!(config, in_order);
    }

    #[test]
    fn a_key_that_is_unknown_or_given_twice_is_refused_wherever_it_stands(
        unknown in "cvm\\.[a-z_]{0,12}(=[a-z0-9]{0,8})?",
        twice in 0..EVERY_KEY.len(),
        at in 0..=EVERY_KEY.len(),
    ) {
        let refusal = |word: &str| {
            let mut words = EVERY_KEY.to_vec();
            words.insert(at, word);
            refusal(&words.join(" "))
        };
        let name = |word: &str| word.split('=').next().unwrap().to_owned();
        let unknown_name = name(&unknown);
        prop_assume!(KEYS.iter().chain(LAYER_KEYS).chain(HANDOFF_KEYS).all(|(key, _)| *key != unknown_name));
        prop_assert_eq!(refusal(&unknown), format!("unknown key {unknown_name}="));
        let twice = EVERY_KEY[twice];
        let message = match name(twice) {
            repeatable if REPEATABLE.contains(&&*repeatable) => {
                format!("{twice}: the name models is given twice")
            }
            key => format!("{key}= is given twice"),
        };
        prop_assert_eq!(refusal(twice), message);
    }

    #[test]
    fn hash_salt_and_count_are_read_as_they_are_shown(
        hash: [u8; 32],
        salt in prop::collection::vec(any::<u8>(), 0..=256),
        data_blocks in 2..1_u64 << 52,
    ) {
        let shown = if salt.is_empty() { "-".into() } else { hex::encode(&salt) };
        let line = format!(
            "roothash={} cvm.verity_salt={shown} cvm.verity_data_blocks={data_blocks}",
            hex::encode(&hash)
        );
        let config = Config::from_cmdline(&line).unwrap();
        let root = partitions(&config);
        prop_assert_eq!(root.root_hash, hash);
        prop_assert_eq!(&root.verity, &Some(verity::Params { salt, data_blocks }));
        // And shown as they were read.
        prop_assert_eq!(root.words(), line);
    }

    #[test]
    fn an_offset_is_taken_when_a_block_begins_there_behind_the_data(
        offset in prop_oneof![0..20_000_u64, (0..20_u64).prop_map(|block| block * 4096)],
        data_blocks in 2..6_u64,
    ) {
        let line = format!(
            "cvm.verity_hash_offset={offset} cvm.verity_salt=- \
             cvm.verity_data_blocks={data_blocks}"
        );
        let fits = offset % 4096 == 0 && offset >= data_blocks * 4096;
        let taken = parse(&line).ok().and_then(|config| partitions(&config).hash_offset);
        prop_assert_eq!(taken.map(HashOffset::bytes), fits.then_some(offset));
    }
}
