//! What is parsed again says what parsing everything says.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::policy::parse::parse;

const NAMES: &str = r#"
[[service]]
name = "a"
workload = { uid = 1001 }
[[service]]
name = "b"
ports = [{ name = "http", listen = 80 }]
endpoints = [{ address = "127.0.0.1:8080", node = "n" }]
[[service]]
name = "c"
namespace = "other"
workload = { uid = 1003 }
egress = "deny"
[[node]]
name = "m"
address = "10.0.0.2"
"#;

fn rule(name: &str, from: &str) -> String {
    format!("[[allow]]\nname = \"{name}\"\nfrom = [\"{from}\"]\nto = [\"default/b\"]\n")
}

fn local() -> LocalNode {
    LocalNode {
        name: "n".into(),
        address: None,
        trust_domain: "mesh.local".into(),
    }
}

/// Holds `parse_again` against `parse`; whether it could tell. `None` if the files before are
/// not valid.
fn compare(before: &[(&str, &str)], after: &[(&str, &str)]) -> Option<bool> {
    let set = |files: &[(&str, &str)]| SourceSet::from_texts(files.iter().copied());
    let (before, after) = (set(before), set(after));
    let parsed = parse(&before, &local());
    let policy = parsed.policy?;
    let previous = Previous {
        sources: &before,
        policy: &policy,
        warnings: &parsed.diagnostics,
        rule_files: &parsed.rule_files,
    };
    let Some(again) = parse_again(previous, &after, &local()) else {
        return Some(false);
    };
    let whole = parse(&after, &local());
    let shown = |parsed: &Parsed| {
        let render = |diagnostic: &Diagnostic| diagnostic.render(false);
        parsed.diagnostics.iter().map(render).collect::<String>()
    };
    assert_eq!(shown(&again), shown(&whole));
    assert_eq!(format!("{:?}", again.policy), format!("{:?}", whole.policy));
    assert_eq!(again.rule_files, whole.rule_files);
    Some(true)
}

#[test]
fn it_says_what_parse_says_or_nothing() {
    let (one, two) = (rule("one", "default/a"), rule("two", "host"));
    let everyone = rule("two", "*");
    let others = NAMES.replace("8080", "8081");
    let names = ("0.toml", NAMES);
    let one = ("1.toml", &*one);
    let before = [names, one, ("2.toml", &*two)];
    let (three, taken) = (rule("three", "*"), rule("one", "*"));
    let (unknown, empty) = (rule("two", "default/z"), rule("two", "later/*"));
    for (after, expected, what) in [
        (vec![names, one, ("2.toml", &*everyone)], true, "changed"),
        (vec![names, one], true, "removed"),
        (
            vec![names, one, before[2], ("3.toml", &three)],
            true,
            "added",
        ),
        (vec![names, one, ("2.toml", "")], true, "emptied"),
        (vec![names, one, ("2.toml", &empty)], true, "warning"),
        (vec![names, one, ("2.toml", &taken)], false, "twice"),
        (vec![names, one, ("2.toml", &unknown)], false, "unknown"),
        (vec![names, one, ("2.toml", "[[allow")], false, "syntax"),
        (vec![("0.toml", &*others), one, before[2]], false, "names"),
        (
            vec![names, one, ("2.toml", "[mesh]\ndefault = \"allow\"\n")],
            false,
            "more than rules",
        ),
        (vec![one, before[2]], false, "names removed"),
        (vec![], false, "nothing left"),
    ] {
        assert_eq!(compare(&before, &after), Some(expected), "{what}");
    }
}

#[test]
fn part_of_a_file_is_parsed_where_it_can_be_told_apart() {
    let [a, b, c] = ["a", "b", "c"].map(|name| rule(name, "default/a"));
    let (sub, to) = (
        "[[allow.from]]\ncidr = \"10.0.0.0/8\"\n",
        "to = [\"default/b\"]\n",
    );
    let outside = format!("[[allow]]\nname = \"out\"\n{to}{sub}");
    let text = "name = \"\"\"\n[[allow]]\n\"\"\"\n";
    let deny = rule("d", "*").replace("allow", "deny");
    for (before, after, expected) in [
        // Rules move up and down.
        (format!("{a}{b}{c}"), format!("{a}\n\n{b}{c}"), true),
        (format!("{a}\n{b}{c}"), format!("{b}{c}"), true),
        (format!("{a}{c}"), format!("{a}{b}{c}"), true),
        (
            format!("# 1\n{a}{c}"),
            format!("# 1\n# 2\n{a}{deny}{c}"),
            true,
        ),
        (format!("{a}{b}"), format!("{a}{b}# end"), true),
        (format!("{a}{b}"), format!("{b}{a}"), true),
        (format!("{a}\r\n{b}"), format!("{a}\r\n\r\n{b}"), true),
        (
            format!("\u{feff}{a}{b}"),
            format!("\u{feff}{a}{b}{c}"),
            true,
        ),
        // A table of the last rule but one.
        (
            format!("{a}{outside}{deny}{c}"),
            format!("{a}{outside}{deny}{sub}{c}"),
            true,
        ),
        (
            format!("{outside}{deny}{sub}{c}"),
            format!("{outside}{sub}{deny}{sub}{c}"),
            true,
        ),
        // Lists that have to stand in one place.
        (
            format!("deny = []\n{a}"),
            format!("deny = []\n{a}{deny}"),
            false,
        ),
        (format!("{a}{deny}"), format!("deny = []\n{a}{deny}"), false),
        // What goes on over the lines of rules.
        (format!("{a}{b}"), format!("{a}[[allow]]\n{text}{b}"), false),
        (format!("{a}{b}"), format!("{a}x = [\n{b}"), false),
        (format!("{a}{b}"), format!("{a}x = '''\n{b}"), false),
        (format!("{a}{b}"), format!("{a}{a}{b}"), false),
        (format!("{a}{b}"), format!("{a}[mesh]\n{b}"), false),
    ] {
        let files = |text| [("0.toml", NAMES), ("1.toml", text)];
        let told = compare(&files(&before), &files(&after));
        assert_eq!(told, Some(expected), "{before}=>\n{after}");
    }
}

/// Lines that files of rules are made of.
fn line() -> impl Strategy<Value = String> {
    let callers = prop::sample::select(vec![
        "\"default/a\"",
        "\"other/c\"",
        "\"*\"",
        "\"host\"",
        "\"later/*\"",
        "\"default/zz\"",
        "{ cidr = \"10.0.0.0/8\" }",
        "{ node = \"m\" }",
        "\"host\", \"host\"",
    ]);
    let rule = (0..30u8, any::<bool>(), callers, any::<bool>());
    let rule = rule.prop_map(|(name, allow, from, port)| {
        let kind = if allow { "allow" } else { "deny" };
        let ports = if port { "ports = [\"http\"]\n" } else { "" };
        format!("[[{kind}]]\nname = \"r{name}\"\nfrom = [{from}]\nto = [\"default/b\"]\n{ports}")
    });
    let other = prop::sample::select(vec![
        "\n",
        "# a comment\n",
        "  [[allow]]\n",
        "[[allow.from]]\ncidr = \"10.1.0.0/16\"\n",
        "name = '''\n",
        "'''\n",
        "x = [\n",
        "]\n",
        "deny = []\n",
        "[deny]\n",
        "\r\n",
        "mode = \"audit\"\n",
    ]);
    prop_oneof![8 => rule, 1 => other.prop_map(str::to_owned)]
}

/// One change of a list of lines: some of them replaced by others.
fn edited(lines: &[String], at: &prop::sample::Index, gone: usize, new: &[String]) -> Vec<String> {
    let at = at.index(lines.len() + 1);
    let until = (at + gone).min(lines.len());
    [&lines[..at], new, &lines[until..]].concat()
}

/// The first of the rules with a name, so that most files are valid.
fn valid(lines: &[String]) -> String {
    let mut seen = HashSet::new();
    lines.iter().fold(String::new(), |mut text, line| {
        let name = line.lines().nth(1).filter(|line| line.starts_with("name"));
        if name.is_none_or(|name| seen.insert(name.to_owned())) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{line}");
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn changes_of_rule_files(
        lines in prop::collection::vec(line(), 0..12),
        second in prop::collection::vec(line(), 0..3),
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..3usize, prop::collection::vec(line(), 0..3)),
            1..3,
        ),
    ) {
        let after = edits.iter().fold(lines.clone(), |lines, (at, gone, new)| {
            edited(&lines, at, *gone, new)
        });
        let second = valid(&second).replace("name = \"r", "name = \"s");
        let files = |lines: &[String]| (valid(lines), second.clone());
        let ((before, second), (after, _)) = (files(&lines), files(&after));
        let before = [("0.toml", NAMES), ("1.toml", &*before), ("2.toml", &*second)];
        let after = [("0.toml", NAMES), ("1.toml", &*after), ("2.toml", &*second)];
        compare(&before, &after);
    }
}
