//! Mistakes in selectors.

use super::{alone, check};
use crate::policy::parse::tests::parsed;

#[test]
fn workloads() {
    for (code, workload) in [
        ("invalid-workload", "¦{ systemd = \"a.service\", uid = 7 }"),
        ("invalid-workload", "¦{}"),
        ("unknown-field", "{ uid = 7, ¦sytemd = 1 }"),
        ("wrong-type", "¦\"a.service\""),
        ("invalid-unit", "{ systemd = ¦\"a\" }"),
        ("invalid-unit", "{ systemd = ¦\"a-*\" }"),
        ("invalid-unit", "{ systemd = ¦\"a.timer\" }"),
        ("invalid-unit", "{ systemd = ¦\".service\" }"),
        ("invalid-unit", "{ systemd = ¦\"a@.service\" }"),
        ("invalid-unit", "{ systemd = ¦\"a[12].service\" }"),
        ("invalid-unit", "{ systemd = ¦\"system.slice/a.service\" }"),
        ("invalid-unit", "{ systemd = ¦\"shop-*.slice\" }"),
        ("invalid-unit", "{ systemd = ¦\"-.slice\" }"),
        ("invalid-unit", "{ systemd = ¦\"a--b.slice\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"a/b\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a//b\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a/\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a/../b\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/sys/fs/cgroup/a.slice\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a/**\" }"),
        ("invalid-cgroup", "{ cgroup = ¦\"/a/[b]\" }"),
        ("invalid-uid", "{ uid = ¦4294967295 }"),
        ("invalid-uid", "{ uid = ¦-1 }"),
        ("wrong-type", "{ uid = ¦\"www-data\" }"),
        ("uid-root", "{ uid = ¦0 }"),
    ] {
        check(
            code,
            &format!("[[service]]\nname = \"a\"\nworkload = {workload}\n"),
        );
    }
    let long = "a".repeat(180);
    check(
        "selector-too-long",
        &format!("[[service]]\nname = \"a\"\nworkload = {{ systemd = ¦\"{long}.service\" }}\n"),
    );
    check(
        "selector-too-long",
        &format!("[[service]]\nname = \"a\"\nworkload = {{ cgroup = ¦\"/{long}/bcdef\" }}\n"),
    );
}

#[test]
fn contending_workloads() {
    for (code, first, second) in [
        ("same-workload", "{ uid = 7 }", "¦{ uid = 7 }"),
        (
            "same-workload",
            "{ systemd = \"a.service\" }",
            "¦{ systemd = \"a.service\" }",
        ),
        (
            "same-workload",
            "{ cgroup = \"/a/b\" }",
            "¦{ cgroup = \"/a/b\" }",
        ),
        (
            "same-workload",
            "{ systemd = \"a.service\" }",
            "¦{ cgroup = \"/system.slice/a.service\" }",
        ),
        (
            "same-workload",
            "{ systemd = \"a-b.slice\" }",
            "¦{ cgroup = \"/a.slice/a-b.slice\" }",
        ),
        (
            "overlapping-workloads",
            "{ systemd = \"a-*.service\" }",
            "¦{ systemd = \"*-b.service\" }",
        ),
        (
            "overlapping-workloads",
            "{ systemd = \"a-*.service\" }",
            "¦{ systemd = \"a-*.service\" }",
        ),
        (
            "overlapping-workloads",
            "{ cgroup = \"/m/a-*\" }",
            "¦{ cgroup = \"/m/a-?\" }",
        ),
    ] {
        let one = |name: &str, workload: &str| {
            format!("[[service]]\nname = \"{name}\"\nworkload = {workload}\n")
        };
        let both = alone(code, &(one("a", first) + &one("b", second)));
        assert_eq!(both.labels.len(), 2);
    }
}

#[test]
fn workloads_that_do_not_contend() {
    for (first, second) in [
        (
            "{ systemd = \"a-1.service\" }",
            "{ systemd = \"a-*.service\" }",
        ),
        (
            "{ systemd = \"a-*.service\" }",
            "{ systemd = \"b-*.service\" }",
        ),
        (
            "{ systemd = \"a-*.service\" }",
            "{ systemd = \"a-*.scope\" }",
        ),
        ("{ cgroup = \"/a/*\" }", "{ cgroup = \"/a/*/*\" }"),
        ("{ cgroup = \"/a\" }", "{ cgroup = \"/a/b\" }"),
        ("{ uid = 7 }", "{ uid = 8 }"),
    ] {
        let one = |name: &str, workload: &str| {
            format!("[[service]]\nname = \"{name}\"\nworkload = {workload}\n")
        };
        let text = one("a", first) + &one("b", second);
        assert_eq!(
            parsed(&[("a.toml", &text)]).diagnostics,
            [],
            "{first} {second}"
        );
    }
}
