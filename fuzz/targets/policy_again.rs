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
    /// What stands at the beginning of the file before and after, and around the change.
    heads: [u8; 2],
    lines: Vec<u8>,
}

/// What a file of rules can begin with.
const HEADS: [&str; 5] = ["", "# why\n", "deny = []\n", "allow = []\n", "\u{feff}"];
/// What makes it hard to tell where a rule ends.
const LINES: [&str; 14] = [
    "\n",
    "# why\n",
    "\r\n",
    "[[allow]]\n",
    " [[deny]]\n",
    "[[allow.from]]\ncidr = \"10.1.0.0/16\"\n",
    "[[deny.from]]\ncidr = \"10.1.0.0/16\"\n",
    "name = '''\n",
    "'''\n",
    "x = [\n",
    "]\n",
    "[mesh]\n",
    "mode = \"audit\"\n",
    "from = [\n",
];

fn pick(from: &[&'static str], which: u8) -> &'static str {
    from[usize::from(which) % from.len()]
}

fuzz_target!(|change: Change| {
    let files = &change.files;
    let declarations = files.declarations();
    let set = |head: u8, rules: String| {
        let rules = format!("{}{rules}", pick(&HEADS, head));
        SourceSet::from_texts([("10.toml", declarations.clone()), ("20.toml", rules)])
    };
    let at = usize::from(change.at).min(files.rules.len());
    let until = (at + usize::from(change.gone)).min(files.rules.len());
    let lines = change.lines.iter().take(4);
    let after = [
        files.rules(0, &files.rules[..at]),
        files.rules(1000, &change.rules),
        lines.map(|line| pick(&LINES, *line)).collect(),
        files.rules(until, &files.rules[until..]),
    ];
    let [head, next_head] = change.heads;
    let before = set(head, files.rules(0, &files.rules));
    let after = set(next_head, after.concat());
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
