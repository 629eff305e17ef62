//! Mistakes in splits and rules.

use super::check;

#[test]
fn splits() {
    let split = |rest: &str| format!("[[split]]\nservice = \"shop/payments\"\n{rest}\n");
    for (code, text) in [
        (
            "unknown-service",
            "[[split]]\nservice = ¦\"shop/paymets\"\nweights = { v1 = 1, v2 = 1 }\n".to_owned(),
        ),
        (
            "invalid-reference",
            "[[split]]\nservice = ¦\"payments\"\nweights = { v1 = 1, v2 = 1 }\n".to_owned(),
        ),
        (
            "invalid-reference",
            "[[split]]\nservice = ¦\"shop/*\"\nweights = { v1 = 1, v2 = 1 }\n".to_owned(),
        ),
        ("missing-field", format!("¦{}", split(""))),
        ("wrong-type", split("weights = ¦[1, 2]")),
        (
            "unknown-version",
            split("weights = { v1 = 1, v2 = 1, ¦v22 = 1 }"),
        ),
        ("unweighted-version", split("weights = ¦{ v1 = 1 }")),
        ("zero-weights", split("weights = ¦{ v1 = 0, v2 = 0 }")),
        (
            "weights-too-large",
            split("weights = ¦{ v1 = 9_999, v2 = 2 }"),
        ),
        ("invalid-weight", split("weights = { v1 = ¦-1, v2 = 1 }")),
        (
            "invalid-name",
            split("weights = { v1 = 1, v2 = 1, ¦V3 = 1 }"),
        ),
        (
            "never-matches",
            split("from = ¦[]\nweights = { v1 = 1, v2 = 1 }"),
        ),
        (
            "invalid-source",
            split("from = [¦\"*\"]\nweights = { v1 = 1, v2 = 1 }"),
        ),
        (
            "invalid-source",
            split("from = [¦{ cidr = \"10.0.0.0/8\" }]\nweights = { v1 = 1, v2 = 1 }"),
        ),
        (
            "duplicate-split",
            split("weights = { v1 = 1, v2 = 1 }")
                + &split("weights = { v1 = 1, v2 = 1 }").replace("\"shop", "¦\"shop"),
        ),
        (
            "duplicate-split",
            split("from = [\"host\"]\nweights = { v1 = 1, v2 = 1 }")
                + &split("from = [\"shop/*\", ¦\"host\"]\nweights = { v1 = 1, v2 = 1 }"),
        ),
    ] {
        check(code, &text);
    }
    assert!(
        check(
            "weights-too-large",
            &split("weights = ¦{ v1 = 99_999, v2 = 1 }")
        )
        .help
        .is_some_and(|help| help.contains("{ v1 = 1000, v2 = 1 }"))
    );
}

#[test]
fn rules() {
    let to_payments =
        |from: &str| format!("[[allow]]\nname = \"r\"\nfrom = {from}\nto = [\"shop/payments\"]\n");
    let to = |to: &str| format!("[[deny]]\nname = \"r\"\nfrom = [\"*\"]\nto = {to}\n");
    for (code, text) in [
        ("unknown-service", to_payments("[¦\"shop/chekout\"]")),
        ("unknown-namespace", to_payments("[¦\"shpo/*\"]")),
        ("unknown-namespace", to_payments("[¦\"later/*\"]")),
        ("unknown-namespace", to("[¦\"later/*\"]")),
        ("invalid-reference", to_payments("[¦\"checkout\"]")),
        ("invalid-reference", to_payments("[¦\"shop\"]")),
        ("invalid-name", to_payments("[¦\"shop/Checkout\"]")),
        (
            "invalid-source",
            to_payments("[¦{ cidr = \"10.0.0.0/8\", node = \"edge-1\" }]"),
        ),
        ("unknown-node", to_payments("[{ node = ¦\"edge-7\" }]")),
        ("invalid-cidr", to_payments("[{ cidr = ¦\"10.0.0.1/8\" }]")),
        ("wrong-type", to_payments("¦\"shop/checkout\"")),
        ("wrong-type", to_payments("[¦1]")),
        ("never-matches", to_payments("¦[]")),
        ("repeated-item", to_payments("[\"host\", ¦\"host\"]")),
        ("never-matches", to("¦[]")),
        ("invalid-target", to("[¦\"*\"]")),
        ("invalid-target", to("[¦\"host\"]")),
        ("never-matches", to("[¦\"shop/checkout\"]")),
        ("never-matches", to("[¦{ cidr = \"10.0.0.0/8\" }]")),
        (
            "unknown-port",
            to("[\"shop/payments\"]\nports = [¦\"htpt\"]"),
        ),
        (
            "unknown-port",
            to("[\"shop/payments\"]\nports = [80, ¦8081]"),
        ),
        ("wrong-type", to("[\"shop/payments\"]\nports = [¦\"80\"]")),
        ("invalid-port", to("[\"shop/payments\"]\nports = [¦0]")),
        (
            "unknown-value",
            to("[\"shop/payments\"]\nmode = ¦\"dry-run\""),
        ),
        (
            "missing-field",
            "¦[[allow]]\nfrom = [\"*\"]\nto = [\"shop/payments\"]\n".to_owned(),
        ),
        (
            "missing-field",
            "¦[[allow]]\nname = \"r\"\nto = [\"shop/payments\"]\n".to_owned(),
        ),
        (
            "duplicate-rule",
            to("[\"shop/payments\"]") + &to("[\"shop/*\"]").replace("\"r\"", "¦\"r\""),
        ),
    ] {
        check(code, &text);
    }
}

#[test]
fn rules_about_the_outside() {
    let caller = "[[service]]\nname = \"a\"\nworkload = { uid = 7 }\negress = \"deny\"\n";
    let rule = "[[allow]]\nname = \"r\"\nfrom = [\"default/a\"]\n";
    check(
        "port-name-outside",
        &format!("{caller}{rule}to = [{{ cidr = \"192.0.2.0/24\" }}]\nports = [¦\"http\"]\n"),
    );
    let inside_out = "[[allow]]\nname = \"r\"\nfrom = [\"default/a\", ¦{ cidr = \"10.0.0.0/8\" }]\nto = [{ cidr = \"192.0.2.0/24\" }]\n";
    check("never-matches", &format!("{caller}{inside_out}"));
    check(
        "unknown-field",
        &format!("{caller}{rule}to = [{{ cidr = \"192.0.2.0/24\", ¦port = 3 }}]\n"),
    );
}
