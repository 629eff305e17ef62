//! Whatever the files say, parsing ends with a policy or with an error that has a place.

use proptest::prelude::*;

use super::{BASE, local};
use crate::policy::parse::{Parsed, parse};
use crate::policy::source::SourceSet;

const SHOP: &str = include_str!("../../../../../examples/conf.d/10-shop.toml");

fn holds(parsed: &Parsed) {
    let errors = parsed.diagnostics.iter().filter(|d| d.is_error()).count();
    assert_eq!(errors == 0, parsed.policy.is_some());
    for diagnostic in &parsed.diagnostics {
        assert!(diagnostic.help.is_some(), "{diagnostic}");
        assert!(
            diagnostic.code == "too-many-problems"
                || diagnostic.code == "empty-policy"
                || !diagnostic.labels.is_empty()
        );
        assert!(!diagnostic.render(true).is_empty());
    }
}

fn parse_texts(texts: Vec<String>) -> Parsed {
    let names = ["a.toml", "b.toml", "c.toml"];
    parse(
        &SourceSet::from_texts(names.into_iter().zip(texts)),
        &local(),
    )
}

/// Pieces that files are made of, so that random files get past the syntax.
fn piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "[mesh]",
        "[[service]]",
        "[[node]]",
        "[[split]]",
        "[[allow]]",
        "[[deny]]",
        "name = ",
        "namespace = ",
        "vip = ",
        "ports = ",
        "endpoints = ",
        "workload = ",
        "from = ",
        "to = ",
        "weights = ",
        "service = ",
        "address = ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\n",
        "\n",
        "\n",
        "cidr = ",
        "systemd = ",
        "listen = ",
        "uid = ",
        "\"shop/payments\"",
        "\"*\"",
        "\"host\"",
        "\"a\"",
        "\"10.0.0.1\"",
        "\"127.0.0.1:80\"",
        "\"[::1]:80\"",
        "80",
        "0",
        "-1",
        "v1 = 1",
        "true",
        "1.5",
        "\"10.0.0.0/8\"",
        "\u{e9}",
        "\"\\u001b\"",
        "\u{feff}",
        "\r\n",
        "\t",
    ]);
    fixed.prop_map(str::to_owned)
}

/// A file with some of its characters replaced, removed or doubled.
fn mutated(text: &'static str) -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        0..4u8,
        prop::sample::select(vec![
            '"', '[', ']', '{', '}', '=', '\n', ',', '0', 'x', '\u{e9}', '*', '/',
        ]),
    );
    prop::collection::vec(edit, 1..6).prop_map(move |edits| {
        let mut chars: Vec<char> = text.chars().collect();
        for (index, kind, c) in edits {
            let at = index.index(chars.len());
            match kind {
                0 => chars[at] = c,
                1 => chars.insert(at, c),
                2 => chars.truncate(chars.len().max(2) - 1),
                _ => drop(chars.remove(at)),
            }
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_text(texts in prop::collection::vec("\\PC{0,60}(\n\\PC{0,40}){0,4}", 0..3)) {
        holds(&parse_texts(texts));
    }

    #[test]
    fn random_pieces(texts in prop::collection::vec(prop::collection::vec(piece(), 0..40), 1..3)) {
        holds(&parse_texts(texts.into_iter().map(|pieces| pieces.concat()).collect()));
    }

    #[test]
    fn mutated_files(shop in mutated(SHOP), base in mutated(BASE)) {
        holds(&parse_texts(vec![shop, base]));
    }
}
