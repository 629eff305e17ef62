//! Renderings, as people see them.

use super::{Diagnostic, Label};
use crate::policy::model::Place;
use crate::policy::parse::{LocalNode, parse};
use crate::policy::source::SourceSet;

/// What the files' problems look like, one after the other.
fn rendered(files: &[(&str, &str)]) -> String {
    let local = LocalNode {
        name: "edge-1".into(),
        address: None,
        trust_domain: "mesh.local".into(),
    };
    let parsed = parse(&SourceSet::from_texts(files.iter().copied()), &local);
    parsed.diagnostics.iter().map(|d| d.render(false)).collect()
}

const CHECKOUT: &str = "[[service]]\nname = \"checkout\"\nnamespace = \"shop\"\nworkload = { systemd = \"checkout.service\" }\n";

#[test]
fn one_place() {
    let rule = "[[split]]\nservice = \"shop/chekout\"\nweights = { v1 = 1 }\n";
    assert_eq!(
        rendered(&[("10-shop.toml", CHECKOUT), ("20-splits.toml", rule)]),
        r#"error[unknown-service]: no service `shop/chekout`
 --> 20-splits.toml:2:11
  |
2 | service = "shop/chekout"
  |           ^^^^^^^^^^^^^^ not declared in any file
  |
  = help: did you mean `shop/checkout`?
"#
    );
}

#[test]
fn two_files() {
    let padded = format!("{}{CHECKOUT}", "# shop\n".repeat(9));
    assert_eq!(
        rendered(&[("10-shop.toml", CHECKOUT), ("20-shop.toml", &padded)]),
        r#"error[duplicate-service]: the service `shop/checkout` is declared twice
  --> 20-shop.toml:11:8
   |
11 | name = "checkout"
   |        ^^^^^^^^^^ declared again here
   |
  ::: 10-shop.toml:2:8
   |
 2 | name = "checkout"
   |        ---------- declared here
   |
   = help: remove one of the two, or give it another name
"#
    );
}

#[test]
fn tabs_and_wide_characters_keep_the_caret_in_place() {
    assert_eq!(
        rendered(&[(
            "a.toml",
            "[mesh]\n\tdefault\t=\t\"h\u{e4}\u{6f22}\u{1f600}\" # \u{6f22}\n"
        )]),
        "error[unknown-value]: unknown value `h\u{e4}\u{6f22}\u{1f600}`
 --> a.toml:2:12
  |
2 |     default    =    \"h\u{e4}\u{6f22}\u{1f600}\" # \u{6f22}
  |                     ^^^^^^^^ expected `deny`, `allow`
  |
  = help: possible values: `deny`, `allow`
"
    );
}

#[test]
fn what_a_terminal_would_act_on_is_not_shown() {
    let shown = rendered(&[("a.toml", "[mesh]\ndefault = \"\\u001b[2J\u{202e}\"\n")]);
    assert!(
        !shown.contains('\u{1b}') && !shown.contains('\u{202e}'),
        "{shown}"
    );
    assert!(shown.contains("\u{fffd}[2J\u{fffd}"), "{shown}");
}

#[test]
fn long_lines_are_cut_around_the_place() {
    let list = "\"host\", ".repeat(3000);
    let text = format!(
        "{CHECKOUT}[[allow]]\nname = \"r\"\nto = [\"shop/checkout\"]\nfrom = [{list}\"nobody\", {list}]\n"
    );
    let shown = rendered(&[("a.toml", &text)]);
    let line = shown
        .lines()
        .find(|line| line.contains("\"nobody\""))
        .expect("the line");
    assert!(line.chars().count() < 300, "{line}");
    assert!(line.contains("| ...") && line.ends_with("..."), "{line}");
}

#[test]
fn places_without_text() {
    let warning = Diagnostic::warning("some-code", "something is odd").help("look at it");
    assert_eq!(
        warning.render(false),
        "warning[some-code]: something is odd\n  = help: look at it\n"
    );
    let error = Diagnostic::error("unreadable", "no").label(Label::on_file("a.toml", "not read"));
    assert_eq!(
        error.render(false),
        "error[unreadable]: no\n --> a.toml: not read\n"
    );
    assert_eq!(error.to_string(), "error[unreadable]: a.toml: no");
}

#[test]
fn places_of_the_model_are_quoted() {
    let place = Place {
        file: "a.toml".into(),
        line: 2,
        column: 3,
    };
    let error = Diagnostic::error("c", "m").label(Label::at(&place, "here"));
    let shown = error
        .quoted(|_| Some("[mesh]\n\u{e4}\u{e4}x = 1\n"))
        .render(false);
    assert_eq!(
        shown,
        "error[c]: m\n --> a.toml:2:3\n  |\n2 | \u{e4}\u{e4}x = 1\n  |   ^ here\n  |\n"
    );
}

#[test]
fn colours_are_added_on_request_only() {
    let error = Diagnostic::error("c", "m").help("h");
    assert!(error.render(true).contains("\u{1b}[1;31merror[c]"));
    assert!(!error.render(false).contains('\u{1b}'));
}

#[test]
fn json_is_stable() {
    let error = Diagnostic::error("c", "m")
        .label(Label::on_file("f", "t"))
        .help("h");
    let json = serde_json::to_string(&error).expect("JSON");
    assert_eq!(
        json,
        r#"{"severity":"error","code":"c","message":"m","labels":[{"file":"f","line":0,"column":0,"text":"t"}],"help":"h"}"#
    );
}
