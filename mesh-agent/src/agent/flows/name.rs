//! A kernel record in words. Pure but for the paths of cgroups.

use std::sync::Arc;
use std::time::Duration;

use mesh_common::{FlowEnd, FlowEvent, FlowRecord, IPPROTO_UDP, Reason, Verdict, flow_bit};

use super::Naming;
use crate::agent::names::Names;
use crate::agent::{wall_time, words};
use crate::telemetry::ResponseFlags;
use crate::telemetry::flows::{FlowView, SCHEMA_VERSION, Word};
use crate::telemetry::time::unix_seconds;

impl Naming {
    /// The record as people see it.
    pub(super) fn name(&mut self, record: &FlowRecord, names: &Names) -> FlowView {
        let mut flow = FlowView {
            cgroup: (record.cgroup != 0)
                .then(|| self.paths.get(record.cgroup))
                .flatten(),
            ..plain(record)
        };
        // Ids that have started over since mean something else by now.
        let known = record.epoch == names.epoch as u32;
        add_names(&mut flow, record, if known { names } else { Names::none() });
        self.identify(&mut flow);
        flow
    }
}

/// What needs no names.
fn plain(record: &FlowRecord) -> FlowView {
    let inbound = record.protocol & flow_bit::DESTINATION != 0;
    let (end, ended_by) = end(record);
    FlowView {
        schema_version: SCHEMA_VERSION,
        time_unix_seconds: unix_seconds(wall_time(record.time_ns)),
        event: FlowEvent(record.event).name().into(),
        id: Some(format!("{:x}", record.cookie)),
        protocol: protocol(record),
        reporter: if inbound { "destination" } else { "source" }.into(),
        source_address: Some(words::socket_address(&record.local).to_string().into()),
        dialled: words::socket_address(&record.dialled).to_string().into(),
        endpoint: Some(words::socket_address(&record.endpoint).to_string().into()),
        connection_security_policy: security(record),
        verdict: Verdict(record.verdict).name().into(),
        reason: Reason(record.reason).name().into(),
        response_flags: flags(record),
        sent_bytes: record.sent_bytes,
        received_bytes: record.received_bytes,
        retransmits: record.retransmits.into(),
        rtt_seconds: seconds(u64::from(record.srtt_us) * 1000),
        connect_seconds: seconds(record.connect_ns),
        duration_seconds: Some(Duration::from_nanos(record.duration_ns).as_secs_f64()),
        end,
        ended_by,
        // The agent's own sockets call for somebody on another node.
        pid: (!inbound && record.pid != 0).then_some(record.pid),
        uid: (!inbound).then_some(record.uid),
        ..FlowView::default()
    }
}

fn add_names(flow: &mut FlowView, record: &FlowRecord, names: &Names) {
    flow.source_service = names.subject(record.source);
    flow.destination_service = names.service(record.service);
    flow.destination_version = names.version(record.version);
    flow.rule = names.rule(record.rule);
    if let Some(place) = names.place(record.rule) {
        flow.file = Some(Arc::clone(&place.file));
        flow.line = Some(place.line);
    }
    if record.target != 0 {
        // The kernel connected to the agent; where that leads the target says.
        let target = names.target(record.target);
        flow.endpoint = target.map(|target| Arc::clone(&target.endpoint));
        flow.node = target.map(|target| Arc::clone(&target.node));
    }
}

fn protocol(record: &FlowRecord) -> Word {
    if record.protocol & flow_bit::PROTOCOL == u32::from(IPPROTO_UDP) {
        "udp".into()
    } else {
        "tcp".into()
    }
}

fn security(record: &FlowRecord) -> Word {
    if record.protocol & flow_bit::MUTUAL_TLS != 0 {
        "mutual_tls".into()
    } else {
        "none".into()
    }
}

fn seconds(nanoseconds: u64) -> Option<f64> {
    (nanoseconds != 0).then(|| Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// How it ended and who finished first.
fn end(record: &FlowRecord) -> (Option<Word>, Option<Word>) {
    let by = |end: &'static str| (Some("fin".into()), Some(end.into()));
    match FlowEnd(record.end) {
        FlowEnd::None => (None, None),
        FlowEnd::ClientFin => by("client"),
        FlowEnd::ServerFin => by("server"),
        FlowEnd::BothFin => by("both"),
        other => (Some(other.name().into()), None),
    }
}

fn flags(record: &FlowRecord) -> Word {
    match (FlowEvent(record.event), FlowEnd(record.end)) {
        (FlowEvent::Failed, _) => ResponseFlags::Connect.name().into(),
        (_, FlowEnd::Reset) => "RESET".into(),
        _ => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_common::{Address, SocketKey};

    #[test]
    fn a_record_says_what_it_knows_and_no_more() {
        let record = FlowRecord {
            cookie: 0x2a,
            connect_ns: 1_500_000,
            duration_ns: 2_000_000_000,
            srtt_us: 250,
            dialled: SocketKey::new(Address::from_v4([10, 96, 0, 10]), 80, 6),
            event: FlowEvent::Closed.0,
            end: FlowEnd::ServerFin.0,
            protocol: 6,
            pid: 7,
            ..FlowRecord::default()
        };
        let flow = plain(&record);
        assert_eq!((&*flow.event, flow.id.as_deref()), ("close", Some("2a")));
        assert_eq!(
            (flow.end.as_deref(), flow.ended_by.as_deref()),
            (Some("fin"), Some("server"))
        );
        assert_eq!(
            (flow.rtt_seconds, flow.connect_seconds),
            (Some(0.00025), Some(0.0015))
        );
        assert_eq!(
            (&*flow.dialled, &*flow.response_flags),
            ("10.96.0.10:80", "-")
        );
        let failed = FlowRecord {
            event: FlowEvent::Failed.0,
            end: FlowEnd::Refused.0,
            srtt_us: 0,
            connect_ns: 0,
            protocol: 6 | flow_bit::MUTUAL_TLS | flow_bit::DESTINATION,
            ..record
        };
        let flow = plain(&failed);
        assert_eq!((flow.rtt_seconds, flow.connect_seconds), (None, None));
        assert_eq!(
            (flow.end.as_deref(), flow.ended_by.as_deref()),
            (Some("refused"), None)
        );
        assert_eq!(
            (&*flow.response_flags, &*flow.reporter),
            ("CONNECT", "destination")
        );
        assert_eq!((flow.pid, flow.uid), (None, None));
    }
}
