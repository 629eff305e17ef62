//! The table, whole, and the exit codes.

use super::*;
use crate::telemetry::status::{
    HealthView, LossView, RejectedView, RepairView, SandboxView, UseView,
};
use crate::telemetry::tunnel::PoolView;

const NOW: f64 = 1_795_253_400.0;

fn healthy() -> Status {
    Status {
        schema_version: SCHEMA_VERSION,
        version: "0.1.0".into(),
        node: "edge-1".into(),
        trust_domain: "mesh.local".into(),
        pid: 812,
        uptime_seconds: 273_600,
        cgroup_root: "/sys/fs/cgroup".into(),
        programs: vec![program("connect4", true), program("sendmsg4", true)],
        policy: Some(PolicyView {
            revision: 7,
            digest: "0123abcd".into(),
            files: vec!["10-shop.toml".into(), "20-dev.toml".into()],
            services: 2,
            rules: 3,
            splits: 1,
            default: "deny".into(),
            applied_unix_seconds: NOW - 725.0,
            apply_seconds: 0.0031,
        }),
        memory: MemoryView {
            agent_bytes: 6_400_000,
            maps_bytes: 700_000,
            usher_bytes: 106_496,
            limit_bytes: Some(32 << 20),
            heap_bytes: Some(1_500_000),
            uses: vec![
                UseView {
                    r#use: "policy".into(),
                    bytes: 200_000,
                },
                UseView {
                    r#use: "state".into(),
                    bytes: 500_000,
                },
            ],
            policy_bytes: 300_000,
            policy_limit_bytes: 9 << 20,
            ..MemoryView::default()
        },
        health: HealthView {
            canary: CanaryState::Refused,
            ..HealthView::default()
        },
        sandbox: Some(SandboxView {
            capabilities: vec!["CAP_BPF".into(), "CAP_NET_ADMIN".into()],
            system_calls: true,
            landlock: Some(6),
        }),
        ..Status::default()
    }
}

fn program(hook: &str, effective: bool) -> ProgramView {
    ProgramView {
        hook: hook.into(),
        program: hook.into(),
        effective,
    }
}

fn rendered(status: Status) -> String {
    render(&status.into(), NOW, Style::Plain)
}

#[test]
fn a_healthy_agent_is_said_in_one_line() {
    assert_eq!(
        rendered(healthy()),
        "\
OK: policy enforced by 2 programs

node      edge-1 (trust domain mesh.local)
agent     0.1.0, pid 812, up 3d 4h
cgroup    /sys/fs/cgroup
policy    revision 7, default deny, services 2, rules 3, splits 1
applied   2026-11-21T09:17:55Z (12m 5s ago), took 3.1 ms, digest 0123abcd
files     10-shop.toml 20-dev.toml
memory    agent 6.1 MiB (heap 1.4 MiB), usher 104 KiB, BPF maps 683 KiB (policy 195 KiB, state 488 KiB), limit 32.0 MiB; 292 KiB of 9.0 MiB set aside for the policy
canary    refused, as it must be
confined  CAP_BPF CAP_NET_ADMIN; system calls filtered; files by Landlock 6

programs
  HOOK      PROGRAM   STATE
  connect4  connect4  effective
  sendmsg4  sendmsg4  effective
"
    );
}

#[test]
fn what_is_wrong_comes_first() {
    let denial = DenialView {
        time_unix_seconds: NOW - 3.0,
        verdict: "denied".into(),
        reason: "policy".into(),
        rule: "no-dev-in-prod".into(),
        file: Some("20-dev.toml".into()),
        line: Some(14),
        source_service: "dev/shell".into(),
        destination_service: "shop/payments".into(),
        dialled: "10.96.0.10:80".into(),
        protocol: "tcp".into(),
        pid: 4242,
        uid: 1000,
        comm: "curl\x1b[2J".into(),
        hook: "connect4".into(),
        count: 17,
        ..DenialView::default()
    };
    let internal = DenialView {
        reason: "unknown-caller".into(),
        rule: "-".into(),
        file: None,
        line: None,
        destination_service: "-".into(),
        ..denial.clone()
    };
    let status = Status {
        health: HealthView {
            canary: CanaryState::Refused,
            repairs: 1,
            last_repair: Some(RepairView {
                unix_seconds: NOW - 90.0,
                what: "the pin of map RULES".into(),
            }),
            ..HealthView::default()
        },
        programs: vec![program("connect4", false)],
        rejected: Some(RejectedView {
            rejected_unix_seconds: NOW - 60.0,
            diagnostics: "10-shop.toml:4:1: unknown field `wieght`\n  help: did you mean `weight`?"
                .into(),
        }),
        maps: vec![MapView {
            map: "FLOWS".into(),
            entries: 4096,
            capacity: 4096,
            memory_bytes: 65_536,
            evicts: false,
        }],
        losses: LossView {
            denials: 20,
            records_lost: 2,
            ..LossView::default()
        },
        denials: vec![denial, internal],
        policy: None,
        ..healthy()
    };
    assert_eq!(
        rendered(status),
        "\
NOT ENFORCING: no policy has been applied
NOT ENFORCING: connect4 has no effective program
policy set rejected: 10-shop.toml:4:1: unknown field `wieght`
BPF map FLOWS is full: 4096 of 4096

rejected 2026-11-21T09:29:00Z:
  10-shop.toml:4:1: unknown field `wieght`
    help: did you mean `weight`?

node      edge-1 (trust domain mesh.local)
agent     0.1.0, pid 812, up 3d 4h
cgroup    /sys/fs/cgroup
memory    agent 6.1 MiB (heap 1.4 MiB), usher 104 KiB, BPF maps 683 KiB (policy 195 KiB, state 488 KiB), limit 32.0 MiB; 292 KiB of 9.0 MiB set aside for the policy
canary    refused, as it must be; 1m 30s ago put back: the pin of map RULES
confined  CAP_BPF CAP_NET_ADMIN; system calls filtered; files by Landlock 6

programs
  HOOK      PROGRAM   STATE
  connect4  connect4  NOT EFFECTIVE

BPF maps
  MAP    ENTRIES       FILL  MEMORY
  FLOWS  4096 of 4096  100%  64 KiB

lost or given up since the maps were made
  2  denial records lost (buffer full)

latest denials
  LAST    TIMES  VERDICT  FROM       TO                                 BECAUSE                        PROCESS
  3s ago  17     denied   dev/shell  shop/payments (10.96.0.10:80/tcp)  no-dev-in-prod 20-dev.toml:14  curl\\u{1b}[2J[4242] uid 1000
  3s ago  17     denied   dev/shell  10.96.0.10:80/tcp                  unknown-caller                 curl\\u{1b}[2J[4242] uid 1000
"
    );
}

#[test]
fn other_nodes_and_certificates_are_told() {
    let certificate = |name: &str, left: f64| CertificateView {
        kind: "own".into(),
        name: name.into(),
        not_after_unix_seconds: NOW + left,
    };
    let status = Status {
        tunnel: TunnelView {
            outbound_flows: 3,
            pool: PoolView {
                hits: 90,
                misses: 10,
                idle: 6,
                ..PoolView::default()
            },
            certificates: vec![
                certificate("shop/cart", 86_400.0 * 30.0),
                certificate("shop/old", -1.0),
            ],
            ..TunnelView::default()
        },
        ..healthy()
    };
    let text = rendered(status);
    for expected in [
        "flows 3 out, 0 in; 90 of 100 calls found a connection ready, 6 are",
        "own   shop/cart  in 30d",
        "own   shop/old   ENDED",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn flows_that_were_cut_and_those_that_are_left_are_told() {
    let late = DenialView {
        time_unix_seconds: NOW - 3.0,
        verdict: "denied".into(),
        reason: "late-denial".into(),
        rule: "no-dev-in-prod".into(),
        file: Some("20-dev.toml".into()),
        line: Some(14),
        source_service: "dev/shell".into(),
        destination_service: "shop/payments".into(),
        dialled: "10.96.0.10:80".into(),
        protocol: "tcp".into(),
        uid: 1000,
        cgroup: Some("/user.slice/dev.scope".into()),
        hook: "sweep".into(),
        count: 17,
        ..DenialView::default()
    };
    let status = Status {
        denials: vec![late],
        live: LiveView {
            supported: Some(true),
            leaving: vec![LeavingView {
                service: "shop/payments".into(),
                version: "v2".into(),
                remaining: 3,
                closed: 4,
            }],
            ..LiveView::default()
        },
        ..healthy()
    };
    let text = rendered(status);
    for expected in [
        "OK: policy enforced by 2 programs\n",
        "  SERVICE        VERSION  LEFT  CLOSED\n  shop/payments  v2       3     4\n",
        "no-dev-in-prod 20-dev.toml:14 (late)  /user.slice/dev.scope uid 1000\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
}

#[test]
fn colours_are_for_the_headline() {
    let text = render(&healthy().into(), NOW, Style::Coloured);
    assert!(text.starts_with("\x1b[32mOK: "), "{text}");
}

#[test]
fn nobody_there_is_exit_code_4() {
    let directory = tempfile::tempdir().expect("directory");
    assert_eq!(run(directory.path(), &Args::default()), UNREACHABLE);
}
