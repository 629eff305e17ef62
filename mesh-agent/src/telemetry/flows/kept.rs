//! How a record is kept: what is its own in numbers, what it shares with others once.
//!
//! Thousands of records name a few services, rules and words between them. A [`FlowView`] spells
//! all of it out for each; kept like that they would be most of the agent's memory.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::{FlowView, Word};

/// A record.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    own: Own,
    pub(super) shared: Arc<Shared>,
}

/// What is a record's own. What there is not is a value that cannot be one.
#[derive(Clone, Debug)]
struct Own {
    time_unix_seconds: f64,
    /// NaN for none, as for the next two.
    rtt_seconds: f64,
    connect_seconds: f64,
    duration_seconds: f64,
    /// 0 for none, which no socket has.
    cookie: u64,
    sent_bytes: u64,
    received_bytes: u64,
    retransmits: u64,
    /// 0 for none.
    pid: u32,
    /// The largest number for none, which is no user's.
    uid: u32,
    source: Packed,
    dialled: Packed,
    endpoint: Packed,
    comm: [u8; COMM],
}

/// What many records have in common, and what cannot be told in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shared {
    schema_version: u32,
    pub(super) event: Word,
    id: Option<String>,
    protocol: Word,
    reporter: Word,
    pub(super) source_service: Arc<str>,
    source_identity: Option<Arc<str>>,
    pub(super) destination_service: Arc<str>,
    destination_identity: Option<Arc<str>>,
    destination_version: Arc<str>,
    source_address: Option<Arc<str>>,
    dialled: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    node: Option<Arc<str>>,
    connection_security_policy: Word,
    pub(super) verdict: Word,
    pub(super) reason: Word,
    pub(super) rule: Arc<str>,
    file: Option<Arc<str>>,
    line: Option<u32>,
    hook: Option<Word>,
    response_flags: Word,
    end: Option<Word>,
    ended_by: Option<Word>,
    comm: Option<Arc<str>>,
    cgroup: Option<Arc<str>>,
    detail: Option<Arc<str>>,
}

/// The name of a thread, at most (TASK_COMM_LEN in linux/sched.h).
const COMM: usize = 16;

/// An address and port, IPv4 as IPv4-mapped; all zeros for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Packed {
    address: [u8; 16],
    port: u16,
}

/// What records share, each once.
#[derive(Debug, Default)]
pub(super) struct Pool {
    known: HashSet<Arc<Shared>>,
    /// How many there may be before those that no record needs any more are let go.
    room: usize,
}

impl Pool {
    /// Fewest that are let go of together.
    const LEAST: usize = 64;

    fn share(&mut self, shared: Shared) -> Arc<Shared> {
        if let Some(known) = self.known.get(&shared) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.room.max(Self::LEAST) {
            self.known.retain(|shared| Arc::strong_count(shared) > 1);
            self.known.shrink_to(self.known.len() * 2);
            self.room = self.known.len() * 2;
        }
        let shared = Arc::new(shared);
        self.known.insert(Arc::clone(&shared));
        shared
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

impl Kept {
    /// Keeps all of `flow` but its number.
    pub(super) fn new(flow: FlowView, pool: &mut Pool) -> Self {
        let FlowView {
            schema_version,
            seq: _,
            time_unix_seconds,
            event,
            id,
            protocol,
            reporter,
            source_service,
            source_identity,
            destination_service,
            destination_identity,
            destination_version,
            source_address,
            dialled,
            endpoint,
            node,
            connection_security_policy,
            verdict,
            reason,
            rule,
            file,
            line,
            hook,
            response_flags,
            sent_bytes,
            received_bytes,
            retransmits,
            rtt_seconds,
            connect_seconds,
            duration_seconds,
            end,
            ended_by,
            pid,
            uid,
            comm,
            cgroup,
            detail,
        } = flow;
        let (cookie, id) = pack(id, cookie);
        let (source, source_address) = pack(source_address, Packed::of);
        let (dialled, dialled_text) = pack(Some(dialled), Packed::of);
        let (endpoint, endpoint_text) = pack(endpoint, Packed::of);
        let (comm, comm_text) = pack(comm, padded);
        let own = Own {
            time_unix_seconds,
            rtt_seconds: rtt_seconds.unwrap_or(f64::NAN),
            connect_seconds: connect_seconds.unwrap_or(f64::NAN),
            duration_seconds: duration_seconds.unwrap_or(f64::NAN),
            cookie,
            sent_bytes,
            received_bytes,
            retransmits,
            pid: pid.unwrap_or(0),
            uid: uid.unwrap_or(u32::MAX),
            source,
            dialled,
            endpoint,
            comm,
        };
        let shared = pool.share(Shared {
            schema_version,
            event,
            id,
            protocol,
            reporter,
            source_service,
            source_identity,
            destination_service,
            destination_identity,
            destination_version,
            source_address,
            dialled: dialled_text,
            endpoint: endpoint_text,
            node,
            connection_security_policy,
            verdict,
            reason,
            rule,
            file,
            line,
            hook,
            response_flags,
            end,
            ended_by,
            comm: comm_text,
            cgroup,
            detail,
        });
        Self { own, shared }
    }

    /// When it happened, seconds since 1970.
    pub(super) fn time(&self) -> f64 {
        self.own.time_unix_seconds
    }

    /// The record again, as number `seq`.
    pub(super) fn view(&self, seq: u64) -> FlowView {
        let Self { own, shared } = self;
        let shared = Shared::clone(shared);
        let cookie = (own.cookie != 0).then(|| format!("{:x}", own.cookie));
        FlowView {
            schema_version: shared.schema_version,
            seq,
            time_unix_seconds: own.time_unix_seconds,
            event: shared.event,
            id: cookie.or(shared.id),
            protocol: shared.protocol,
            reporter: shared.reporter,
            source_service: shared.source_service,
            source_identity: shared.source_identity,
            destination_service: shared.destination_service,
            destination_identity: shared.destination_identity,
            destination_version: shared.destination_version,
            source_address: own.source.text().or(shared.source_address),
            dialled: own.dialled.text().or(shared.dialled).unwrap_or_default(),
            endpoint: own.endpoint.text().or(shared.endpoint),
            node: shared.node,
            connection_security_policy: shared.connection_security_policy,
            verdict: shared.verdict,
            reason: shared.reason,
            rule: shared.rule,
            file: shared.file,
            line: shared.line,
            hook: shared.hook,
            response_flags: shared.response_flags,
            sent_bytes: own.sent_bytes,
            received_bytes: own.received_bytes,
            retransmits: own.retransmits,
            rtt_seconds: number(own.rtt_seconds),
            connect_seconds: number(own.connect_seconds),
            duration_seconds: number(own.duration_seconds),
            end: shared.end,
            ended_by: shared.ended_by,
            pid: (own.pid != 0).then_some(own.pid),
            uid: (own.uid != u32::MAX).then_some(own.uid),
            comm: unpadded(&own.comm).or(shared.comm),
            cgroup: shared.cgroup,
            detail: shared.detail,
        }
    }
}

/// The packed form of a text, or the default for it and the text itself if it has none.
fn pack<T: AsRef<str>, P: Default>(
    text: Option<T>,
    packed: impl FnOnce(&str) -> Option<P>,
) -> (P, Option<T>) {
    match text.as_ref().and_then(|text| packed(text.as_ref())) {
        Some(packed) => (packed, None),
        None => (P::default(), text),
    }
}

fn cookie(text: &str) -> Option<u64> {
    let cookie = u64::from_str_radix(text, 16)
        .ok()
        .filter(|cookie| *cookie != 0)?;
    (format!("{cookie:x}") == text).then_some(cookie)
}

fn padded(comm: &str) -> Option<[u8; COMM]> {
    let fits = (1..=COMM).contains(&comm.len()) && !comm.contains('\0');
    let mut padded = [0; COMM];
    padded
        .get_mut(..comm.len())
        .filter(|_| fits)?
        .copy_from_slice(comm.as_bytes());
    Some(padded)
}

fn unpadded(comm: &[u8; COMM]) -> Option<Arc<str>> {
    let text = comm.split(|byte| *byte == 0).next()?;
    let text = std::str::from_utf8(text)
        .ok()
        .filter(|text| !text.is_empty())?;
    Some(text.into())
}

fn number(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}

impl Packed {
    /// `None` for what [`Self::text`] would not spell the same way.
    fn of(text: &str) -> Option<Self> {
        let socket: SocketAddr = text.parse().ok()?;
        let address = match socket.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let packed = Self {
            address: address.octets(),
            port: socket.port(),
        };
        (packed.text().as_deref() == Some(text)).then_some(packed)
    }

    fn text(self) -> Option<Arc<str>> {
        if self == Self::default() {
            return None;
        }
        let address = IpAddr::V6(Ipv6Addr::from(self.address)).to_canonical();
        Some(SocketAddr::new(address, self.port).to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Texts that are in the packed form, that almost are, and others.
    const TEXTS: [&str; 14] = [
        "",
        "10.96.0.10:80",
        "0.0.0.0:0",
        "[::]:0",
        "[fd00::1]:443",
        "[fd00:0::1]:443",
        "[::ffff:10.0.0.1]:80",
        "[fe80::1%3]:80",
        "10.0.0.1",
        "010.0.0.1:80",
        "raw socket",
        "2a",
        "02a",
        "a name that is longer than a thread's",
    ];

    fn text() -> impl Strategy<Value = &'static str> {
        (0..TEXTS.len()).prop_map(|index| TEXTS[index])
    }

    fn maybe<T: std::fmt::Debug>(
        value: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Option<T>> {
        proptest::option::of(value)
    }

    fn seconds() -> impl Strategy<Value = Option<f64>> {
        maybe(0.0..1e9)
    }

    prop_compose! {
        fn view()(
            (id, source, dialled, endpoint, comm, detail) in
                (maybe(text()), maybe(text()), text(), maybe(text()), maybe(text()), maybe(text())),
            (rtt, connect, duration) in (seconds(), seconds(), seconds()),
            (time, sent, received, retransmits) in (0.0..2e9, any::<u64>(), any::<u64>(), any::<u64>()),
            (pid, uid) in (maybe(1u32..), maybe(0..u32::MAX)),
            (event, rule, end) in (text(), text(), maybe(text())),
        ) -> FlowView {
            FlowView {
                time_unix_seconds: time,
                event: event.into(),
                id: id.map(Into::into),
                source_address: source.map(Into::into),
                dialled: dialled.into(),
                endpoint: endpoint.map(Into::into),
                rule: rule.into(),
                sent_bytes: sent,
                received_bytes: received,
                retransmits,
                rtt_seconds: rtt,
                connect_seconds: connect,
                duration_seconds: duration,
                end: end.map(Into::into),
                pid,
                uid,
                comm: comm.map(Into::into),
                detail: detail.map(Into::into),
                ..FlowView::default()
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost(flow in view()) {
            let kept = Kept::new(flow.clone(), &mut Pool::default());
            prop_assert_eq!(kept.view(flow.seq), flow);
        }
    }

    #[test]
    fn a_record_is_small() {
        // Flow logs of agents that see much are full: each byte here is two kilobytes there.
        let bytes = size_of::<Kept>();
        assert!(bytes <= 152, "{bytes}");
    }

    #[test]
    fn what_is_shared_is_kept_once_and_only_while_it_is_needed() {
        let mut pool = Pool::default();
        let flow = |rule: usize, port: usize| FlowView {
            rule: format!("rule-{rule}").into(),
            dialled: format!("10.0.0.1:{port}").into(),
            id: Some(format!("{port:x}")),
            comm: Some(format!("thread-{port}").into()),
            ..FlowView::default()
        };
        let kept: Vec<Kept> = (1..1000)
            .map(|port| Kept::new(flow(port % 3, port), &mut pool))
            .collect();
        assert_eq!((kept.len(), pool.len()), (999, 3));
        drop(kept);
        let mut last = None;
        for rule in 0..10_000 {
            last = Some(Kept::new(flow(rule, 1), &mut pool));
            assert!(pool.len() <= Pool::LEAST, "{}", pool.len());
        }
        assert_eq!(last.map(|kept| kept.view(0).rule), Some("rule-9999".into()));
    }
}
