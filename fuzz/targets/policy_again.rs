//! A change of a file of rules: parsing only what changed says what parsing everything says.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mesh_fuzz::grammar::{Files, Rule};
use mesh_fuzz::policy::parse::{Previous, parse, parse_again};
use mesh_fuzz::policy::source::SourceSet;
use mesh_fuzz::{local, shown};

/// A set of files, and a change of its rules.
#[derive(Arbitrary, Debug)]
struct Change {
    files: Files,
    /// Where, how many rules go, and what comes.
    at: u8,
    gone: u8,
    rules: Vec<Rule>,
    text: String,
}

fuzz_target!(|change: Change| {
    let files = &change.files;
    let declarations = files.declarations();
    let set = |rules: String| {
        SourceSet::from_texts([("10.toml", declarations.clone()), ("20.toml", rules)])
    };
    let at = usize::from(change.at).min(files.rules.len());
    let until = (at + usize::from(change.gone)).min(files.rules.len());
    let after = [
        files.rules(0, &files.rules[..at]),
        change.text.clone(),
        files.rules(1000, &change.rules),
        files.rules(until, &files.rules[until..]),
    ];
    let (before, after) = (set(files.rules(0, &files.rules)), set(after.concat()));
    let parsed = parse(&before, &local());
    let Some(policy) = &parsed.policy else {
        return;
    };
    let previous = Previous {
        sources: &before,
        policy,
        warnings: &parsed.diagnostics,
        rule_files: &parsed.rule_files,
    };
    if let Some(again) = parse_again(previous, &after, &local()) {
        let whole = parse(&after, &local());
        assert_eq!(shown(&again), shown(&whole));
        assert_eq!(format!("{:?}", again.policy), format!("{:?}", whole.policy));
        assert_eq!(again.rule_files, whole.rule_files);
    }
});
