//! Every map, with who writes and who reads it. All are pinned, so they outlive the agent.
//!
//! "Policy" maps hold one inner map per policy slot: the agent writes the slot that is not in
//! force and then flips [`ACTIVE`], so programs never see half a policy. The inner maps declared
//! here are templates; the agent creates the real ones in the size the policy needs.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf,
    SkStorage,
};
use aya_ebpf::macros::btf_map;
use mesh_common::http::{HttpSocket, RequestKey, RequestStats, UnparsedKey};
use mesh_common::http2::{HEAD_RING_BYTES, HeadRecord};
use mesh_common::{
    Active, Address, AffinityKey, AffinityValue, CgroupIdentity, Counter, DecisionKey,
    DenialRecord, Destination, EndpointEntry, FLOW_RING_BYTES, FlowKey, FlowRecord, FlowStats,
    PolicyHeader, PrefixKey, Redirect, RedirectKey, RuleKey, RuleSlots, SLOTS, ScheduleSlot,
    Selector, SocketKey, SocketState, Split, SplitKey, SubjectInfo, Ticket, TicketKey,
    TunnelListener, UdpFlows, global, room,
};

use crate::attribute::Walk;
use crate::http::Work;

const GROW: usize = BPF_F_NO_PREALLOC as usize;
const INNER: usize = BPF_F_INNER_MAP as usize;
const SLOT_COUNT: usize = SLOTS as usize;

pub(crate) type PolicyHash<K, V> = ArrayOfMaps<HashMap<K, V, 1, GROW>, SLOT_COUNT>;
pub(crate) type PolicyArray<V> = ArrayOfMaps<Array<V, 1, INNER>, SLOT_COUNT>;

/// Which slot is in force. Agent writes, all hooks read.
#[btf_map]
pub(crate) static ACTIVE: Array<Active, 1> = Array::new();

/// Summary of each slot. Agent writes, all hooks read.
#[btf_map]
pub(crate) static HEADERS: Array<PolicyHeader, SLOT_COUNT> = Array::new();

/// Policy: what an address and port mean. Agent writes, outbound hooks read.
#[btf_map]
pub(crate) static DESTINATIONS: PolicyHash<SocketKey, Destination> = ArrayOfMaps::new();

/// Policy: rules by caller and frontend. Agent writes, outbound hooks read.
#[btf_map]
pub(crate) static RULES: PolicyHash<RuleKey, RuleSlots> = ArrayOfMaps::new();

/// Policy: namespace and flags of calling services. Agent writes, outbound hooks read.
#[btf_map]
pub(crate) static SUBJECTS: PolicyHash<u32, SubjectInfo> = ArrayOfMaps::new();

/// Policy: services selected by uid. Agent writes, outbound hooks and `sock_create` read.
#[btf_map]
pub(crate) static UIDS: PolicyHash<u32, u32> = ArrayOfMaps::new();

/// Policy: splits by caller and frontend. Agent writes, outbound hooks read.
#[btf_map]
pub(crate) static SPLITS: PolicyHash<SplitKey, Split> = ArrayOfMaps::new();

/// Policy: tables of the splits. Agent writes, outbound hooks read.
#[btf_map]
pub(crate) static SCHEDULE: PolicyArray<ScheduleSlot> = ArrayOfMaps::new();

/// Policy: endpoints the tables point at. Agent writes, outbound hooks read.
#[btf_map]
pub(crate) static ENDPOINTS: PolicyArray<EndpointEntry> = ArrayOfMaps::new();

/// Policy: addresses outside the mesh that callers with `egress = "deny"` may reach.
/// Agent writes, outbound hooks read.
#[btf_map]
pub(crate) static EGRESS: ArrayOfMaps<LpmTrie<PrefixKey, RuleSlots, 1>, SLOT_COUNT> =
    ArrayOfMaps::new();

/// Policy: clients outside the mesh that rules name, by frontend (in place of the subject) and
/// address. Agent writes, `ingress` reads.
#[btf_map]
pub(crate) static SOURCES: ArrayOfMaps<LpmTrie<PrefixKey, RuleSlots, 1>, SLOT_COUNT> =
    ArrayOfMaps::new();

/// Policy: which cgroups are which service. Agent writes, `cgroup_mkdir` reads.
#[btf_map]
pub(crate) static SELECTORS: PolicyArray<Selector> = ArrayOfMaps::new();

/// Addresses of this host's interfaces. Agent writes, outbound hooks read.
#[btf_map]
pub(crate) static LOCAL_ADDRESSES: HashMap<Address, u32, 1024, GROW> = HashMap::new();

/// Identity of every cgroup that exists. `cgroup_mkdir`, `cgroup_rmdir` and the agent (for
/// those older than the programs) write, outbound hooks read.
#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, CgroupIdentity, 16384, GROW> = HashMap::new();

/// What is remembered with a socket. `sock_create`, `connect` and `sock_ops` write and read,
/// `getpeername` and `recvmsg` read.
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketState> = SkStorage::new();

/// Flows of unconnected UDP sockets. `sendmsg` writes and reads, `recvmsg` reads.
#[btf_map]
pub(crate) static UDP_SOCKETS: SkStorage<UdpFlows> = SkStorage::new();

/// Connections between network namespaces that are on their way. `sock_ops` writes, `ingress`
/// reads.
#[btf_map]
pub(crate) static TICKETS: HashMap<TicketKey, Ticket, 4096, GROW> = HashMap::new();

/// Where the agent takes calls to other nodes, by network namespace. Agent writes, outbound hooks
/// and `bind` read.
#[btf_map]
pub(crate) static LISTENERS: HashMap<u64, TunnelListener, 4096, GROW> = HashMap::new();

/// Calls to other nodes, each for as long as its socket lives. `sock_ops` writes, the agent reads.
#[btf_map]
pub(crate) static REDIRECTS: HashMap<RedirectKey, Redirect, 16384, GROW> = HashMap::new();

/// Position of each caller in each split. Outbound hooks write and read.
#[btf_map]
pub(crate) static SPLIT_COUNTERS: HashMap<SplitKey, u64, 4096, GROW> = HashMap::new();

/// Positions shared by frontends, used once [`SPLIT_COUNTERS`] is full. Outbound hooks.
#[btf_map]
pub(crate) static SHARED_SPLIT_COUNTERS: Array<u64, 64> = Array::new();

/// Endpoints kept by affinity. Outbound hooks write and read, the agent removes expired ones.
#[btf_map]
pub(crate) static AFFINITY: HashMap<AffinityKey, AffinityValue, 4096, GROW> = HashMap::new();

/// Flow counters. `sock_ops` and outbound hooks write, the agent reads.
#[btf_map]
pub(crate) static FLOWS: PerCpuHashMap<FlowKey, FlowStats, 4096, GROW> = PerCpuHashMap::new();

/// Decision counters. Outbound hooks write, the agent reads.
#[btf_map]
pub(crate) static DECISIONS: PerCpuHashMap<DecisionKey, [u64; 2], 4096, GROW> =
    PerCpuHashMap::new();

/// How many more series may be made of each kind, see [`room`]. Agent writes, whoever makes one
/// takes from it.
#[btf_map]
pub(crate) static ROOM: Array<u64, { room::KINDS as usize }> = Array::new();

/// Counters of the programs about themselves. All write, the agent reads.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Records of denials. Outbound hooks write, the agent reads.
#[btf_map]
pub(crate) static RECORDS: RingBuf<DenialRecord, 65536> = RingBuf::new();

/// Records of flows. `sock_ops` writes, the agent reads.
#[btf_map]
pub(crate) static FLOW_RECORDS: RingBuf<FlowRecord, FLOW_RING_BYTES> = RingBuf::new();

/// Whether somebody wants a record of every flow's beginning: not 0. Agent writes, `sock_ops`
/// reads.
#[btf_map]
pub(crate) static FLOWS_FOLLOWED: Array<u32, 1> = Array::new();

/// Connections at endpoints that speak HTTP. `sock_ops` makes and ends them, the HTTP programs
/// write and read.
#[btf_map]
pub(crate) static HTTP_SOCKETS: SkStorage<HttpSocket> = SkStorage::new();

/// Who has asked for a connection from another network namespace, until its first request; the
/// oldest is forgotten. `mesh_http_ingress` only.
#[btf_map]
pub(crate) static HTTP_CALLERS: LruHashMap<TicketKey, Ticket, 1024> = LruHashMap::new();

/// Counters of requests. The HTTP programs and `sock_ops` write, the agent reads.
#[btf_map]
pub(crate) static REQUESTS: PerCpuHashMap<RequestKey, RequestStats, 4096, GROW> =
    PerCpuHashMap::new();

/// Counters of connections whose requests could not be followed. The same.
#[btf_map]
pub(crate) static UNPARSED: PerCpuHashMap<UnparsedKey, u64, 4096, GROW> = PerCpuHashMap::new();

/// What matters of HTTP/2 connections. The HTTP programs and `sock_ops` write, the agent reads.
#[btf_map]
pub(crate) static HTTP_HEADS: RingBuf<HeadRecord, HEAD_RING_BYTES> = RingBuf::new();

/// Room to read packets: one may interrupt another on the same CPU. The HTTP programs only.
#[btf_map]
pub(crate) static HTTP_WORK: PerCpuArray<Work, { Work::COUNT as usize }> = PerCpuArray::new();

/// Room to match a cgroup's path. `cgroup_mkdir` only.
#[btf_map]
pub(crate) static WALK: PerCpuArray<Walk, 1> = PerCpuArray::new();

/// See [`global::NETNS_COOKIE`].
#[unsafe(no_mangle)]
pub(crate) static NETNS_COOKIE: Global<u64> = Global::new(0);

/// See [`global::ROOT_LENGTH`].
#[unsafe(no_mangle)]
pub(crate) static ROOT_LENGTH: Global<u32> = Global::new(0);

/// See [`global::ROOT`].
#[unsafe(no_mangle)]
pub(crate) static ROOT: Global<[u8; global::ROOT_MAX]> = Global::new([0; global::ROOT_MAX]);

/// The policy in force, looked up once per call so that a call sees one policy throughout.
pub(crate) struct InForce {
    /// Its slot.
    pub(crate) slot: u32,
    /// Its summary.
    pub(crate) header: PolicyHeader,
}

impl InForce {
    /// The policy in force; `None` before the first one.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        let slot = ACTIVE.get(0)?.slot_plus_one.checked_sub(1)?;
        Some(Self {
            slot,
            header: *HEADERS.get(slot)?,
        })
    }

    /// Looks `key` up in the policy's copy of `map`.
    #[inline(always)]
    pub(crate) fn get<K, V: Copy>(&self, map: &PolicyHash<K, V>, key: &K) -> Option<V> {
        let value = map.get_value_ptr_mut(self.slot, key)?;
        // SAFETY: the value stays valid while the program runs (RCU), and the agent does not
        // write the slot in force; copied at once.
        Some(unsafe { *value })
    }

    /// Reads element `index` of the policy's copy of `map`.
    #[inline(always)]
    pub(crate) fn at<V: Copy>(&self, map: &PolicyArray<V>, index: u32) -> Option<V> {
        map.get_value(self.slot, &index).copied()
    }
}
