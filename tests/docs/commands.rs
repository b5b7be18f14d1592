//! What the documents say to type: scripts that are there, with flags that they know.

use std::collections::{BTreeMap, BTreeSet};

use crate::page::{Page, Part, exists, pages, read};
use crate::script::{run, script};

/// A call of one of our scripts: its name, and the flags that it is given.
#[derive(Debug, PartialEq)]
struct Call {
    name: String,
    flags: Vec<String>,
}

/// The name of the script that a word is the path of, if it is one of ours. `scripts/build.py` is
/// another project's, as is anything else with a dot.
fn script_of(word: &str) -> Option<&str> {
    let name = word.strip_prefix("scripts/")?;
    name.chars().all(|c| c.is_ascii_lowercase() || c == '-').then_some(name)
}

/// The calls in a piece of shell.
fn calls(code: &str) -> Vec<Call> {
    let lines = code.replace("\\\n", " ");
    let lines = lines.lines().map(|line| line.split(" #").next().unwrap_or_default());
    let commands = lines.flat_map(|line| line.split(['|', ';', '&', '(']));
    commands
        .filter_map(|command| {
            let mut words = command.split_whitespace();
            let name = words.by_ref().find_map(script_of)?;
            // Behind -- they are somebody else's; brackets are around what may be left out.
            let own =
                words.take_while(|word| *word != "--").map(|word| word.trim_matches(['[', ']']));
            let flags = own.filter(|word| word.starts_with('-')).map(str::to_owned).collect();
            Some(Call { name: name.to_owned(), flags })
        })
        .collect()
}

/// All calls in a document, in blocks and in lines.
fn calls_in(page: &Page) -> Vec<Call> {
    let codes = page.parts.iter().filter_map(|part| match part {
        Part::Block(_, code) => Some(code.clone()),
        // It may go on in the next line.
        Part::Code(code) if code.starts_with("scripts/") => Some(code.replace('\n', " ")),
        _ => None,
    });
    codes.flat_map(|code| calls(&code)).collect()
}

#[test]
fn a_call_is_found_with_its_flags_and_no_other() {
    let code = "A=1 scripts/image --whole [-o out] -- --no && echo | scripts/qemu \\\n --tee # -x\n\
                scripts/build.py --release; cargo run --release";
    let call = |name: &str, flags: &[&str]| Call {
        name: name.to_owned(),
        flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
    };
    assert_eq!(calls(code), [call("image", &["--whole", "-o"]), call("qemu", &["--tee"])]);
}

#[test]
fn every_command_of_the_documents_is_a_script_that_knows_its_flags() {
    let mut helps: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut seen = 0;
    for page in pages() {
        for Call { name, flags } in calls_in(&page) {
            seen += flags.len();
            let path = page.path.display();
            if !exists(format!("scripts/{name}").as_ref()) {
                unknown.push(format!("{path}: scripts/{name}"));
                continue;
            }
            let known = helps.entry(name.clone()).or_insert_with(|| {
                let help = run(script(&name).arg("--help"));
                let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
                words.map(str::to_owned).collect()
            });
            let strange = flags.iter().filter(|flag| *flag != "--help" && !known.contains(*flag));
            unknown.extend(strange.map(|flag| format!("{path}: scripts/{name} {flag}")));
        }
    }
    assert!(seen > 60, "only {seen} flags are found");
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// What a newcomer types first is what CI has typed before.
#[test]
fn ci_runs_the_commands_of_readme() {
    let ci = read(".ci/run");
    let steps = read("scripts/test");
    let runs = |name: &str| {
        ci.contains(&format!("/scripts/{name}\""))
            || steps.lines().any(|line| {
                let line = line.trim_start();
                line.starts_with("step ") && line.contains(&format!(" scripts/{name}"))
            })
    };
    let page = Page::read("README.md");
    let blocks = page.parts.iter().filter_map(|part| match part {
        Part::Block(language, code) if language == "sh" => Some(code),
        _ => None,
    });
    let lines: Vec<_> = blocks.flat_map(|code| code.lines()).collect();
    assert!(lines.len() >= 2, "{lines:?}");
    for line in lines {
        let calls = calls(line);
        assert!(!calls.is_empty(), "{line} calls no script");
        for Call { name, .. } in calls {
            assert!(runs(&name), "CI does not run scripts/{name}");
        }
    }
}
