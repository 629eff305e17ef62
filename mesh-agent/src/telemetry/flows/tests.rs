use super::*;

#[test]
fn a_denial_is_a_flow_that_says_why() {
    let denial = DenialView {
        time_unix_seconds: 7.5,
        verdict: "denied".into(),
        reason: "policy".into(),
        rule: "default".into(),
        file: Some("10-shop.toml".into()),
        line: Some(3),
        source_service: "dev/intruder".into(),
        destination_service: "shop/payments".into(),
        dialled: "10.96.0.10:80".into(),
        protocol: "tcp".into(),
        pid: 7,
        uid: 1000,
        comm: "curl".into(),
        hook: "connect4".into(),
        ..DenialView::default()
    };
    let flow = FlowView::of_denial(&denial);
    assert_eq!((&*flow.event, &*flow.reporter), ("denied", "source"));
    assert_eq!(
        (flow.file.as_deref(), flow.line),
        (Some("10-shop.toml"), Some(3))
    );
    assert_eq!(
        (flow.pid, flow.uid, flow.comm.as_deref()),
        (Some(7), Some(1000), Some("curl"))
    );
    assert_eq!(&*flow.response_flags, "DENY");

    let would = DenialView {
        verdict: "would-deny".into(),
        ..denial.clone()
    };
    let flow = FlowView::of_denial(&would);
    assert_eq!((&*flow.event, &*flow.response_flags), ("would-deny", "-"));

    let packet = DenialView {
        peer: Some("192.0.2.1:5".into()),
        reason: "identity".into(),
        hook: "tunnel".into(),
        ..denial
    };
    let flow = FlowView::of_denial(&packet);
    assert_eq!((&*flow.reporter, flow.uid), ("destination", None));
    assert_eq!(flow.source_address.as_deref(), Some("192.0.2.1:5"));
    assert_eq!(&*flow.connection_security_policy, "mutual_tls");
    assert_eq!(&*flow.response_flags, "IDENTITY_ERROR");
}

#[test]
fn the_form_is_the_documented_one() {
    let flow = serde_json::to_value(FlowView::default()).expect("JSON");
    let fields: Vec<&String> = flow.as_object().expect("an object").keys().collect();
    let documented = include_str!("../../../../docs/flows.md");
    for field in fields {
        let row = format!("| `{field}` |");
        assert!(documented.contains(&row), "{field} is not in docs/flows.md");
    }
}
